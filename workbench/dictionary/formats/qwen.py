"""Qwen Scope: `layer<n>.sae.pt`, TopK without a ReLU; k stands in the collection's name alone, `...-L0_50`."""

import re

from ._parts import Found, plain
from ._source import Source

FILE = re.compile(r"layer(\d{1,3})\.sae\.pt")
COLLECTION = re.compile(r"(?:models--[\w.-]+?--)?(?P<name>SAE-Res-(?P<model>[\w.-]+?)-W\w+-L0_(?P<k>\d{1,5}))")


def sniff(source: Source) -> bool:
    """All files of tensors are named so."""
    return bool(parts(source)) and all(FILE.fullmatch(name) for name in source.top if name.endswith((".pt", ".pth")))


def parts(source: Source) -> list[str]:
    """Files, in the order of layers."""
    found = [(int(match[1]), name) for name in source.top if (match := FILE.fullmatch(name))]
    return [name for _, name in sorted(found)]


def read(source: Source, part: str) -> Found:
    """The k largest of W_enc x + b_enc as they are; W_enc is (latent, d), W_dec (d, latent)."""
    here = source.path.resolve()
    collection = next(filter(None, (COLLECTION.fullmatch(at.name) for at in (here, *here.parents))), None)
    if collection is None:
        raise ValueError(
            f"{source.path / part} does not hold k: keep it in a folder of the collection's name, SAE-Res-...-L0_<k>"
        )
    tensors = source.tensors(part)
    latents, d = tensors.width("W_enc", 0, 2), tensors.width("W_enc", 1, 2)
    taken = {
        "encoder.weight": tensors.take("W_enc", (latents, d)).T,
        "encoder.bias": tensors.take("b_enc", (latents,)),
        "decoder.weight": tensors.take("W_dec", (d, latents)).T,
        "decoder.bias": tensors.take("b_dec", (d,)),
    }
    tensors.done()
    k = int(collection["k"])
    if not 1 <= k <= latents:
        raise ValueError(f"{source.path / part}: k must be 1..latents={latents}, {collection['name']} says {k}")
    match = FILE.fullmatch(part)
    assert match is not None
    return Found(
        plain(d, latents, ["largest", {"k": k, "latents": latents}], center=False),
        taken,
        reads=f"model.layers.{int(match[1])}",
        model=f"Qwen/{collection['model']}",
        config={"collection": collection["name"], "k": k},
    )
