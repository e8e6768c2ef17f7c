"""The command line, `workbench COMMAND`. A mistake is one line and exit code 2; a failed run is 1."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="workbench", description="Open a language model: harvest, train, read, report."
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    commands = parser.add_subparsers(dest="command")
    report = commands.add_parser("report", help="run a notebook to one self-contained page")
    report.add_argument("notebook")
    report.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="a parameter")
    report.add_argument("--out", default="reports", help="folder for pages and index (reports)")
    report.add_argument("--code", action="store_true", help="show the code in the page")
    report.add_argument("--timeout", type=float, help="seconds for the slowest cell")
    sweep = commands.add_parser("sweep", help="run a notebook with many parameters, from a YAML plan")
    sweep.add_argument("plan")
    sweep.add_argument("--out", help="folder for pages, table and comparison (sweeps/<the plan's name>)")
    sweep.add_argument("--resume", action="store_true", help="make only what is missing, failed or of changed code")
    sweep.add_argument("--jobs", type=int, help="runs at a time (the plan's, else the number of GPUs, else 1)")
    sweep.add_argument("--timeout", type=float, help="seconds for a run (the plan's, else none)")
    sweep.add_argument("--assets", action="store_true", help="one copy of plotly beside the pages, not in each")
    sweep.add_argument("--code", action="store_true", help="show the code in the pages")
    sweep.add_argument(
        "--against", help="the folder of an earlier sweep: leave with 1 if a limit of the plan is passed"
    )
    doctor = commands.add_parser("doctor", help="look at this machine, the cache, and draw one figure")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.add_argument(
        "--workshop",
        nargs="?",
        const="",
        metavar="PACK",
        help="is this laptop fit for the workshop? (its pack's folder)",
    )
    pack = commands.add_parser("pack", help="make one folder that installs the workshop without a network")
    pack.add_argument("--out", required=True, help="folder to make, or to mend")
    pack.add_argument("--platforms", nargs="+", default=["linux", "macos", "windows"], metavar="NAME")
    pack.add_argument("--python", nargs="+", default=[], metavar="3.12", help="versions in the room (this one's)")
    pack.add_argument("--lessons", nargs="+", type=int, default=[], metavar="N", help="numbers of lessons (all)")
    pack.add_argument("--masters", default="notebooks/workshop", help="folder of the solved lessons")
    pack.add_argument("--instructor", action="store_true", help="with notes for who teaches and the solved lessons")
    pack.add_argument(
        "--torch-index", metavar="URL", help="where torch for Linux is (PyTorch's CPU builds); none: pip's"
    )
    fetch = commands.add_parser("fetch", help="bring a named model into the cache")
    fetch.add_argument("name")
    fetch.add_argument("--accept-terms", action="store_true", help="accept the model's own terms of use")
    transcoders = commands.add_parser("transcoders", help="train a transcoder for every layer, into the cache")
    transcoders.add_argument("name")
    workshop = commands.add_parser("workshop", help="make the student notebooks, notes and hand-outs of the workshop")
    workshop.add_argument("action", choices=["build"])
    workshop.add_argument("--masters", default="notebooks/workshop", help="folder of the solved lessons")
    workshop.add_argument("--out", default="workshop", help="folder for what the room gets (workshop)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("papermill").setLevel(logging.WARNING)
    if given.version:
        from .lineage import versions

        print(f"workbench {versions()['interp-workbench']}")
        return 0
    if given.command is None:
        parser.print_help()
        return 2
    try:
        runs = {
            "report": run_report,
            "sweep": run_sweep,
            "doctor": run_doctor,
            "fetch": run_fetch,
            "transcoders": run_transcoders,
            "workshop": run_workshop,
            "pack": run_pack,
        }
        return runs[given.command](given)
    except (ValueError, TypeError, OSError) as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2


def run_report(given: argparse.Namespace) -> int:
    from . import report

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop leaves the page too, and no kernel
    parameters = {key: literal(value) for key, value in given.p}
    done = report.run(given.notebook, parameters, given.out, code=given.code, timeout=given.timeout)
    print(f"{done.html} ({done.seconds:.0f} s); all reports: {done.html.parent / 'index.html'}")
    if done.error:
        print(f"workbench: {given.notebook} failed, {done.error}", file=sys.stderr)
    return 0 if done.ok else 1


def run_sweep(given: argparse.Namespace) -> int:
    from .report import sweep

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    todo = sweep.plan(given.plan)
    out = given.out or f"sweeps/{Path(given.plan).stem}"
    how = {name: getattr(given, name) for name in ("resume", "jobs", "timeout", "assets", "code", "against")}
    done = sweep.sweep(todo, out, say=lambda line: print(line, file=sys.stderr), **how)
    for line in done.behind:
        print(f"behind: {line}", file=sys.stderr)
    whole = sum(row["status"] == "complete" for row in done.rows)
    print(f"{whole} of {len(done.rows)} complete: {done.folder / 'index.html'}")
    return 0 if done.ok else 1


def run_doctor(given: argparse.Namespace) -> int:
    if given.workshop is not None:
        return run_laptop(given)
    from .doctor import examine, tell

    found = examine()
    print(json.dumps(found, indent=1) if given.json else tell(found))
    return 0 if not found["problems"] else 1


def run_laptop(given: argparse.Namespace) -> int:
    try:
        from .workshop.laptop import examine, tell

        found = examine(given.workshop or None)
    except ImportError as error:
        print(f"PROBLEM packages   {error}: delete venv and run install.py again")
        return 1
    print(json.dumps(found, indent=1) if given.json else tell(found))
    return 0 if not found["problems"] else 1


def run_pack(given: argparse.Namespace) -> int:
    from .workshop import wheels
    from .workshop.pack import pack

    index = {None: wheels.TORCH_INDEX, "none": None}.get(given.torch_index, given.torch_index)
    made = pack(
        given.out,
        platforms=given.platforms,
        pythons=given.python,
        lessons=given.lessons,
        masters=given.masters,
        torch_index=index,
        instructor=given.instructor,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(
        f"{given.out}: {len(made['files'])} files, {made['bytes'] / 1e9:.2f} GB; a learner runs {given.out}/install.py"
    )
    return 0


def run_fetch(given: argparse.Namespace) -> int:
    from .subject import offline

    print(offline.folder(given.name, accept_terms=given.accept_terms))
    return 0


def run_transcoders(given: argparse.Namespace) -> int:
    from .regimes import layers
    from .subject import Subject

    trained = layers.transcoders(Subject(given.name, dtype="auto"))
    print(trained.quality.round(3).to_string(index=False), trained.folder, sep="\n")
    return 0


def run_workshop(given: argparse.Namespace) -> int:
    from . import workshop

    lessons = workshop.build(given.masters, given.out, say=print)
    print(f"{len(lessons)} lessons: {', '.join(str(path) for path in lessons)}; notes in {given.out}/instructor")
    return 0


def literal(text: str) -> Any:
    """A parameter's value: JSON if it is JSON (numbers, true, false, null, lists), else the text itself."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main())
