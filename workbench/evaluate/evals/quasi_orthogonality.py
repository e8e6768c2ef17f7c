"""Is the code as long as the row it stands for, as it must be if the atoms in use are nearly orthogonal?"""

from collections.abc import Callable
from math import inf

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ...code import Code, Codec
from ..case import Case
from ..examples import OURS
from ..scores import Scores

IDENTITY = {"epsilon_lbo": 0.0, "zf_slope": 1.0, "zf_within": 1.0}
SCALE_INVARIANT = ("epsilon_lbo", "zf_slope", "zf_within", "zf_under")


def quasi_orthogonality(case: Case, *, within: float = 0.25) -> Scores:
    """Lower bound on how far atoms are from orthogonal (epsilon-LBO), and where rows lie in the ZF plot.

    With atoms whose cosines are at most epsilon, the squared length of a row differs from that of its code f (values
    times the atoms' lengths, and the decoder's bias as one value more) by at most epsilon (m - 1) |f|^2. So epsilon
    is at least | |y|^2 - |f|^2 | / ((m - 1) |f|^2): a bound from each row. Here sums over rows are divided, so that
    rows with a nearly empty code do not rule. ZF is |y| against |f|: `zf_slope` fits |f| = slope |y| (1: the diagonal),
    `zf_under` is the share of rows whose code is too short (under-activated), `zf_within` the share between the bounds
    for epsilon (m - 1) = `within`. `zf(case)` has the points. A code of the right length may be wrong in all else.
    Raises ValueError when no row has a code and there is no bias.
    Source: Lee et al. 2025, arXiv 2503.24277; theirs is per row.
    """
    if within <= 0:
        raise ValueError(f"within is a bound on epsilon (m - 1), above 0, got {within}")
    m = case.codec.latents
    if m < 2:
        raise ValueError(f"orthogonality is of two or more atoms, the dictionary has {m}")
    length2 = _squared_length(case.codec)

    def measure(x: Tensor, y: Tensor, code: Code, y_hat: Tensor) -> dict[str, Tensor]:
        row, f = y.flatten(1).double().square().sum(1), length2(code)
        return {
            "gap": (row - f).abs(),
            "f2": f,
            "y2": row,
            "yf": (row * f).sqrt(),
            "under": (f < row).double(),
            "within": ((row - f).abs() <= within * f).double(),
        }

    sums = case.per_document(measure)
    if not float(sums.by["f2"].sum()):
        raise ValueError("no latent fires on the held-out rows and there is no bias: the code has no length")
    shares = (0.0, 1.0)
    return Scores.of(
        case.score(
            "epsilon_lbo",
            sums,
            lambda s: s["gap"] / s["f2"] / (m - 1),
            unit="|cosine| of atoms, a lower bound on the largest",
            direction="lower",
            range=(0.0, inf),
            note=OURS,
        ),
        case.score(
            "zf_slope",
            sums,
            lambda s: s["yf"] / s["y2"],
            unit="length of the code per length of the row, 1 is the diagonal",
            direction="none",
            range=(0.0, inf),
            note=OURS,
        ),
        case.score(
            "zf_within",
            sums,
            lambda s: s["within"] / s["rows"],
            unit=f"share of rows with epsilon (m - 1) <= {within:g}",
            direction="higher",
            range=shares,
            note=OURS,
        ),
        case.score(
            "zf_under",
            sums,
            lambda s: s["under"] / s["rows"],
            unit="share of rows whose code is shorter than the row",
            direction="none",
            range=shares,
            note=OURS,
        ),
    )


def zf(case: Case) -> pd.DataFrame:
    """The ZF plot's points, one per held-out row: `row`, the length of the row, and `code`, that of its code."""
    length2, found = _squared_length(case.codec), []
    for _, batch in case.batches():
        code = length2(case.encoded(batch.x)).sqrt()
        found.append(torch.stack([batch.y.flatten(1).double().norm(dim=-1), code], -1).cpu())
    return pd.DataFrame(torch.cat(found).numpy(), columns=["row", "code"])


@torch.no_grad()
def _squared_length(codec: Codec) -> Callable[[Code], Float[Tensor, " row"]]:
    """Squared length of codes in the model's units: values times the atoms' lengths, and the bias as one value more."""
    sizes = codec.atoms().detach().flatten(1).double().norm(dim=-1)
    silent = Code.dense(torch.zeros(1, codec.latents, device=sizes.device))
    bias = codec.decode(silent).detach().double().square().sum()
    return lambda code: code.like(code.values.detach().double().square()).weigh(sizes.square()) + bias
