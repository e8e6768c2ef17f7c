"""One file with two linear layers and a ReLU: Goodfire's autoencoders, and those of DeepSeek-R1 by qresearch."""

import re

from ._parts import Found, plain
from ._source import Source, held

NAMES = {  # of the layers, by who trained
    "goodfire": {"encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"},
    "qresearch": {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"},
}
FILE = re.compile(r"(?P<model>[\w.-]+)-SAE-l(?P<layer>\d{1,3})\.(pt|pth)")


def sniff(source: Source) -> bool:
    """Goodfire's names, or the other's in a file that is named as they name theirs."""
    if set(source.pickled) == NAMES["goodfire"]:
        return True
    return set(source.pickled) == NAMES["qresearch"] and FILE.fullmatch(source.lone) is not None


def read(source: Source, part: str) -> Found:
    """relu(W x + b), nothing taken from the row; weights as torch keeps a layer's, (latent, d) and (d, latent).

    The file's name says the model and the block whose output it was trained on; another name says neither.
    """
    tensors = held(source.pickled, source.path / source.lone)
    first, second = (
        ("encoder_linear", "decoder_linear") if "encoder_linear.weight" in tensors else ("encoder", "decoder")
    )
    latents, d = tensors.width(f"{first}.weight", 0, 2), tensors.width(f"{first}.weight", 1, 2)
    taken = {
        "encoder.weight": tensors.take(f"{first}.weight", (latents, d)).T,
        "encoder.bias": tensors.take(f"{first}.bias", (latents,)),
        "decoder.weight": tensors.take(f"{second}.weight", (d, latents)).T,
        "decoder.bias": tensors.take(f"{second}.bias", (d,)),
    }
    tensors.done()
    name = FILE.fullmatch(source.lone)
    return Found(
        plain(d, latents, ["relu", {}], center=False),
        taken,
        reads=None if name is None else f"model.layers.{int(name['layer'])}",
        model=None if name is None else name["model"],
    )
