"""When latents form and how far they move while a model trains, over checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from ..code import Code
from .beside import Against, framed
from .layers import ALL_PAIRS, CANDIDATES, FRESH
from .match import NULL, match, random_directions

BY = ("cosine", "jaccard", "weighted")
KINDS = ("token", "weak", "concept", "unformed")


class Tops(NamedTuple):
    """The rows where each latent is strongest, the strongest first; latents that are on in fewer rows are left out."""

    latents: Int[Tensor, " some"]
    rows: Int[Tensor, "some top"]


def tops(code: Code, top: int = 25) -> Tops:
    """The `top` rows of each latent in a code of all rows. Raises ValueError when no latent is on in so many."""
    if top < 2:
        raise ValueError(f"a latent's rows are compared with each other: top must be 2 or more, got {top}")
    rows, latents, values = (x.cpu().numpy() for x in code.detach().entries())
    order = np.lexsort((rows, -values, latents))
    counts = np.bincount(latents, minlength=code.latents)
    begins, kept = counts.cumsum() - counts, np.flatnonzero(counts >= top)
    if not len(kept):
        raise ValueError(f"no latent is on in {top} of the {len(code)} rows: take more rows or a smaller top")
    found = rows[order][begins[kept][:, None] + np.arange(top)]
    return Tops(torch.from_numpy(kept), torch.from_numpy(found))


@dataclass(frozen=True, eq=False)
class Formation:
    """Formation progress: how much more alike a latent's top rows are than random rows, at each checkpoint."""

    labels: tuple[str, ...]
    progress: Float[Tensor, "step latent"]
    random: Float[Tensor, " step"]  # likeness of random rows, already taken off
    null: Float[Tensor, "draw step"]  # mean progress of latents whose rows are shuffled among them
    null_latents: Float[Tensor, "step latent"]  # of the first of these draws, latent by latent
    by: str
    rows: Int[Tensor, "latent top"]

    @property
    def table(self) -> pd.DataFrame:
        """A line for each checkpoint: mean and quartiles over latents, the null's mean and 95 % range, z, p."""
        lines = []
        for step, label in enumerate(self.labels):
            low, middle, high = (float(self.progress[step].quantile(q)) for q in (0.25, 0.5, 0.75))
            beside = Against(float(self.progress[step].mean()), self.null[:, step])
            lines.append(
                {
                    "checkpoint": label, "progress": beside.value, "q25": low, "median": middle, "q75": high,
                    "null": float(beside.null.mean()), "null_low": float(beside.null.quantile(0.025)),
                    "null_high": float(beside.null.quantile(0.975)), "z": beside.z, "p": beside.p,
                    "random": float(self.random[step]),
                }
            )  # fmt: skip
        return pd.DataFrame(lines)

    def formed(self, share: float = 0.9) -> Int[Tensor, " latent"]:
        """Number of the checkpoint from which on a latent keeps `share` of its last progress; -1 where that is <= 0.

        Not the first that has it: rows that look alike for other reasons early in training lose that again.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must be within 0..1, got {share}")
        last = self.progress[-1]
        keeps = (self.progress >= share * last).int().flip(0).cumprod(0).sum(0)
        return torch.where(last > 0, len(self.progress) - keeps, -1)

    def kinds(self, tokens: Int[Tensor, " row"], *, token: float = 0.8, concept: float = 0.4) -> list[str]:
        """What each latent is, by the share of its top rows that its commonest token has: `token` or more: "token";
        `concept` or less: "concept"; "weak" between. "unformed": last progress not above 99 % of the shuffled ones.

        `tokens` are the ids (or words) of all rows; where several ids are one word, map them first. The levels are
        ours. Source: Xu et al. 2024, arXiv 2412.17626, who sort by hand.
        """
        if not 0 <= concept < token <= 1:
            raise ValueError(f"levels must be shares with concept below token, got {concept} and {token}")
        if len(tokens) <= int(self.rows.max()):
            raise ValueError(f"tokens must name every row up to {int(self.rows.max())}, got {len(tokens)}")
        own = tokens.cpu()[self.rows]
        share = (own[:, :, None] == own[:, None, :]).double().mean(-1).amax(-1)
        formed = self.progress[-1] > self.null_latents[-1].quantile(0.99)
        return [
            "unformed" if not f else "token" if s >= token else "concept" if s <= concept else "weak"
            for s, f in zip(share.tolist(), formed.tolist(), strict=True)
        ]

    @property
    def caption(self) -> str:
        table = self.table
        first, last = table.iloc[0], table.iloc[-1]
        return (
            f"{self.by} of {self.rows.shape[1]} top rows of {len(self.rows):,} latents, less that of random rows: "
            f"{first.progress:.2f} at {first.checkpoint}, {last.progress:.2f} at {last.checkpoint}. Rows shuffled "
            f"among latents {first.null:.2f} and {last.null:.2f} ({len(self.null)} draws; z at the end {last.z:.0f}, "
            f"p {last.p:.2f})."
        )

    def figure(self, kinds: Sequence[str] | None = None, title: str = "Formation of latents") -> Any:
        """A panel for each kind (one without): mean progress and quartiles over checkpoints, with shuffled rows."""
        from plotly.subplots import make_subplots

        kinds = ["all"] * self.progress.shape[1] if kinds is None else list(kinds)
        if len(kinds) != self.progress.shape[1]:
            raise ValueError(f"kinds must name each of {self.progress.shape[1]} latents, got {len(kinds)}")
        shown = [k for k in (*KINDS, "all") if k in kinds]
        if missing := sorted(set(kinds) - {*KINDS, "all"}):
            raise ValueError(f"kinds are {', '.join(KINDS)}, got {', '.join(missing)}")
        titles = [f"{k} ({kinds.count(k)} latents)" for k in shown]
        figure, x = make_subplots(1, len(shown), shared_yaxes=True, subplot_titles=titles), list(self.labels)
        low, high = self.null.quantile(0.025, 0).tolist(), self.null.quantile(0.975, 0).tolist()
        for at, kind in enumerate(shown, 1):
            part = self.progress[:, torch.tensor([k == kind for k in kinds])]
            quarter, most = (part.quantile(q, 1).tolist() for q in (0.25, 0.75))
            _band(figure, x, quarter, most, "#5b7db1", "quartiles", at)
            figure.add_scatter(
                x=x, y=part.mean(1).tolist(), name="mean of latents", line={"color": "#5b7db1"}, showlegend=at == 1,
                row=1, col=at,
            )  # fmt: skip
            _band(figure, x, low, high, "#d9a05b", "null: rows shuffled among latents, 95 %", at)
            figure.add_scatter(
                x=x, y=self.null.mean(0).tolist(), name="its mean", line={"color": "#d9a05b", "dash": "dot"},
                showlegend=at == 1, row=1, col=at,
            )  # fmt: skip
        figure.update_xaxes(type="category", title="checkpoint").update_yaxes(title="progress", col=1)
        return framed(figure, title, self.caption)


@torch.no_grad()
def formation(
    states: Mapping[str, Float[Tensor, "row d"] | Code],
    rows: Int[Tensor, "latent top"],
    *,
    by: str = "cosine",
    center: bool = True,
    random: int = 150,
    draws: int = 20,
    seed: int = 0,
) -> Formation:
    """How alike the model's rows at a latent's top positions are at each checkpoint, less what random rows are.

    `states`: for each checkpoint, in order, the rows of the same tokens (activations, or a dictionary's code of them);
    `rows`: the last dictionary's top rows (`tops`). Likeness is the mean over pairs of two rows: "cosine"; of codes
    also "jaccard" of what is on and "weighted" (sum of minima / sum of maxima, codes not negative). Rows with nothing
    on are like none. Null: top rows shuffled among the latents, `draws` times. The random rows are the same at all
    checkpoints. `center` takes the mean of all rows off activations first, at each checkpoint.
    Raises ValueError for checkpoints of different tokens, rows beyond them, an unknown or unfit likeness.
    Source: Xu et al. 2024, arXiv 2412.17626 (SAE-Track); theirs does not centre.
    """
    lengths = {len(state) for state in states.values()}
    if len(states) < 2 or len(lengths) != 1:
        raise ValueError(f"formation wants two checkpoints or more of the same tokens, got {len(states)} of {lengths}")
    n, (latents, top) = lengths.pop(), rows.shape
    if top < 2 or not latents or int(rows.min()) < 0 or int(rows.max()) >= n:
        raise ValueError(f"rows must be two or more numbers 0..{n - 1} for each latent, got {tuple(rows.shape)}")
    if by not in BY or (by != "cosine" and not all(isinstance(s, Code) for s in states.values())):
        raise ValueError(f"by must be one of {', '.join(BY)} (activations have a cosine only), got {by!r}")
    if draws < 2 or not 2 <= random <= n:
        raise ValueError(f"draws must be 2 or more and random 2..{n}, got {draws} and {random}")
    rng, rows = np.random.default_rng([seed, NULL]), rows.cpu()
    some = torch.from_numpy(rng.choice(n, random, replace=False))[None]
    shuffles = [rows.flatten()[torch.from_numpy(rng.permutation(rows.numel()))].view_as(rows) for _ in range(draws)]
    progress, base, null, one = [], [], [], []
    for label, state in states.items():
        alike = _alike(state, by, label, center)
        base.append(alike(some)[0])
        progress.append(alike(rows) - base[-1])
        chance = [alike(other) - base[-1] for other in shuffles]
        null.append(torch.stack([c.mean() for c in chance]))
        one.append(chance[0])
    return Formation(
        tuple(states), torch.stack(progress), torch.stack(base), torch.stack(null, 1), torch.stack(one), by, rows
    )


def mean_directions(
    states: Mapping[str, Float[Tensor, "row d"]], rows: Int[Tensor, "latent top"]
) -> dict[str, Float[Tensor, "latent d"]]:
    """The mean activation at each latent's top rows, at each checkpoint: for `drift`, as if it were the atom."""
    return {label: embedding_bag(rows, state, mode="mean") for label, state in states.items()}


@dataclass(frozen=True, eq=False)
class Drift:
    """Where each latent of the last checkpoint stood before. NaN where a matching gave it no partner."""

    labels: tuple[str, ...]
    cosines: Float[Tensor, "step latent"]  # with its own last direction; the last row is 1
    moves: Float[Tensor, "move latent"]  # distance between unit directions of neighbouring checkpoints
    null: Float[Tensor, "draw step"]  # mean cosine with other latents at random; matched: of matched random directions
    matched: bool

    @property
    def length(self) -> Float[Tensor, " latent"]:
        """Length of the trajectory: the sum of a latent's moves. At least the straight way from first to last."""
        return self.moves.sum(0)

    @property
    def table(self) -> pd.DataFrame:
        """A line for each checkpoint: cosine with the last (mean, quartiles), null mean and range, the next move."""
        lines = []
        for step, label in enumerate(self.labels):
            own, chance = self.cosines[step], self.null[:, step]
            beside = Against(float(own.nanmean()), chance)
            low, high = (float(own.nanquantile(q)) for q in (0.25, 0.75))
            move = float(self.moves[step].nanmean()) if step < len(self.moves) else float("nan")
            lines.append(
                {
                    "checkpoint": label, "cosine": beside.value, "q25": low, "q75": high, "null": float(chance.mean()),
                    "null_low": float(chance.min()), "null_high": float(chance.max()), "p": beside.p, "move": move,
                    "partners": float(own.isfinite().double().mean()),
                }
            )  # fmt: skip
        return pd.DataFrame(lines)

    @property
    def caption(self) -> str:
        first, length = self.table.iloc[0], float(self.length.nanmean())
        kind = "matched random directions" if self.matched else "other latents"
        return (
            f"Cosine of {self.cosines.shape[1]:,} latents with their last direction: {first.cosine:.2f} at "
            f"{first.checkpoint} ({kind} {first.null:.2f}). Mean trajectory {length:.2f}"
            f"{', each checkpoint matched with the last' if self.matched else ''}."
        )

    def figure(self, title: str = "Drift of latents") -> Any:
        """Cosine with the last direction and the move to the next checkpoint, over checkpoints, with the null."""
        from plotly.subplots import make_subplots

        figure = make_subplots(1, 2, subplot_titles=["cosine with the last", "move to the next"])
        x, table = list(self.labels), self.table
        _band(figure, x, table.q25.tolist(), table.q75.tolist(), "#5b7db1", "quartiles", 1)
        figure.add_scatter(x=x, y=table.cosine, name="mean of latents", line={"color": "#5b7db1"}, row=1, col=1)
        name = "null: matched random directions" if self.matched else "null: other latents"
        figure.add_scatter(x=x, y=table.null, name=name, line={"color": "#888888", "dash": "dot"}, row=1, col=1)
        figure.add_bar(x=x[:-1], y=table.move[:-1], marker_color="#5b7db1", showlegend=False, row=1, col=2)
        figure.add_hline(2**0.5, line={"dash": "dot", "color": "#888888"}, row=1, col=2)  # pyright: ignore
        figure.update_xaxes(type="category", title="checkpoint")
        return framed(figure, title, self.caption)


def drift(atoms: Mapping[str, Float[Tensor, "_ d"]], *, matched: bool = False, draws: int = 20, seed: int = 0) -> Drift:
    """Cosine of each latent's direction with its last one, and how long its way was, over checkpoints.

    A latent is its number (a series of dictionaries, each begun from the one before: SAE-Track); with `matched`, each
    checkpoint's atoms are matched with the last's first, as independent dictionaries want, and widths may differ. A
    matching finds cosines above 0 in anything: then the null is matched random directions (one draw, not `draws`).
    Raises ValueError for fewer than two checkpoints, or numbers of latents that differ without `matched`.
    Source: Xu et al. 2024, arXiv 2412.17626; ours measures moves between unit directions.
    """
    shapes = {label: tuple(one.shape) for label, one in atoms.items()}
    if len(atoms) < 2 or len({s[1] for s in shapes.values()}) > 1:
        raise ValueError(f"drift wants two checkpoints or more of one width, got {shapes}")
    if not matched and len(set(shapes.values())) > 1:
        raise ValueError(f"latents are followed by their numbers, so these must be alike: {shapes}; or matched=True")
    if draws < 2:
        raise ValueError(f"a null wants draws of 2 or more, got {draws}")
    for label, one in atoms.items():
        if bad := int((~(one.norm(dim=1).isfinite() & (one.norm(dim=1) > 0))).sum()):
            raise ValueError(f"{bad} of {len(one)} atoms at {label} are zero or not finite: leave those latents out")
    unit = [normalize(one.detach().cpu().double(), dim=1) for one in atoms.values()]
    last, rng, chance = unit[-1], np.random.default_rng([seed, NULL]), []
    for step, one in enumerate(unit):
        if matched:
            few = None if len(last) * len(one) <= ALL_PAIRS else CANDIDATES
            if step < len(unit) - 1:
                to = match(last, one, candidates=few).partners(len(last))
                unit[step] = torch.where((to >= 0)[:, None], one[to], torch.nan)
            other = random_directions(*one.shape, seed=FRESH + 1000 * seed + step)
            chance.append(match(last, other, candidates=few).cosines.double().mean()[None])
        else:
            orders = (_elsewhere(rng, len(last)) for _ in range(draws))
            chance.append(torch.stack([(one * last[order]).sum(1).mean() for order in orders]))
    way = torch.stack(unit)
    return Drift(
        tuple(atoms), (way * last).sum(-1).clamp(-1, 1), (way[1:] - way[:-1]).norm(dim=-1), torch.stack(chance, 1),
        matched,
    )  # fmt: skip


def _elsewhere(rng: np.random.Generator, n: int) -> Tensor:
    """A random order in which nothing stays in its place, if there are two or more: one random cycle."""
    order = rng.permutation(n)
    found = np.empty(n, np.int64)
    found[order] = np.roll(order, 1)
    return torch.from_numpy(found)


def _alike(state: Any, by: str, label: str, center: bool) -> Any:
    """A function: for each line of row numbers, the mean likeness of two different rows in it."""
    if not isinstance(state, Code):
        if bad := int((~state.isfinite().all(1)).sum()):
            raise ValueError(f"{bad} of {len(state)} rows at {label} are not finite")
        state = state.double().cpu()
        unit = normalize(state - state.mean(0) if center else state, dim=1)
        own = unit.square().sum(1)

        def cosine(rows: Tensor) -> Tensor:
            n = rows.shape[1]
            whole = embedding_bag(rows, unit, mode="sum").square().sum(1)
            return (whole - own[rows].sum(1)) / (n * (n - 1))

        return cosine
    code = state.detach().to_csr()
    assert code.indices is not None and code.offsets is not None
    offsets, indices, values = code.offsets.cpu(), code.indices.cpu(), code.values.double().cpu()
    if by == "weighted" and bool((values < 0).any()):
        raise ValueError(f"weighted likeness is of codes that are not negative: the code at {label} has signs")

    def likeness(rows: Tensor) -> Tensor:
        return torch.stack([_of_codes(_gathered(line, offsets, indices, values), by) for line in rows])

    return likeness


def _gathered(rows: Tensor, offsets: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """Some rows of a sparse code as (row, latents that are on in one of them)."""
    counts = offsets[rows + 1] - offsets[rows]
    line = torch.repeat_interleave(torch.arange(len(rows)), counts)
    entry = torch.arange(len(line)) - (counts.cumsum(0) - counts)[line] + offsets[rows][line]
    columns, place = indices[entry].unique(return_inverse=True)
    return torch.zeros(len(rows), len(columns)).double().index_put((line, place), values[entry])


def _of_codes(z: Tensor, by: str) -> Tensor:
    n = len(z)
    if by == "cosine":
        unit = normalize(z, dim=1)
        pairs = unit @ unit.T
    else:
        z = (z != 0).double() if by == "jaccard" else z
        least = torch.minimum(z[:, None], z[None]).sum(-1)
        most = z.sum(1)[:, None] + z.sum(1)[None] - least
        pairs = torch.where(most > 0, least / most.clamp_min(1e-300), 0)
    return (pairs.sum() - pairs.diagonal().sum()) / (n * (n - 1))


def _band(figure: Any, x: list[str], low: list[float], high: list[float], color: str, name: str, col: int) -> None:
    figure.add_scatter(
        x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", name=name, legendgroup=name, showlegend=col == 1,
        line={"width": 0}, fillcolor=color, opacity=0.3, mode="lines", row=1, col=col,
    )  # fmt: skip
