"""Where a residual latent comes from: carried by the stream, processed, or newborn in a layer's MLP or attention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..code import Code
from .beside import Against, framed
from .layers import FRESH
from .match import NULL, nearest, random_directions
from .neighbours import CHUNK, directions

SOURCES = ("resid", "mlp", "attention")
LABELS = ("carried", "processed", "newborn", "unexplained")
COLORS = {"carried": "#5b7db1", "processed": "#6a9f6a", "newborn": "#d9a05b", "unexplained": "#b8b8b8"}


@dataclass(frozen=True, eq=False)
class Flow:
    """Each latent of each layer with the most similar atom of what came before it, and the graph of these.

    `table`: a line for each latent: layer, latent, cosine and number of the nearest atom of each source (`resid`,
    `resid_from`, `mlp`, ...; NaN and -1 where a layer lacks a source), label. `profile`: a line for each layer and
    label: its share, and `chance`, its share among the null's directions. `edges`: a line for each latent and source
    whose cosine is above the threshold: layer, latent, source, source_layer, source_latent, cosine. `thresholds`: a
    line for each layer and source.
    """

    table: pd.DataFrame
    profile: pd.DataFrame
    edges: pd.DataFrame
    thresholds: pd.DataFrame
    null: str
    level: float

    def back(self, layer: int, latent: int) -> pd.DataFrame:
        """The edges met on the way back from one latent: residual ones go on, those from an MLP or attention end."""
        if not ((self.table.layer == layer) & (self.table.latent == latent)).any():
            raise ValueError(f"no latent {latent} of layer {layer} here: layers are {sorted(set(self.table.layer))}")
        found, frontier = [], {latent}
        while frontier:
            step = self.edges[(self.edges.layer == layer) & self.edges.latent.isin(frontier)]
            found.append(step)
            on = step.loc[step["source"] == "resid"]
            frontier = {int(latent) for latent in on["source_latent"]}
            layer = int(on["source_layer"].min()) if frontier else layer
        return pd.concat(found, ignore_index=True)

    @property
    def caption(self) -> str:
        by = self.profile.pivot_table(index="label", values=["share", "chance"])
        said = ", ".join(f"{x} {by.loc[x, 'share']:.0%} (chance {by.loc[x, 'chance']:.1%})" for x in LABELS)
        return (
            f"{len(self.table):,} latents of {self.table.layer.nunique()} layers: {said}. Similar: cosine with the "
            f"nearest atom above {self.level:.0%} of that of {NULLS[self.null]}."
        )

    def figure(self, title: str = "Feature flow") -> Any:
        """A panel for each label: its share by layer, and that among the null's directions."""
        from plotly.subplots import make_subplots

        figure = make_subplots(1, len(LABELS), shared_yaxes=True, subplot_titles=LABELS)
        for at, label in enumerate(LABELS, 1):
            part = self.profile[self.profile.label == label]
            figure.add_bar(
                x=part.layer, y=part.share, marker_color=COLORS[label], name=label, showlegend=False, row=1, col=at
            )
            figure.add_scatter(
                x=part.layer, y=part.chance, mode="lines+markers", name="null: " + NULLS[self.null],
                line={"color": "#444", "dash": "dot"}, showlegend=at == 1, row=1, col=at,
            )  # fmt: skip
        figure.update_xaxes(type="category", title="layer").update_yaxes(title="share of latents", range=[0, 1], col=1)
        return framed(figure, title, self.caption)


NULLS = {"mixed": "random mixtures of the layer's atoms", "sphere": "random directions"}


