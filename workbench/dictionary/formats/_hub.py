"""The files of one dictionary from the Hugging Face hub: only those, never a whole collection."""

import re
from glob import escape
from pathlib import Path, PurePosixPath

from ._source import TENSORS, one_line, shown

CONFIGS = (".json", ".yaml", ".yml")


def fetch(name: str, part: str, revision: str | None) -> tuple[Path, str, str]:
    """The local folder of a repository `owner/name` or `owner/name/folder`, what is left of `part`, and the commit.

    Raises ValueError in one line when the hub cannot be reached or does not have it.
    """
    from huggingface_hub import HfApi, snapshot_download

    owner, repo, *inner = name.strip("/").split("/")
    part = "/".join([*inner, *([part] if part else [])])
    try:
        info = HfApi().model_info(f"{owner}/{repo}", revision=revision)
        files = [found.rfilename for found in info.siblings or ()]
        wanted = chosen(files, part)
        if not wanted:
            held = ", ".join(shown(name, 40) for name in sorted({f.split("/")[0] for f in files})[:8])
            raise ValueError(f"it has no {part!r}, only {held or 'nothing'}")
        folder = snapshot_download(f"{owner}/{repo}", revision=info.sha, allow_patterns=[escape(n) for n in wanted])
    except Exception as error:  # the hub's client raises many kinds
        raise ValueError(
            f"{owner}/{repo} could not be read from the hub: {one_line(error)} (for a local folder, check the path)"
        ) from None
    return Path(folder), part, str(info.sha)


def chosen(files: list[str], part: str) -> list[str]:
    """The files of one part and the configurations above it; all that lies at the top where no file is so named.

    A number stands for the files at the top that bear it, as a layer does in a set.
    """
    top = [name for name in files if "/" not in name]
    above = [str(folder) for folder in PurePosixPath(part).parents]
    configs = [name for name in files if name.endswith(CONFIGS) and str(PurePosixPath(name).parent) in above]
    if not part:
        return top
    inside = [n for n in files if n.startswith(f"{part}/") or n == part or n in {part + end for end in TENSORS}]
    if not inside and part.isdecimal():
        inside = [name for name in top if re.search(rf"(?<!\d){part}(?!\d)", name)]
    if inside:
        return sorted({*inside, *configs})
    return [] if "/" in part or part.endswith(TENSORS) else top  # it may name one within a file
