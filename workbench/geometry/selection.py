"""Which texts to train on, by the latents active in them: coverage of latents, and likeness to a target task."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..code import Code
from .beside import Against, framed
from .match import NULL


def active_latents(
    code: Code,
    texts: Int[Tensor, " row"],
    *,
    above: float = 0.0,
    density: tuple[float, float] = (0.0, 1.0),
    count: int | None = None,
) -> Code:
    """The union of the latents active in each text: a code with a row for each text and ones.

    `texts` is the text of each row, 0 to `count` - 1 (by default as many as the largest says). A latent is active where
    |value| > `above`; one whose share of texts is not strictly above the band's lower end, or above its upper end, is
    left out: what fires in every text covers nothing.
    """
    rows, latents, values = _entries(code, texts)
    n = _count(texts, count)
    on = values.abs() > above
    distinct = (texts[rows[on]].long() * code.latents + latents[on]).unique()
    share = torch.bincount(distinct % code.latents, minlength=code.latents) / n
    inside = (share > density[0]) & (share <= density[1])
    distinct = distinct[inside[distinct % code.latents]]
    return _sets(distinct // code.latents, distinct % code.latents, n, code.latents)


def mean_code(code: Code, texts: Int[Tensor, " row"], *, count: int | None = None) -> Code:
    """The mean code of each text's rows: a code with a row for each text. A mean, since a sum would grow with length.

    Raises ValueError for a text without rows.
    """
    from scipy.sparse import coo_array

    rows, latents, values = _entries(code, texts)
    n = _count(texts, count)
    many = torch.bincount(texts, minlength=n)
    if int(many.min()) == 0:
        raise ValueError(f"text {int(many.argmin())} has no rows: number texts 0..{n - 1} without gaps")
    where = texts[rows]
    at = where.numpy(), latents.numpy()
    found = coo_array(((values.double() / many[where]).numpy(), at), shape=(n, code.latents)).tocsr()
    found.sum_duplicates()
    return Code.csr(
        torch.from_numpy(found.indptr.astype(np.int64)),
        torch.from_numpy(found.indices.astype(np.int64)),
        torch.from_numpy(found.data).float(),
        code.latents,
    )


@dataclass(frozen=True, eq=False)
class Selected:
    """Texts in the order they were chosen, and how many latents they cover beside random and longest texts.

    Coverage counts distinct latents of the first texts, divided by tokens where it says so. `length` is Spearman's
    correlation of a text's tokens with its latents, over all texts: near 1, "the most latents" means "the longest".
    """

    texts: Int[Tensor, " chosen"]
    gains: Int[Tensor, " chosen"]  # latents that each added when it was chosen, since the last reset
    covered: Int[Tensor, " chosen"]  # latents covered by it and all before
    tokens: Int[Tensor, " chosen"]  # in it and all before
    random: Float[Tensor, "draw chosen"]  # covered by random texts
    random_tokens: Float[Tensor, "draw chosen"]
    longest: Float[Tensor, " chosen"]  # covered by the longest texts
    longest_tokens: Float[Tensor, " chosen"]
    last: Against  # covered in the end, against random texts
    resets: int
    length: float
    method: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each chosen text, with what random and the longest texts cover."""
        return pd.DataFrame(
            {
                "text": self.texts.numpy(),
                "gain": self.gains.numpy(),
                "covered": self.covered.numpy(),
                "tokens": self.tokens.numpy(),
                "per_token": (self.covered / self.tokens).numpy(),
                "random": self.random.mean(0).numpy(),
                "random_per_token": (self.random / self.random_tokens).mean(0).numpy(),
                "longest": self.longest.numpy(),
                "longest_per_token": (self.longest / self.longest_tokens).numpy(),
            }
        )

    @property
    def caption(self) -> str:
        """Coverage in the end, per text and per token, beside both baselines."""
        end = self.table.iloc[-1]
        return (
            f"{self.method}: {len(self.texts)} texts cover {int(end.covered):,} latents; random texts "
            f"{self.last.mean:,.0f} ± {self.last.sd:.0f} ({len(self.random)} draws), the longest {int(end.longest):,}. "
            f"Per token {end.per_token:.3f}, random {end.random_per_token:.3f}, longest {end.longest_per_token:.3f}. "
            f"Tokens and latents of a text correlate by {self.length:.2f}; {self.resets} resets"
        )

    def figure(self, *, title: str = "Latents covered by the chosen texts") -> Any:
        """Latents covered over texts and over tokens, with random texts and the longest."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(1, 2, subplot_titles=["by texts", "by tokens"])
        places = np.arange(1, len(self.texts) + 1)
        for column in (1, 2):
            for i in range(min(len(self.random), 10)):
                x = places if column == 1 else self.random_tokens[i].numpy()
                line = {"color": "#c9ced6", "width": 1}
                name = "null: random texts"
                dots = go.Scatter(x=x, y=self.random[i].numpy(), line=line, name=name, legendgroup=name, mode="lines")
                figure.add_trace(dots.update(showlegend=column == 1 and not i), 1, column)
            for name, y, tokens, color in (
                ("longest", self.longest, self.longest_tokens, "#c79a4b"),
                (self.method, self.covered, self.tokens, "#5b7db1"),
            ):
                x = places if column == 1 else tokens.numpy()
                dots = go.Scatter(x=x, y=y.numpy(), name=name, legendgroup=name, mode="lines", line={"color": color})
                figure.add_trace(dots.update(showlegend=column == 1), 1, column)
        figure.update_xaxes(title="texts", row=1, col=1)
        figure.update_xaxes(title="tokens", row=1, col=2)
        figure.update_yaxes(title="latents covered")
        return framed(figure, title, self.caption)


def greedy(
    sets: Code, budget: int, *, tokens: Int[Tensor, " text"] | None = None, draws: int = 20, seed: int = 0
) -> Selected:
    """SAE-GreedSelect: again and again the text that adds most latents; the first one of equals.

    When no text adds any, what is covered is forgotten and all latents count again. `sets` has a row for each text
    (`active_latents`), `tokens` their lengths (1 where not given).
    Raises ValueError unless `budget` is 1 to the number of texts with a latent.
    Source: Yang et al. 2025, arXiv 2502.14050.
    """
    active = _active(sets, budget)
    by_latent = active.T.tocsr()
    size = np.diff(active.indptr)
    gain = size.copy()
    covered = np.zeros(sets.latents, bool)
    left = size > 0
    order, gains, resets = [], [], 0
    while len(order) < budget:
        best = int(np.where(left, gain, -1).argmax())
        if gain[best] == 0:
            covered[:] = False
            gain = size.copy()
            resets += 1
            continue
        order.append(best)
        gains.append(int(gain[best]))
        left[best] = False
        mine = active.indices[active.indptr[best] : active.indptr[best + 1]]
        new = mine[~covered[mine]]
        covered[new] = True
        gain -= np.bincount(by_latent[new].indices, minlength=len(gain))
    return _selected("GreedSelect", active, order, gains, resets, tokens, draws, seed)


def simscale(
    sets: Code,
    budget: int,
    *,
    ratio: float = 0.8,
    tokens: Int[Tensor, " text"] | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Selected:
    """SAE-SimScale: from the text with most latents on, take those with less than `ratio` of theirs covered already.

    One pass over the texts; while the budget is not full, another over what is left, with nothing covered.
    Raises ValueError for a ratio outside (0, 1], and as `greedy` does.
    Source: Yang et al. 2025, arXiv 2502.14050; that a new pass begins with nothing covered is ours.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1, got {ratio}")
    active = _active(sets, budget)
    size = np.diff(active.indptr)
    waiting = [int(i) for i in np.argsort(-size, kind="stable") if size[i]]
    order, gains, passes = [], [], 0
    while len(order) < budget:
        covered, passes, skipped = np.zeros(sets.latents, bool), passes + 1, []
        for place, text in enumerate(waiting):
            mine = active.indices[active.indptr[text] : active.indptr[text + 1]]
            known = int(covered[mine].sum())
            if known / len(mine) >= ratio:
                skipped.append(text)
                continue
            covered[mine] = True
            order.append(text)
            gains.append(len(mine) - known)
            if len(order) == budget:
                skipped += waiting[place + 1 :]
                break
        waiting = skipped
    return _selected("SimScale", active, order, gains, passes - 1, tokens, draws, seed)