def flow(
    resid: Mapping[int, Float[Tensor, "_ _"]],
    mlp: Mapping[int, Float[Tensor, "_ _"]] | None = None,
    attention: Mapping[int, Float[Tensor, "_ _"]] | None = None,
    *,
    level: float = 0.99,
    null: str = "mixed",
    draws: int = 2000,
    seed: int = 0,
) -> Flow:
    """Feature flow: each residual latent's largest cosine with atoms of the last residual, the MLP, the attention.

    The keys are layers: `resid[l]` are atoms of the stream after layer l; the one before is the next lower key.
    `mlp[l]` and `attention[l]` are atoms of what layer l adds to the stream (attention after its output matrix); where
    keys skip layers, what these add is not seen. A cosine is high above the `level` quantile of the cosines that
    `draws` null directions have with the same atoms, one threshold per layer and source: "mixed" are Gaussian mixtures
    of the layer's own atoms, which have their common directions; "sphere" random directions. carried: high with the
    last residual alone; processed: with it and the MLP or attention; newborn: with these alone; unexplained: none.
    Chance is the labels' shares among as many new null directions. Leave dead latents out.
    Raises ValueError for fewer than two layers, widths that differ, an unknown null, atoms that are zero or not finite.
    Source: Laptev et al. 2025, arXiv 2502.03032; the null's thresholds are ours.
    """
    mlp, attention = mlp or {}, attention or {}
    layers = sorted(resid)
    widths = sorted({x.shape[1] for part in (resid, mlp, attention) for x in part.values()})
    if len(layers) < 2 or len(widths) != 1:
        raise ValueError(f"flow wants two residual layers or more and one width, got layers {layers}, widths {widths}")
    if lost := sorted((set(mlp) | set(attention)) - set(layers[1:])):
        raise ValueError(f"mlp and attention want layers of {layers[1:]} (the first residual has no past), got {lost}")
    if not 0 < level < 1 or null not in NULLS or draws < 100:
        raise ValueError(f"level within 0..1, null {' or '.join(NULLS)}, draws >= 100, got {level}, {null!r}, {draws}")
    tables, profile, edges, levels = [], [], [], []
    for before, layer in zip(layers[:-1], layers[1:], strict=True):
        own = directions(resid[layer]).cpu()
        part = {"layer": np.full(len(own), layer), "latent": np.arange(len(own))}
        given = (before, resid[before]), (layer, mlp.get(layer)), (layer, attention.get(layer))
        chance = _null(own, 2 * draws, null, FRESH + 1000 * seed + layer)
        high, lucky = {}, {}
        for source, (where, atoms) in zip(SOURCES, given, strict=True):
            if atoms is None:
                part |= {source: np.full(len(own), np.nan), f"{source}_from": np.full(len(own), -1)}
                high[source], lucky[source] = np.zeros(len(own), bool), np.zeros(draws, bool)
                continue
            found = nearest(own, atoms.cpu())
            drawn = nearest(chance, atoms.cpu()).cosines
            threshold = float(drawn[:draws].quantile(level))
            part |= {source: found.cosines.numpy(), f"{source}_from": found.indices.numpy()}
            high[source], lucky[source] = (found.cosines > threshold).numpy(), (drawn[draws:] > threshold).numpy()
            levels.append({"layer": layer, "source": source, "threshold": threshold, "null": float(drawn.mean())})
            which = np.flatnonzero(high[source])
            edges.append(
                pd.DataFrame(
                    {
                        "layer": layer,
                        "latent": which,
                        "source": source,
                        "source_layer": where,
                        "source_latent": part[f"{source}_from"][which],
                        "cosine": part[source][which],
                    }
                )  # fmt: skip
            )
        labels, expected = _labels(high), _labels(lucky)
        tables.append(pd.DataFrame(part | {"label": labels}))
        profile += [
            {"layer": layer, "label": x, "share": float((labels == x).mean()), "chance": float((expected == x).mean())}
            for x in LABELS
        ]
    found, graph = (pd.concat(parts, ignore_index=True) for parts in (tables, edges))
    return Flow(found, pd.DataFrame(profile), graph, pd.DataFrame(levels), null, level)


