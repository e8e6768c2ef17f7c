"""Gemma Scope 1: `params.npz`, JumpReLU, rows as they are (Lieberum et al. 2024, arXiv:2408.05147)."""

from ._parts import Found, plain
from ._source import Source

FILE = "params.npz"


def sniff(source: Source) -> bool:
    """One archive with these five arrays and no configuration."""
    return source.top == (FILE,) or (FILE in source.top and not any(name.endswith(".json") for name in source.top))


def read(source: Source, part: str) -> Found:
    """h = x W_enc + b_enc, on where h > threshold; b_dec is not taken from the row.

    The folder does not say which stream it is of: give `site=`.
    """
    arrays = source.tensors(FILE)
    d, latents = arrays.shape("W_enc") if len(arrays.shape("W_enc")) == 2 else (0, 0)
    tensors = {
        "encoder.weight": arrays.take("W_enc", (d, latents)),
        "encoder.bias": arrays.take("b_enc", (latents,)),
        "sparsifier.threshold": arrays.take("threshold", (latents,)),
        "decoder.weight": arrays.take("W_dec", (latents, arrays.width("W_dec", 1, 2))),
        "decoder.bias": arrays.take("b_dec", (arrays.width("W_dec", 1, 2),)),
    }
    arrays.done()
    d_out = len(tensors["decoder.bias"])
    return Found(plain(d, latents, ["jumprelu", {"latents": latents}], d_out=d_out, center=False), tensors)
