"""An answer beside the right one: what is wrong with it, said so that a learner can mend it."""

import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

CLOSE = 1e-3  # largest difference, as a share of the largest right number


def draw(seed: int, *shape: int) -> Tensor:
    """Numbers to ask with: normal, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class NotYet(Exception):
    """An answer that is not right yet. The message is the hint, and all that Jupyter shows."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def ask(answer: Any, *inputs: Any, what: str) -> Any:
    """What the learner's function says of these inputs; a mistake on the way is a hint that names the line."""
    if answer is ...:
        raise NotYet(f"{what} is still `...`: write your code in the cell above")
    if not callable(answer):
        raise NotYet(f"wanted the function {what} itself, got {kind(answer)}: hand it over without calling it")
    given = [i.clone() if isinstance(i, Tensor) else i for i in inputs]
    try:
        said = answer(*given)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:2]
        at = f" at `{frames[0].line}`" if frames and frames[0].line else ""
        raise NotYet(f"{what} stops{at} with {type(error).__name__}: {error}. It was given {shapes(inputs)}") from None
    if any(isinstance(i, Tensor) and not torch.equal(i, g) for i, g in zip(inputs, given, strict=True)):
        raise NotYet(f"{what} changes its input in place: work on a copy, x.clone(), and use x = x - y, not x -= y")
    return said


def compare(got: Any, want: Tensor, *, what: str, known: Mapping[str, Tensor] | None = None) -> None:
    """Passes when `got` is `want`; else raises NotYet with the first hint that explains the difference.

    `known` maps a hint to what a foreseen mistake would give; it comes before the general ones: sign, transposition,
    factor, length of rows, a missing bias.
    """
    value = tensor(got, what)
    if value.shape != want.shape:
        raise NotYet(shape_hint(value, want, what))
    if not bool(value.isfinite().all()):
        n = int((~value.isfinite()).sum())
        raise NotYet(f"{what} holds {n} numbers that are NaN or infinite: is something divided by zero?")
    value = value.detach().to(want.dtype)
    if near(value, want):
        return
    for hint, wrong in (known or {}).items():
        if wrong.shape == want.shape and near(value, wrong):
            raise NotYet(hint)
    raise NotYet(general(value, want, what))


def number(got: Any, want: float, *, what: str, known: Mapping[str, float] | None = None, close: float = CLOSE) -> None:
    """As `compare`, for one number."""
    if isinstance(got, np.ndarray):
        got = torch.from_numpy(got)
    if isinstance(got, Tensor):
        if got.numel() != 1:
            raise NotYet(f"{what} must be one number, got a tensor {tuple(got.shape)}: is a mean or a sum missing?")
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, int | float | np.number):
        raise NotYet(absent(got, what) or f"{what} must be one number, got {kind(got)}")
    value = float(got)
    if abs(value - want) <= close * abs(want):
        return
    for hint, wrong in (known or {}).items():
        if abs(value - wrong) <= close * max(abs(wrong), 1e-9):
            raise NotYet(hint)
    if value != value:
        raise NotYet(f"{what} is NaN: is something divided by zero?")
    if abs(value + want) <= close * abs(want):
        raise NotYet(f"{what} is right up to sign")
    for name, wrong in (("percent, wanted a share", 100 * want), ("one less it", 1 - want), ("its inverse", 1 / want)):
        if want and abs(value - wrong) <= close * abs(wrong):
            raise NotYet(f"{what} is given as {name}")
    for name, wrong in (("the square of what was wanted: is a root missing?", want * want),
                        ("the root of what was wanted: is a square missing?", abs(want) ** 0.5)):  # fmt: skip
        if abs(value - wrong) <= close * abs(wrong):
            raise NotYet(f"{what} is {name}")
    raise NotYet(f"{what} is {value:.4g}, which is too {'large' if value > want else 'small'}")


