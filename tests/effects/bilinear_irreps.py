"""A bilinear layer that has grokked a group: does each of its products work within one irreducible representation?"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workbench.testbeds import world
from workbench.testbeds.worlds.groups import Groups

CLAIM = "Products of a bilinear layer that has grokked S4 each read and write within one irreducible representation"
SOURCE = "Pearce, Dooms et al. 2024, arXiv:2410.08417; representations: Chughtai, Chan, Nanda 2023, arXiv:2302.03025"
SETTING = (
    "logits D((L a) * (R b)) of one-hot elements of S4, 128 products; 80 % of the 576 pairs, full batch, 3,000 steps, "
    "lr 0.01, weight decay 1. A product is a term d x l x r of the interaction; its share is that of its squared norm "
    "which lies in the best representation on all three sides; mean over products, weighted by squared norm"
)
ARMS = ("share in one representation", "the same weights, elements renamed at random")
MARGIN = 0.3
SEEDS = 5
NOTE = "All pairs that were not shown are answered right from step 300 on; the share is 0.79 then (seed 100)"
PRODUCTS = 128


class Layer(NamedTuple):
    """D((L a) * (R b)) over one-hot elements."""

    left: Float[Tensor, "product element"]
    right: Float[Tensor, "product element"]
    down: Float[Tensor, "product element"]


def grokked(data: Groups, seed: int, steps: int = 3000) -> tuple[Layer, float]:
    """A trained layer and its accuracy on the pairs that it was not shown."""
    torch.manual_seed(seed)
    n, table = data.order, data.truth.table
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))[torch.randperm(n * n)]
    shown, rest = pairs.split([round(0.8 * n * n), n * n - round(0.8 * n * n)])
    layer = Layer(*(nn.Parameter(torch.randn(PRODUCTS, n) / n**0.5) for _ in range(3)))
    optimiser = torch.optim.AdamW(layer, lr=1e-2, weight_decay=1.0, betas=(0.9, 0.98), fused=True)

    def logits(pairs: Tensor) -> Tensor:
        return (layer.left[:, pairs[:, 0]] * layer.right[:, pairs[:, 1]]).T @ layer.down

    answer = table[shown[:, 0], shown[:, 1]]
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(logits(shown), answer).backward()
        optimiser.step()
    with torch.no_grad():
        right = float((logits(rest).argmax(-1) == table[rest[:, 0], rest[:, 1]]).float().mean())
    return Layer(*(w.detach() for w in layer)), right


def share(data: Groups, layer: Layer) -> float:
    """How much of the products lies within one representation each."""
    truth = data.truth
    quotient, energy = truth.table[:, truth.inverse], []  # [g, h] is g h^-1
    for irrep in truth.irreps:  # of S4 all are real
        project = irrep.matrices.shape[-1] * irrep.character[quotient].float() / data.order
        energy.append(torch.stack([(w @ project).square().sum(-1) for w in layer]))
    parts = torch.stack(energy)  # (irrep, side, product)
    whole = torch.stack([w.square().sum(-1) for w in layer])
    torch.testing.assert_close(parts.sum(0), whole, rtol=1e-3, atol=1e-6)
    size = whole.prod(0)
    return float(parts.prod(1).amax(0).sum() / size.sum())


def measure(seed: int) -> tuple[float, float]:
    data = world("groups", group="S4")
    layer, _ = grokked(data, seed)
    renamed = torch.randperm(data.order, generator=torch.Generator().manual_seed(seed))
    return share(data, layer), share(data, Layer(*(w[:, renamed] for w in layer)))
