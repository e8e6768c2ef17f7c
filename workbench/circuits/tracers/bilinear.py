"""Bilinear MLPs from their weights alone, no input: every output direction is a quadratic form with eigenvectors.

D((L x) * (R x)) along a direction u is x' B x with B the symmetric part of sum_h (D'u)_h l_h r_h'. Its eigenvectors are
the patterns that the direction looks for, its eigenvalues how much and with what sign; their terms add up to the
layer's output exactly. Pearce, Dooms et al. 2024, arXiv:2410.08417.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...site import Site
from ...subject import Subject


class Eigen(NamedTuple):
    """Eigenvalues of each direction's form, largest in size first, and their unit vectors."""

    values: Float[Tensor, "direction d"]
    vectors: Float[Tensor, "direction d d"]  # (direction, which, entry)


@dataclass(frozen=True, eq=False)
class Forms:
    """The layer D((L x) * (R x)), without biases."""

    left: Float[Tensor, "hidden d"]
    right: Float[Tensor, "hidden d"]
    down: Float[Tensor, "out hidden"]

    @classmethod
    def of(cls, subject: Subject, layer: int) -> "Forms":
        """The forms of a gated MLP whose gate is linear. Raises ValueError for another MLP, or one with biases."""
        path = subject.plan.port(Site(layer, "mlp_in")).path
        mlp = subject._modules[path]
        parts = [getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        act = getattr(mlp, "act_fn", None)
        probe = torch.tensor([-2.0, 0.5, 3.0])
        if any(p is None for p in parts) or act is None or not torch.equal(act(probe), probe):
            raise ValueError(f"{path} is no bilinear MLP (gate_proj, up_proj, down_proj and a linear act_fn)")
        if any(p.bias is not None for p in parts):  # type: ignore[union-attr]
            raise ValueError(f"{path} has biases: its output is no quadratic form")
        return cls(*(p.weight.detach() for p in parts))  # type: ignore[union-attr]

    def after(self, embed: Float[Tensor, "d inp"]) -> "Forms":
        """The same layer read from what a linear map turns into its input."""
        return Forms(self.left @ embed, self.right @ embed, self.down)

    def before(self, head: Float[Tensor, "logit out"]) -> "Forms":
        """The same layer followed by a linear map."""
        return Forms(self.left, self.right, head @ self.down)

    def __call__(self, x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row out"]:
        return ((x @ self.left.T) * (x @ self.right.T)) @ self.down.T

    def matrices(self, directions: Float[Tensor, "direction out"]) -> Float[Tensor, "direction d d"]:
        """The symmetric interaction matrix of each output direction."""
        weight = directions @ self.down
        b = torch.einsum("uh,hi,hj->uij", weight, self.left, self.right)
        return (b + b.mT) / 2

    def eigen(self, directions: Float[Tensor, "direction out"]) -> Eigen:
        """Eigenvectors of each direction's matrix. In a float64 copy: small ones matter to the sum."""
        values, vectors = torch.linalg.eigh(self.matrices(directions).double())
        order = values.abs().argsort(-1, descending=True)
        vectors = vectors.mT.gather(1, order[..., None].expand_as(vectors))
        return Eigen(values.gather(-1, order).to(self.down.dtype), vectors.to(self.down.dtype))


def terms(eigen: Eigen, x: Float[Tensor, "row d"]) -> Float[Tensor, "row direction term"]:
    """What each eigenvector adds to each direction on each row: value x <vector, x>^2. Their sum is the output."""
    return eigen.values * torch.einsum("rd,uvd->ruv", x, eigen.vectors).square()


def leading(eigen: Eigen, count: int) -> Eigen:
    """The `count` eigenvectors of largest eigenvalue, in size, of each direction."""
    if not 1 <= count <= eigen.values.shape[1]:
        raise ValueError(f"count is 1 to {eigen.values.shape[1]} eigenvectors, got {count}")
    return Eigen(eigen.values[:, :count], eigen.vectors[:, :count])


def adversarial(forms: Forms, wrong: int, right: int) -> Float[Tensor, " d"]:
    """A unit pattern that raises one output over another by the weights alone: their difference's top eigenvector."""
    direction = torch.zeros(1, forms.down.shape[0], dtype=forms.down.dtype)
    direction[0, wrong], direction[0, right] = 1, -1
    values, vectors = forms.eigen(direction)
    return vectors[0, int(values[0].argmax())]
