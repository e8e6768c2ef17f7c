"""Gemma Scope 1: `params.npz`, JumpReLU, rows as they are (Lieberum et al. 2024, arXiv:2408.05147)."""

import re

import torch

from ._parts import Found, plain
from ._source import Source

FILE = "params.npz"
EMBEDDING = re.compile(r".*/embedding/width_[^/]+/average_l0_[^/]+")  # the owner's folders of embedding SAEs
BEFORE_GAIN = ("mlp_in",)  # streams that these files read before the norm's gain


def sniff(source: Source) -> bool:
    """One archive with these five arrays and no configuration."""
    return source.top == (FILE,) or (FILE in source.top and not any(name.endswith(".json") for name in source.top))


def read(source: Source, part: str) -> Found:
    """h = x W_enc + b_enc, rectified and on where h > threshold; y = f W_dec + b_dec. No bias is taken from the row.

    The folder does not say which stream it is of: give `site=`, and `target=` for a transcoder. Repositories are named
    by it: -res `12.resid`, -mlp `12.mlp_out` (after Gemma's post-norm), -att `12.heads`, -transcoders `12.mlp_in` to
    `12.mlp_out`. Transcoders read the row over its root mean square, before the gain of the norm, which is folded into
    the encoder: give `subject=`. SAEs of embeddings read rows of the embedding table, which Gemma multiplies by sqrt(d)
    before its first block: in the owner's folder embedding/width_4k/average_l0_6 the scales say so (SAELens scales the
    weights, and leaves b_dec as it was).
    """
    arrays = source.tensors(FILE)
    d, latents, d_out = arrays.width("W_enc", 0, 2), arrays.width("W_enc", 1, 2), arrays.width("W_dec", 1, 2)
    tensors = {
        "encoder.weight": arrays.take("W_enc", (d, latents)),
        "encoder.bias": arrays.take("b_enc", (latents,)),
        "sparsifier.threshold": arrays.take("threshold", (latents,)),
        "decoder.weight": arrays.take("W_dec", (latents, d_out)),
        "decoder.bias": arrays.take("b_dec", (d_out,)),
    }
    arrays.done()
    spec, reads = plain(d, latents, ["jumprelu", {"latents": latents}], d_out=d_out, center=False), None
    if EMBEDDING.fullmatch(source.path.absolute().as_posix()):
        reads, scale = "hook_embed", torch.tensor(d**-0.5)
        tensors |= {"scale_in": scale, "scale_out": scale.clone()}
    return Found(spec, tensors, reads)
