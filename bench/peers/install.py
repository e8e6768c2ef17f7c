"""One virtual environment for each peer library, from the full freeze beside this file, in the workbench's cache.

    python bench/peers/install.py [NAME ...]

About 7 GB and five minutes for all four, once. No dependency is resolved: the freezes are what was tested.
"""

import argparse
import subprocess
import venv
from pathlib import Path

from workbench import lineage

HERE = Path(__file__).parent
NAMES = ("sae_lens", "dictionary_learning", "sparsify", "overcomplete")


def freeze(name: str) -> Path:
    """The list of a peer's packages: of a trainer here, of others beside what uses them."""
    places = (HERE, HERE.parent / "formats", HERE.parent / "tracers")
    return next((p for folder in places if (p := folder / f"{name}.txt").is_file()), HERE / f"{name}.txt")


def folder(name: str) -> Path:
    return lineage.cache() / "peers" / name


def python(name: str) -> Path:
    """The interpreter of a peer's environment. Raises FileNotFoundError when it is missing or of another freeze."""
    stamp = folder(name) / "installed.txt"
    if not stamp.is_file() or stamp.read_text() != freeze(name).read_text():
        raise FileNotFoundError(f"no environment for {name}, or an old one: run `python bench/peers/install.py {name}`")
    return folder(name) / "bin" / "python"


def install(name: str) -> None:
    """Make a peer's environment anew. Raises CalledProcessError when pip fails."""
    wanted = freeze(name)
    venv.create(folder(name), clear=True, with_pip=True)
    pip = [folder(name) / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # torch by its pin first, as in the Makefile: the freeze of a peer would otherwise decide which build comes
    subprocess.run([*pip, "--constraint", HERE.parent.parent / "constraints.txt", "torch"], check=True)
    subprocess.run([*pip, "--no-deps", "--requirement", wanted], check=True)
    (folder(name) / "installed.txt").write_text(wanted.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    for name in parser.parse_args().names:
        try:
            print(python(name))
        except FileNotFoundError:
            install(name)
            print(python(name))


if __name__ == "__main__":
    main()