@dataclass(frozen=True, eq=False)
class Origins:
    """Validation 1: does the cosine with a source tell whether that source's atom fires along with the latent?

    `table`: a line for each latent that fires: for each source the cosine, the share of the latent's rows in which its
    predecessor fires (`..._fires`), that in all rows (`..._base`), and whether it is "From" it (`..._is`). `scores`: a
    line for each source: AUROC of the cosine for "From", 0.5 by chance, its 95 % range over shuffled labels, z, the
    one-sided p of Mann-Whitney, and the numbers of latents.
    """

    table: pd.DataFrame
    scores: pd.DataFrame
    at: float

    @property
    def caption(self) -> str:
        lines = self.scores.to_dict("records")
        said = ", ".join(f"{x['source']} {x['auroc']:.2f} (p {x['p']:.1g})" for x in lines)
        return (
            f"AUROC of the cosine for whether the predecessor fires in {self.at:.0%} of a latent's rows: {said}. "
            f"Chance 0.5; {len(self.table):,} latents that fire."
        )

    def figure(self, title: str = "Does cosine tell where a latent comes from?") -> Any:
        """A panel for each source: cosines of latents from it and of the others; the others are the null."""
        from plotly.subplots import make_subplots

        shown, lines = list(self.scores.source), self.scores.to_dict("records")
        titles = [f"{x['source']}: AUROC {x['auroc']:.2f}, null {x['low']:.2f} to {x['high']:.2f}" for x in lines]
        figure = make_subplots(1, len(shown), shared_yaxes=True, subplot_titles=titles)
        for at, source in enumerate(shown, 1):
            yes = self.table[f"{source}_is"].to_numpy(bool)
            for name, which, color in (("null: not from it", ~yes, "#b8b8b8"), ("from it", yes, "#5b7db1")):
                figure.add_box(
                    y=self.table[source][which], name=name, marker_color=color, boxpoints=False, showlegend=at == 1,
                    legendgroup=name, row=1, col=at,
                )  # fmt: skip
        figure.update_xaxes(showticklabels=False).update_yaxes(title="cosine with the predecessor", col=1)
        return framed(figure, title, self.caption)


def origins(
    latents: pd.DataFrame, code: Code, sources: Mapping[str, Code], *, at: float = 0.5, draws: int = 200, seed: int = 0
) -> Origins:
    """Label latents "From X" by which predecessors fire where they fire, and ask whether cosines tell.

    `latents`: the lines of one layer of `Flow.table`; `code` and `sources` ("resid", "mlp", "attention"): the codes of
    the same rows by that layer's dictionary and by those before it. A latent is "From X" when its predecessor in X
    fires in the share `at` of its rows or more.
    Raises ValueError for rows that differ, lines of several layers, a source without predecessors.
    Source: Laptev et al. 2025, arXiv 2502.03032; theirs labels each token, ours each latent.
    """
    from scipy.stats import mannwhitneyu

    lengths = [len(code), *(len(c) for c in sources.values())]
    if not sources or len(set(lengths)) > 1:
        raise ValueError(f"codes must be of the same rows and one source or more, got {lengths} rows")
    if latents.layer.nunique() != 1 or not 0 < at <= 1:
        raise ValueError(f"give the lines of one layer and a share within 0..1, got {latents.layer.nunique()} and {at}")
    if strange := sorted(set(sources) - set(SOURCES)):
        raise ValueError(f"sources are {', '.join(SOURCES)}, got {', '.join(strange)}")
    which = torch.tensor(latents["latent"].tolist())
    if int(which.max()) >= code.latents:
        raise ValueError(f"the lines name latent {int(which.max())}, the code has {code.latents}")
    rows, own, _ = code.entries()
    fires = torch.bincount(own, minlength=code.latents)[which]
    found = latents[["layer", "latent"]].assign(rows=fires.numpy())
    for source, other in sources.items():
        partner = torch.tensor(latents[f"{source}_from"].tolist())
        if int(partner.min()) < 0 or int(partner.max()) >= other.latents:
            raise ValueError(f"the predecessors in {source} must be latents 0..{other.latents - 1} of its code")
        before = torch.full((code.latents,), -1).index_put((which,), partner)[own]
        there, on, _ = other.entries()
        hit = torch.isin(rows.long() * other.latents + before, there.long() * other.latents + on)
        share = torch.bincount(own[hit], minlength=code.latents)[which] / fires.clamp_min(1)
        base = torch.bincount(on, minlength=other.latents)[partner] / len(code)
        own_lines = {"": torch.tensor(latents[source].tolist()), "_fires": share, "_base": base, "_is": share >= at}
        found = found.assign(**{source + end: column.numpy() for end, column in own_lines.items()})
    found = found.loc[found["rows"] > 0].reset_index(drop=True)
    if found.empty:
        raise ValueError("none of these latents fires on these rows: give more")
    rng, lines = np.random.default_rng([seed, NULL]), []
    for source in sources:
        yes, cosine = found[f"{source}_is"].to_numpy(bool), found[source].to_numpy()
        n, m = int(yes.sum()), int((~yes).sum())
        auroc, p, beside = float("nan"), float("nan"), Against(float("nan"), torch.full((draws,), torch.nan))
        if n and m:
            test = mannwhitneyu(cosine[yes], cosine[~yes], alternative="greater")
            auroc, p = float(test.statistic) / (n * m), float(test.pvalue)
            chance = [_auroc(cosine, yes[rng.permutation(len(yes))]) for _ in range(draws)]
            beside = Against(auroc, torch.tensor(chance))
        low, high = (float(beside.null.quantile(q)) for q in (0.025, 0.975))
        lines.append(
            {"source": source, "auroc": auroc, "low": low, "high": high, "z": beside.z, "p": p, "from": n, "others": m}
        )
    return Origins(found, pd.DataFrame(lines), at)


