"""One run of a sweep, in a process of its own: `python -m workbench.report.worker JOB`, a JSON object.

It ends with whoever started it: a driver that is killed leaves no worker behind.
"""

import json
import os
import signal
import sys
import threading
import time

from .run import run


def main() -> int:
    job = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # write the page, then leave
    threading.Thread(target=follow, args=(job["parent"],), daemon=True).start()
    try:
        done = run(
            job["notebook"], job["parameters"], job["out"], code=job["code"], limit=job["limit"], assets=job["assets"],
            progress=False, index=False,
        )  # fmt: skip
    except Exception as error:  # told in one line, which the driver shows
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        return 2
    return 0 if done.ok else 1


def follow(parent: int) -> None:
    """Stop this run once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