@dataclass(frozen=True, eq=False)
class Mona:
    """Texts of a pool by falling likeness to a target, and the likeness to a target whose latents were shuffled."""

    scores: Float[Tensor, " text"]  # generalised Jaccard, 0..1; larger is nearer to the target
    texts: Int[Tensor, " chosen"]
    null: Float[Tensor, " text"]  # scores against the shuffled target
    top: Against  # mean score of the chosen, against as many of the best by shuffled targets
    share: float
    length: float | None  # Spearman's correlation of score and length

    @property
    def table(self) -> pd.DataFrame:
        """One line for each chosen text, best first."""
        return pd.DataFrame({"text": self.texts.numpy(), "score": self.scores[self.texts].numpy()})

    @property
    def caption(self) -> str:
        """Scores of the chosen beside the null."""
        said = "" if self.length is None else f"; score and length correlate by {self.length:.2f}"
        return (
            f"The best {self.share:.1%} of {len(self.scores):,} texts, {len(self.texts)} of them. Mean likeness "
            f"{self.top.value:.3f}; the best by a target with shuffled latents {self.top.mean:.3f} ± {self.top.sd:.3f} "
            f"({len(self.top.null)} draws){said}"
        )

    def precision(self, wanted: Bool[Tensor, " text"], *, tokens: Int[Tensor, " text"] | None = None) -> pd.DataFrame:
        """Share of the chosen that are wanted, of random texts, and of the longest, given `tokens`."""
        if wanted.shape != self.scores.shape:
            raise ValueError(f"wanted must be a bool for each of {len(self.scores)} texts, got {tuple(wanted.shape)}")
        lines = {"MONA": float(wanted[self.texts].double().mean()), "random": float(wanted.double().mean())}
        if tokens is not None:
            longest = tokens.argsort(descending=True, stable=True)[: len(self.texts)]
            lines["longest"] = float(wanted[longest].double().mean())
        return pd.DataFrame({"by": list(lines), "precision": list(lines.values())})

    def figure(self, *, title: str = "Likeness to the target") -> Any:
        """Histogram of the pool's scores and those of a shuffled target, with the cut."""
        import plotly.graph_objects as go

        figure = go.Figure()
        high = float(max(self.scores.max(), self.null.max()))
        bins = {"start": 0, "end": high + 1e-9, "size": max(high / 50, 1e-6)}
        for name, values, color in (
            ("pool", self.scores, "#5b7db1"),
            ("null: target's latents shuffled", self.null, "#b0b7c3"),
        ):
            figure.add_trace(go.Histogram(x=values.tolist(), name=name, xbins=bins, opacity=0.7, marker_color=color))
        figure.add_vline(float(self.scores[self.texts[-1]]), line_color="#c0504d", annotation_text="chosen from here")
        figure.update_layout(barmode="overlay")
        figure.update_xaxes(title="generalised Jaccard")
        figure.update_yaxes(title="texts")
        return framed(figure, title, self.caption)