def predecessors(
    targets: Float[Tensor, "target d"], atoms: Float[Tensor, "_ d"], *, top: int = 5, seed: int = 0
) -> dict[str, Int[Tensor, " target"]]:
    """Whom to take away in the deactivation test: the most similar atom, one at random of the `top`, one of all.

    The controls may hit the first by chance, as the paper's do. Raises ValueError unless 2 <= top <= atoms.
    """
    if not 2 <= top <= len(atoms):
        raise ValueError(f"top must be 2..{len(atoms)} for {len(atoms)} atoms, got {top}")
    one, other = directions(targets).cpu(), directions(atoms).cpu()
    best = torch.cat([(part @ other.T).topk(top, 1).indices for part in one.split(CHUNK)])
    rng = np.random.default_rng([seed, NULL])
    some = torch.from_numpy(rng.integers(top, size=len(one)))
    return {
        "top cosine": best[:, 0],
        f"random of top {top}": best.gather(1, some[:, None])[:, 0],
        "random": torch.from_numpy(rng.integers(len(other), size=len(one))),
    }


def rescaled(
    h: Float[Tensor, "row d"], activation: Float[Tensor, " row"], atom: Float[Tensor, " d"], r: float = 0.0
) -> Float[Tensor, "row d"]:
    """h + a (r - 1) v: a latent's share of the row times r; 0 takes it away, 1 changes nothing, below 0 reverses it."""
    return h + activation[:, None] * (r - 1) * atom


@dataclass(frozen=True, eq=False)
class Deactivation:
    """Validation 2. `table`: arm, target, predecessor, rows, success, change. `scores`: means over targets by arm."""

    table: pd.DataFrame
    scores: pd.DataFrame

    @property
    def caption(self) -> str:
        lines = self.scores.to_dict("records")
        said = ", ".join(f"{x['arm']} {x['success']:.0%} and {x['change']:.2f}" for x in lines)
        return (
            f"Share of a latent's rows where it is off once its predecessor is taken away, and how far it falls (1: to "
            f"nothing): {said}. {self.table.target.nunique()} latents; bars: 95 % over latents."
        )

    def figure(self, title: str = "Deactivation of predecessors") -> Any:
        """Success and activation change of each arm; the random predecessor is the null."""
        from plotly.subplots import make_subplots

        names = ["null: " * (arm == "random") + arm for arm in self.scores.arm]
        color = ["#b8b8b8" if arm == "random" else "#5b7db1" for arm in self.scores.arm]
        figure = make_subplots(1, 2, subplot_titles=["success", "activation change"])
        for at, key in enumerate(("success", "change"), 1):
            high, low = (self.scores[f"{key}_{side}"] for side in ("high", "low"))
            error = {"array": high - self.scores[key], "arrayminus": self.scores[key] - low}
            figure.add_bar(
                x=names, y=self.scores[key], error_y=error, marker_color=color, showlegend=False, row=1, col=at
            )
        return framed(figure, title, self.caption)


