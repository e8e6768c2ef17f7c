"""Which tokens a latent makes likelier or unlikelier by itself."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..code import Codec

WRITES = ("resid", "attn_out", "mlp_out", "embed")  # streams whose vectors are, or are added to, the residual stream
CHUNK = 256  # latents at once: blocks so large go back to the system when freed, smaller ones scatter the heap


def effects(
    codec: Codec, subject: Any, latents: Sequence[int] | None = None, *, top: int = 10, chunk: int = CHUNK
) -> pd.DataFrame:
    """Direct effect of each latent on the logits: the `top` tokens it promotes and the `top` it suppresses.

    Columns: latent, sign (+1 promoted, -1 suppressed), rank (0 the strongest), token, id, effect.
    effect = W_U (gain * atom), less its mean over the vocabulary: logits per unit of activation, up to the factor
    1 / (size of the final residual vector) that the final norm divides by; that factor is the same for all tokens and
    latents at a position and is held fixed, as are later layers and a cap on the logits; a norm's centring counts. So a
    late site is read well and an early one poorly.
    Raises ValueError for a latent that does not exist, or a codec whose atoms are not written to the residual stream.
    """
    if codec.target is not None and codec.target.stream not in WRITES:
        raise ValueError(
            f"direct effects want atoms in the residual stream ({', '.join(WRITES)}), this codec writes {codec.target}"
        )
    chosen = list(range(codec.latents)) if latents is None else [int(i) for i in latents]
    if bad := [i for i in chosen if not 0 <= i < codec.latents]:
        raise ValueError(f"latents are 0..{codec.latents - 1}, got {bad[0]}")
    unembed, gain = subject.unembed.detach().float(), subject.gain.detach().float()
    vocab, d = unembed.shape
    if not 1 <= top <= vocab // 2:
        raise ValueError(f"top must be 1..{vocab // 2} for {vocab} tokens, got {top}")
    parts = []
    for begin in range(0, len(chosen), chunk):
        some = chosen[begin : begin + chunk]
        atoms = codec.atoms(some).detach().float().to(unembed.device)
        if atoms.shape[1] != d:
            raise ValueError(
                f"atoms of width {atoms.shape[1]} do not fit an unembedding of width {d}: "
                "give the subject the dictionary was trained on"
            )
        effect = direct(atoms - atoms.mean(-1, keepdim=True) if subject.centred else atoms, unembed, gain)
        for sign in (1, -1):
            best = effect.topk(top, dim=-1, largest=sign > 0)
            parts.append(
                pd.DataFrame(
                    {
                        "latent": torch.tensor(some).repeat_interleave(top).numpy(),
                        "sign": sign,
                        "rank": torch.arange(top).repeat(len(some)).numpy(),
                        "id": best.indices.reshape(-1).cpu().numpy(),
                        "effect": best.values.reshape(-1).cpu().numpy(),
                    }
                )
            )
    columns = ["latent", "sign", "rank", "token", "id", "effect"]
    if not parts:
        return pd.DataFrame(columns=columns)
    found: Any = pd.concat(parts)
    ids = sorted(set(found["id"]))
    found["token"] = found["id"].map(dict(zip(ids, subject.words(ids), strict=True)))
    found["place"] = found["latent"].map({latent: i for i, latent in reversed(list(enumerate(chosen)))})
    found = found.sort_values(["place", "sign", "rank"], ascending=[True, False, True], kind="stable")
    return found[columns].reset_index(drop=True)


def direct(
    atoms: Float[Tensor, "some d"], unembed: Float[Tensor, "vocab d"], gain: Float[Tensor, " d"]
) -> Float[Tensor, "some vocab"]:
    """W_U (gain * atom), centred over the vocabulary."""
    effect = (atoms * gain) @ unembed.T
    return effect.sub_(effect.mean(-1, keepdim=True))