def likeness(means: Code, target: Float[Tensor, " latent"], *, clamp: bool = False) -> Float[Tensor, " text"]:
    """Generalised Jaccard of each text's mean code with a target's: sum of minima over sum of maxima, 0..1.

    Raises ValueError for negative values, unless `clamp` sets them to 0 (signed codes: minima and maxima mean nothing),
    and for a text that shares a zero code with a zero target.
    """
    if target.shape != (means.latents,):
        raise ValueError(f"target must be a mean code of {means.latents} latents, got {tuple(target.shape)}")
    rows, latents, values = (part.detach().cpu() for part in means.entries())
    values, target = values.double(), target.detach().cpu().double()
    below = int((values < 0).sum()) + int((target < 0).sum())
    if below and not clamp:
        raise ValueError(f"{below} values are negative: minima over maxima want codes of 0 or more, or clamp=True")
    values, target = values.clamp_min(0), target.clamp_min(0)
    n = len(means)
    shared = torch.zeros(n, dtype=torch.float64).index_add_(0, rows, torch.minimum(values, target[latents]))
    own = torch.zeros(n, dtype=torch.float64).index_add_(0, rows, values)
    either = own + target.sum() - shared
    if bool((either == 0).any()):
        raise ValueError(f"the target is zero and so are {int((either == 0).sum())} texts: likeness is 0 / 0")
    return (shared / either).float()


