"""Train a tiny subject again: `python -m workbench.testbeds.train NAME [--seed N]`."""

import argparse
import logging
import sys

from .core import Quality
from .subjects import make, subject_names

log = logging.getLogger("workbench")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workbench.testbeds.train", description=__doc__)
    parser.add_argument("name", choices=subject_names())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="autocast: faster where the processor has AVX512-BF16")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        card = make(given.name, given.seed, bfloat16=given.bfloat16)
    except ValueError as error:
        log.error("%s", error)
        return 1
    for row in card["quality"]:
        q = Quality(**row)
        log.info("%s %.4f [%.4f, %.4f], goal %g, chance %.4g, n %d", q.metric, *q[1:4], q.goal, q.chance, q.n)
    log.info("%.1f MB, %d CPU seconds", card["bytes"] / 1e6, card["cpu_seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
