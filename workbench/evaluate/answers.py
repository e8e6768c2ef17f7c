"""What a subject answers: its logits at each text's last real token, some texts at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..batch import Tokens
from .splices import LOGITS


def parts(tokens: Tokens, vocab: int | None) -> list[slice]:
    """Texts that run together, few enough that their logits fit."""
    size = max(1, LOGITS // (tokens.ids.shape[1] * (vocab or 1)))
    return [slice(start, min(len(tokens.ids), start + size)) for start in range(0, len(tokens.ids), size)]


def last(logits: Float[Tensor, "text pos vocab"], tokens: Tokens) -> Float[Tensor, "text vocab"]:
    """Logits at each text's last real token."""
    places = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    at = torch.where(tokens.mask, places, -1).amax(1)
    return logits[torch.arange(len(at), device=at.device), at].float().cpu()