def mona(
    means: Code,
    target: Float[Tensor, " latent"],
    *,
    share: float = 0.05,
    tokens: Int[Tensor, " text"] | None = None,
    clamp: bool = False,
    draws: int = 20,
    seed: int = 0,
) -> Mona:
    """The `share` of a pool whose mean codes are most like a target task's mean code (`mean_code`, averaged).

    Null: the target's values at shuffled latents, among those active anywhere in pool or target.
    Raises ValueError for a share that chooses no text, and as `likeness` does.
    Source: Ma et al. 2025, arXiv 2503.15573: codes of the last but one layer, K = 192, the best 5 %.
    """
    n = len(means)
    many = round(share * n)
    if not 0 < share <= 1 or many < 1:
        raise ValueError(f"share must choose 1..{n} texts of {n}, got {share}")
    scores = likeness(means, target, clamp=clamp)
    rng = np.random.default_rng([seed, NULL])
    used = ((means.fired().cpu() > 0) | (target.cpu() != 0)).nonzero()[:, 0]
    nulls = []
    for _ in range(draws):
        moved = torch.zeros_like(target)
        moved[used] = target[used][torch.from_numpy(rng.permutation(len(used)))]
        nulls.append(likeness(means, moved, clamp=clamp))
    best = torch.stack([one.sort(descending=True).values[:many].mean() for one in nulls])
    texts = scores.argsort(descending=True, stable=True)[:many]
    length = None if tokens is None else _spearman(scores, tokens)
    return Mona(scores, texts, nulls[0], Against(float(scores[texts].mean()), best), share, length)


def _selected(
    method: str,
    active: Any,
    order: list[int],
    gains: list[int],
    resets: int,
    tokens: Tensor | None,
    draws: int,
    seed: int,
) -> Selected:
    n = active.shape[0]
    size = np.diff(active.indptr)
    length = np.ones(n, np.int64) if tokens is None else tokens.cpu().numpy()
    if length.shape != (n,) or length.min() < 1:
        raise ValueError(f"tokens must be the length, 1 or more, of each of {n} texts, got {tuple(length.shape)}")
    rng = np.random.default_rng([seed, NULL])
    picks = [rng.permutation(n)[: len(order)] for _ in range(draws)]
    longest = np.argsort(-length, kind="stable")[: len(order)]
    covered, random = _coverage(active, order), torch.stack([_coverage(active, p) for p in picks])
    return Selected(
        torch.tensor(order),
        torch.tensor(gains),
        covered,
        torch.from_numpy(length[order].cumsum()),
        random.double(),
        torch.from_numpy(np.stack([length[p].cumsum() for p in picks])).double(),
        _coverage(active, longest).double(),
        torch.from_numpy(length[longest].cumsum()).double(),
        Against(float(covered[-1]), random[:, -1]),
        resets,
        _spearman(torch.from_numpy(length), torch.from_numpy(size)),
        method,
    )


def _coverage(active: Any, order: Sequence[int] | np.ndarray) -> Tensor:
    """Distinct latents of the first text, the first two, and so on."""
    seen, found = np.zeros(active.shape[1], bool), []
    for text in order:
        seen[active.indices[active.indptr[text] : active.indptr[text + 1]]] = True
        found.append(int(seen.sum()))
    return torch.tensor(found)


def _spearman(a: Tensor, b: Tensor) -> float:
    from scipy.stats import spearmanr

    if len(a) < 2 or a.unique().numel() < 2 or b.unique().numel() < 2:
        return float("nan")
    return float(spearmanr(a.cpu().numpy(), b.cpu().numpy())[0])  # pyright: ignore[reportArgumentType]


def _active(sets: Code, budget: int) -> Any:
    from scipy.sparse import coo_array

    rows, latents, _ = (part.detach().cpu().numpy() for part in sets.entries())
    active = coo_array((np.ones(len(rows), np.int64), (rows, latents)), shape=(len(sets), sets.latents)).tocsr()
    some = int((np.diff(active.indptr) > 0).sum())
    if not 1 <= budget <= some:
        raise ValueError(f"budget must be 1..{some}, the texts with an active latent, got {budget}")
    return active


def _entries(code: Code, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if texts.shape != (len(code),):
        raise ValueError(f"texts must be the text of each of {len(code)} rows, got {tuple(texts.shape)}")
    if len(texts) and int(texts.min()) < 0:
        raise ValueError(f"texts are numbered from 0, got {int(texts.min())}")
    rows, latents, values = (part.detach().cpu() for part in code.entries())
    return rows, latents, values


def _count(texts: Tensor, count: int | None) -> int:
    least = int(texts.max()) + 1 if len(texts) else 0
    if (count or least) < max(least, 1):
        raise ValueError(f"count must be {max(least, 1)} or more texts, got {count or least}")
    return count or least


def _sets(where: Tensor, latents: Tensor, n: int, width: int) -> Code:
    ends = torch.zeros(n + 1, dtype=torch.int64)
    ends[1:] = torch.bincount(where, minlength=n).cumsum(0)
    return Code.csr(ends, latents, torch.ones(len(latents)), width)