def general(value: Tensor, want: Tensor, what: str) -> str:
    """What is wrong with numbers of the right shape."""
    if near(value, -want):
        return f"{what} is right up to sign: turn the subtraction round"
    if near(value.abs(), want.abs()):
        n = int((value * want < 0).sum())
        return f"{what} is right in size, but {n} of {want.numel()} numbers have the wrong sign"
    if want.ndim == 2 and want.shape[0] == want.shape[1] and near(value, want.T):
        return f"{what} is right, but transposed"
    factor = float((value * want).sum() / want.square().sum())
    if near(value, factor * want) and abs(factor) > 1e-9:
        return f"{what} is off by a scale: every number is {factor:.4g} times what it should be"
    if want.ndim == 2:
        each = (value * want).sum(-1, keepdim=True) / want.square().sum(-1, keepdim=True).clamp_min(1e-12)
        if near(value, each * want) and bool((each.abs() > 1e-9).any()):
            return f"{what}: each row points the right way but has the wrong length: is it normalised as it should be?"
        apart = value - want
        if len(apart) > 1 and near(apart, apart[:1].expand_as(apart)):
            return f"{what}: every row is off by one and the same vector: was the bias forgotten, or taken twice?"
    bad = (value - want).abs() > CLOSE * want.abs().max()
    first = tuple(bad.nonzero()[0].tolist())
    place = f" at [{', '.join(map(str, first))}]" if first else ""
    return (
        f"{what} has the right shape, but {int(bad.sum())} of {want.numel()} numbers are wrong; the first{place} is "
        f"{float(value[first]):.4g}, {'more' if value[first] > want[first] else 'less'} than wanted"
    )


def tensor(got: Any, what: str) -> Tensor:
    """The answer as a tensor. Raises NotYet that says what came instead."""
    if (hint := absent(got, what)) is not None:
        raise NotYet(hint)
    if hasattr(got, "solution") or hasattr(got, "indices") and isinstance(got, tuple):
        part = "solution" if hasattr(got, "solution") else "values"
        raise NotYet(f"{what} is all that torch returns, wanted one tensor of it: take .{part}, or what you need")
    if isinstance(got, list | tuple):
        inner = f" of {len(got)}" + (f" tensors {tuple(got[0].shape)}" if got and isinstance(got[0], Tensor) else "")
        raise NotYet(f"{what} is a {type(got).__name__}{inner}, wanted one tensor: torch.stack or torch.tensor it")
    if isinstance(got, np.ndarray):
        raise NotYet(f"{what} is a numpy array, wanted a tensor: torch.from_numpy(...)")
    if not isinstance(got, Tensor):
        raise NotYet(f"{what} must be a tensor, got {kind(got)}")
    return got


def absent(got: Any, what: str) -> str | None:
    if got is ...:
        return f"{what} is still `...`: write your code in the cell above"
    return f"{what} gives None: does the function end with `return`?" if got is None else None


def shape_hint(value: Tensor, want: Tensor, what: str) -> str:
    if value.ndim == want.ndim == 2 and value.shape == want.T.shape:
        if near(value.detach().to(want.dtype), want.T):
            return f"{what} is right, but transposed: wanted {tuple(want.shape)}, got {tuple(value.shape)}"
        return f"{what} has its axes the wrong way round: wanted {tuple(want.shape)}, got {tuple(value.shape)}"
    if value.numel() == want.numel() and 1 in value.shape:
        return f"{what} has an axis of length 1 too many: wanted {tuple(want.shape)}, got {tuple(value.shape)}"
    return f"{what} has the wrong shape: wanted {tuple(want.shape)}, got {tuple(value.shape)}"


def near(value: Tensor, want: Tensor) -> bool:
    size = float(want.abs().max()) if want.numel() else 0.0
    return bool((value.float() - want.float()).abs().max() <= CLOSE * max(size, 1e-9)) if want.numel() else True


def kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:60]


def shapes(inputs: tuple[Any, ...]) -> str:
    return ", ".join(str(tuple(i.shape)) if isinstance(i, Tensor) else repr(i) for i in inputs)


def entries(got: Any, wanted: tuple[str, ...], *, what: str) -> dict[str, Any]:
    """An answer that is a dictionary with these names."""
    if (hint := absent(got, what)) is not None:
        raise NotYet(hint)
    if not isinstance(got, Mapping):
        raise NotYet(f"{what} must be a dictionary with {', '.join(wanted)}, got {kind(got)}")
    if missing := [name for name in wanted if name not in got]:
        raise NotYet(f"{what} lacks {', '.join(map(repr, missing))}: wanted {', '.join(map(repr, wanted))}")
    return dict(got)
