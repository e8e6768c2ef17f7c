"""The files of one dictionary from the Hugging Face hub: only those, never a whole collection."""

from pathlib import Path

from ._source import TENSORS, one_line

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
            raise ValueError(f"it has no {part!r}, only {', '.join(sorted({f.split('/')[0] for f in files})[:12])}")
        folder = snapshot_download(f"{owner}/{repo}", revision=info.sha, allow_patterns=wanted)
    except Exception as error:  # the hub's client raises many kinds
        raise ValueError(
            f"{owner}/{repo} could not be read from the hub: {one_line(error)} (for a local folder, check the path)"
        ) from None
    return Path(folder), part, str(info.sha)


def chosen(files: list[str], part: str) -> list[str]:
    """The files of one part and the configurations at the top; all that lies at the top where no file is so named."""
    top = [name for name in files if "/" not in name]
    configs = [name for name in top if name.endswith(CONFIGS)]
    if not part:
        return top
    inside = [n for n in files if n.startswith(f"{part}/") or n == part or n in {part + end for end in TENSORS}]
    return sorted({*inside, *configs}) if inside else top if "/" not in part else []