def deactivation(
    targets: Sequence[int],
    arms: Mapping[str, Int[Tensor, " target"]],
    run: Callable[[int, int], tuple[Float[Tensor, " row"], Float[Tensor, " row"]]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Deactivation:
    """Does a latent go out when its predecessor is taken away? With other predecessors as controls.

    `run(target, predecessor)` runs the model with the predecessor's activation times r (`rescaled`, or an edit's
    `scale`; r = 0) and gives the target's activations on the rows where it fired, before and after. Success is the
    share of these rows with nothing left; change is 1 - sum after / sum before: 0 unmoved, 1 gone, below 0 risen. Each
    pair is run once. `arms`: as `predecessors` gives them, or other choices. Intervals are bootstraps of targets.
    Raises ValueError for arms that do not fit, or a run whose rows differ or were not active before.
    Source: Laptev et al. 2025, arXiv 2502.03032.
    """
    if not len(targets) or not arms or any(len(which) != len(targets) for which in arms.values()):
        sizes = {arm: len(which) for arm, which in arms.items()}
        raise ValueError(f"each arm names one predecessor for each of {len(targets)} targets, got {sizes}")
    done: dict[tuple[int, int], tuple[int, float, float]] = {}
    lines = []
    for arm, which in arms.items():
        for pair in zip([int(t) for t in targets], which.tolist(), strict=True):
            if pair not in done:
                old, new = (x.double() for x in run(*pair))
                if old.shape != new.shape or not len(old) or not bool((old > 0).all()):
                    raise ValueError(
                        f"run must give target {pair[0]}'s activations on rows where it was above 0, before and after, "
                        f"got {len(old)} and {len(new)} rows, {int((old <= 0).sum())} of them not above 0"
                    )
                done[pair] = len(old), float((new <= 0).double().mean()), float(1 - new.sum() / old.sum())
            rows, success, change = done[pair]
            lines.append(
                {
                    "arm": arm, "target": pair[0], "predecessor": pair[1], "rows": rows, "success": success,
                    "change": change,
                }
            )  # fmt: skip
    table, scores = pd.DataFrame(lines), []
    chosen = np.random.default_rng([seed, NULL]).integers(len(targets), size=(resamples, len(targets)))
    for arm in arms:
        line: dict[str, Any] = {"arm": arm}
        for key in ("success", "change"):
            values = np.array(table.loc[table["arm"] == arm, key])
            low, high = np.quantile(values[chosen].mean(1), (0.025, 0.975))
            line |= {key: float(values.mean()), f"{key}_low": float(low), f"{key}_high": float(high)}
        scores.append(line)
    return Deactivation(table, pd.DataFrame(scores))


def _labels(high: Mapping[str, np.ndarray]) -> np.ndarray:
    added = high["mlp"] | high["attention"]
    return np.select([high["resid"] & ~added, high["resid"] & added, added], np.array(LABELS[:3]), default=LABELS[3])


def _null(own: Tensor, draws: int, null: str, seed: int) -> Tensor:
    if null == "sphere":
        return random_directions(draws, own.shape[1], seed=seed)
    weights = np.random.default_rng([seed, NULL]).standard_normal((draws, len(own)))
    return directions(torch.cat([torch.from_numpy(part).float() @ own for part in np.array_split(weights, 8)]))


def _auroc(values: np.ndarray, yes: np.ndarray) -> float:
    from scipy.stats import rankdata

    n, m = yes.sum(), (~yes).sum()
    return float((rankdata(values)[yes].sum() - n * (n + 1) / 2) / (n * m))
