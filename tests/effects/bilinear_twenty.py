"""A bilinear classifier of digits: how many eigenvectors of each digit's form does it need?"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits.tracers.bilinear import Forms, leading, terms
from workbench.testbeds import world
from workbench.testbeds.core import fit
from workbench.testbeds.subjects import task

CLAIM = "Twenty eigenvectors of each digit's form keep the accuracy of a bilinear classifier within two points"
SOURCE = "Pearce, Dooms et al. 2024, arXiv:2410.08417"
SETTING = "784 pixels, d = 256, 256 products; 1,500 steps of 256 noisy digits, lr 0.002; the 2,000 held-out digits"
ARMS = ("accuracy by the 20 eigenvectors of largest eigenvalue in size", "accuracy by the whole model")
MARGIN = -0.02
SEEDS = 4


def trained(seed: int) -> Forms:
    """The forms from pixels to logits of a classifier trained with a seed of its own."""
    model = fit(replace(task("digits_bilinear"), steps=1500), seed, progress=False)
    whole = Forms(model.bilinear.left.weight, model.bilinear.right.weight, model.head.weight)
    return whole.after(model.embed.weight)


def held() -> tuple[Float[Tensor, "row 784"], Int[Tensor, " row"]]:
    drawn = world("digits").all()
    return drawn.image.flatten(1), drawn.label


def accuracy(logits: Float[Tensor, "row 10"], label: Int[Tensor, " row"]) -> float:
    return float((logits.argmax(-1) == label).float().mean())


def measure(seed: int) -> tuple[float, float]:
    forms, (x, label) = trained(seed), held()
    few = leading(forms.eigen(torch.eye(10)), 20)
    return accuracy(terms(few, x).sum(-1), label), accuracy(forms(x), label)
