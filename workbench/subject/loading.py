"""A model and its tokenizer from a name, a folder or a hub id."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import offline

log = logging.getLogger("workbench")


def fetch(name: str, dtype: torch.dtype | str | None) -> tuple[nn.Module, Any, str]:
    """A model and its tokenizer from a name, a folder or a hub id, and a line about them."""
    if name in offline.NAMES:
        model, tokenizer, note = offline.load(name)
        return model.requires_grad_(False), tokenizer, f"{name}: {note}"
    import transformers

    folder = Path(name).expanduser()
    if folder.exists() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{name} has no config.json: give the folder that save_pretrained wrote")
    if not folder.exists() and name.count("/") != 1:
        raise ValueError(
            f"no model is called {name!r}: there are {', '.join(offline.NAMES)} without a hub; else give a folder, "
            f"a hub id `owner/name`, or a torch module"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        architectures = getattr(config, "architectures", None) or [""]
        kind = getattr(transformers, architectures[0], None) or transformers.AutoModel
        model = kind.from_pretrained(name, dtype="auto" if dtype is None else torch.float32)
        model.requires_grad_(False)  # a loss through `finish` must not reach the subject's weights
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name} could not be opened ({first}): check the id and the network, or give a folder"
        ) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s has no tokenizer that could be opened (%s)", name, str(error).splitlines()[0])
        tokenizer = None
    return model, tokenizer, f"{name}: opened by transformers {transformers.__version__}"
