"""How few nodes does it take? Faithfulness and completeness of circuits of growing size, everything outside ablated.

Faithfulness of a circuit C is (m(C) - m(nothing)) / (m(M) - m(nothing)), M being the model; completeness is that of
all but C: what a complete circuit leaves to the rest is near 0. What is outside has its code set to 0 or to a mean,
what is inside is encoded anew from what it then receives. Marks et al. 2024, arXiv:2403.19647.

The nodes are to be ranked on one set of prompts and the curve drawn on others, or it flatters the ranking:

    ranked = attribution_patching.effects(subject, prompts[0], None, dictionaries, of)
    table = curves.curve(subject, prompts[1:], dictionaries, ranked, of)
    curves.figure(table)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import edit
from ..batch import Tokens
from ..code import Code
from ..dictionary import Dictionary
from ..site import Site
from ..subject import Subject
from ..subject.freeze import Held
from . import replacement, splices
from .graph import Graph

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

Keep = dict[Site, Bool[Tensor, "pos latent_plus_1"]]  # the last is the position's error
Node = tuple[str, int, int]  # site, position (-1: all), latent (-1: error)
ERRORS = ("ranked", "kept", "ablated")
DRAWS = 500


def curve(
    subject: Subject,
    prompts: Sequence[Any],
    dictionaries: splices.Dictionaries,
    effects: "pd.DataFrame",
    of: splices.Metric | Sequence[splices.Metric],
    *,
    errors: str = "ranked",
    mean: Mapping[Any, Float[Tensor, "*pos latent"]] | None = None,
    sizes: Sequence[int] | None = None,
    by_position: bool = True,
) -> "pd.DataFrame":
    """The curve of dictionaries spliced at their sites. `effects`: any table with columns site, pos, latent, effect.

    A circuit of size n is the n nodes of largest |effect|; positions that every prompt excludes do not count. The last
    row is of all nodes, ranked or not: those that are on in some prompt are its size. `of`: one metric, or one for each
    prompt. `errors`: "ranked" among the nodes (rows with latent -1), "kept" always, in m(nothing) too, or "ablated"
    always but in M: the last row is then what the dictionaries alone keep.
    `mean`: by site, codes that ablated ones are set to (`mean_codes`), else 0; errors go to 0. `by_position`: a node is
    a latent at one position; else at all, its effect the sum, as prompts of different wording need.

    Columns size, share (of all nodes), faithfulness with the ends low and high of its 95 % bootstrap interval over
    prompts (NaN for one), completeness, metric m(C) and complement m(M less C) as means, errors, ablation, prompts. The
    shares are of mean metrics, not means of shares. Two runs a size and prompt.
    Raises ValueError when m(M) is m(nothing), for effects at other sites or positions, and other values of `errors`.
    """
    codecs = {Site.of(site): codec for site, codec in dictionaries.items()}
    to = {Site.of(site): value for site, value in (mean or {}).items()}
    _known(errors, set(codecs), set(to))
    made = [_spliced(subject, splices.one_text(subject, prompt, "a prompt"), codecs, to) for prompt in prompts]
    return _curve(made, effects, of, errors, "0" if mean is None else "mean", sizes, by_position)


def replaced(
    subject: Subject,
    prompts: Sequence[Any],
    transcoders: Mapping[int, Dictionary] | Dictionary,
    effects: "pd.DataFrame",
    of: splices.Metric | Sequence[splices.Metric],
    *,
    errors: str = "ranked",
    mean: Mapping[int, Float[Tensor, "*pos latent"]] | None = None,
    sizes: Sequence[int] | None = None,
    by_position: bool = True,
    frozen: bool = True,
) -> "pd.DataFrame":
    """The curve of a graph's nodes in the replacement model; arguments and columns as of `curve`.

    `effects`: `of_graph(graph)`, sites being `mlp_out`. Transcoders stand in for MLPs and encode what they receive, an
    error is what the clean run's MLP wrote more than its transcoder. Attention patterns and norm denominators are held
    at the clean run when `frozen`. MLPs without a transcoder are the model's own and react; effects of their errors do
    not count. `mean`: by layer.
    """
    layers = range(transcoders.shape[0]) if isinstance(transcoders, Dictionary) else sorted(transcoders)
    to = {Site(layer, "mlp_out"): value for layer, value in (mean or {}).items()}
    sites = {Site(layer, "mlp_out") for layer in layers}
    _known(errors, sites, set(to))
    others = (effects["latent"] < 0) & ~effects["site"].isin([str(s) for s in sites])
    ours: Any = effects[~others]
    texts = [splices.one_text(subject, prompt, "a prompt") for prompt in prompts]
    made = [_replaced(subject, text, transcoders, list(layers), to, frozen) for text in texts]
    return _curve(made, ours, of, errors, "0" if mean is None else "mean", sizes, by_position)


def of_graph(graph: Graph, effects: Float[Tensor, " node"] | None = None) -> "pd.DataFrame":
    """A graph's latents and errors as a table of effects, for `replaced`: its influence, unless other values are given.

    `effects`: one for each node of the graph, e.g. a row of `faithful.predicted(graph)`.
    """
    values = graph.influence() if effects is None else effects
    if values.shape != (len(graph.nodes),):
        raise ValueError(f"effects must be one for each of {len(graph.nodes)} nodes, got {tuple(values.shape)}")
    table: Any = graph.nodes.assign(
        effect=values.double().numpy(), site=[f"{layer}.mlp_out" for layer in graph.nodes["layer"]]
    )
    table = table[table["kind"].isin(["latent", "error"])].rename(columns={"value": "clean"}).assign(patch=0.0)
    return table[splices.COLUMNS].reset_index(drop=True)


@torch.no_grad()
def mean_codes(
    subject: Subject, prompts: Sequence[Any], dictionaries: splices.Dictionaries
) -> dict[Site, Float[Tensor, " latent"]]:
    """Each dictionary's mean code over prompts, at positions that the exclusions leave in: what to ablate to."""
    total: dict[Site, list[Tensor]] = {Site.of(site): [] for site in dictionaries}
    for prompt in prompts:
        text = splices.one_text(subject, prompt, "a prompt")
        keep, x = subject.exclusion.by_token(text, subject.special_ids)[0], subject.read(text, list(total))
        for site, codec in zip(total, dictionaries.values(), strict=True):
            rows = x[site][0][keep & codec.exclusion.by_norm(site, x[site][0])]
            total[site].append(codec.encode(rows).to_dense().float())
    return {site: torch.cat(codes).mean(0) for site, codes in total.items()}


def figure(table: "pd.DataFrame") -> "Figure":
    """Faithfulness, with its interval, and completeness against the number of nodes."""
    import plotly.graph_objects as go

    sizes = table["size"].tolist()
    where = [max(size, 0.5) for size in sizes]  # a logarithmic axis has no 0
    errors, ablation, prompts = (table[c].iloc[0] for c in ("errors", "ablation", "prompts"))
    made = go.Figure()
    for name, color in (("faithfulness", "#2f6fde"), ("completeness", "#98a2b3")):
        bars = None
        if name == "faithfulness" and prompts > 1:
            up, down = table["high"] - table[name], table[name] - table["low"]
            bars = {"type": "data", "array": up.tolist(), "arrayminus": down.tolist(), "color": color, "thickness": 1}
        said = {"customdata": sizes, "hovertemplate": f"%{{customdata}} nodes: %{{y:.3f}}<extra>{name}</extra>"}
        y, marks = table[name].tolist(), {"color": color}
        made.add_scatter(x=where, y=y, name=name, mode="lines+markers", marker=marks, error_y=bars, **said)
    for level in (0, 1):
        made.add_hline(y=level, line={"color": "#d0d5dd", "width": 1, "dash": "dot"})
    made.update_xaxes(title="nodes in the circuit", type="log", tickvals=where, ticktext=[str(s) for s in sizes])
    made.update_yaxes(title="share of m(M) - m(nothing)")
    title = f"{prompts} prompt{'s' if prompts > 1 else ''}, codes ablated to {ablation}, errors {errors}"
    return made.update_layout(title=title, template="plotly_white", width=680, height=420)


# ---- one prompt


@dataclass(frozen=True, eq=False)
class _Prompt:
    """`on`: which nodes are there to ablate, by site; `logits`: (1, pos, vocab) with the nodes of a Keep left in."""

    on: Keep
    logits: Callable[[Keep], Tensor]


@torch.no_grad()
def _spliced(subject: Subject, text: Tokens, codecs: Mapping[Site, Any], to: Mapping[Site, Tensor]) -> _Prompt:
    x = subject.read(text, list(codecs))
    left = subject.exclusion.by_token(text, subject.special_ids)[0]
    rows = {s: left & codec.exclusion.by_norm(s, x[s][0]) for s, codec in codecs.items()}
    on = {}
    for site, codec in codecs.items():
        code = codec.encode(x[site][0]).to_dense()
        on[site] = _on(code, _goal(to, site, code), rows[site])

    def one(site: Site, keep: Tensor) -> edit.Edit:
        codec, where = codecs[site], rows[site]

        def change(h: Tensor, at: edit.At) -> Tensor:
            code, error = splices.parts(codec, h[0].float())
            out = ~keep.to(h.device)
            moved = ((_goal(to, site, code) - code) * out[:, :-1]) @ codec.atoms().float() - error * out[:, -1:]
            return h + (moved * where[:, None])[None].to(h.dtype)

        return edit.function(change)

    return _Prompt(on, lambda keep: subject.run(text, {s: one(s, k) for s, k in keep.items()}).logits)


@torch.no_grad()
def _replaced(
    subject: Subject,
    text: Tokens,
    transcoders: Mapping[int, Dictionary] | Dictionary,
    layers: Sequence[int],
    to: Mapping[Site, Tensor],
    frozen: bool,
) -> _Prompt:
    held, left = Held(subject, text), subject.exclusion.by_token(text, subject.special_ids)[0]
    reads, writes = ({i: Site(i, port) for i in layers} for port in ("mlp_in", "mlp_out"))
    if missing := [layer for layer in layers if layer not in range(subject.layers)]:
        raise ValueError(f"the model has layers 0 to {subject.layers - 1}, transcoders are given for {missing}")
    clean = held.run({}, [*reads.values(), *writes.values()]).h
    inputs = {i: clean[reads[i]][0] for i in layers}
    stand_in = _Stack(transcoders, inputs) if isinstance(transcoders, Dictionary) else _Each(transcoders)
    codes = {i: stand_in.code(i, inputs) for i in layers}
    errors = {i: clean[writes[i]][0] - stand_in.written(i, codes, inputs[i]) for i in layers}
    on = {writes[i]: _on(code, _goal(to, writes[i], code), left) for i, code in codes.items()}

    def logits(keep: Keep) -> Tensor:
        received: dict[int, Tensor] = {}
        codes: dict[int, Tensor] = {}

        def read(layer: int) -> Any:
            return lambda h, at: received.setdefault(layer, h[0])[None]

        def write(layer: int) -> Any:
            def change(h: Tensor, at: Any) -> Tensor:
                code, kept = stand_in.code(layer, received), keep[writes[layer]]
                codes[layer] = torch.where(kept[:, :-1], code, _goal(to, writes[layer], code))
                y = stand_in.written(layer, codes, received[layer]) + errors[layer] * kept[:, -1:]
                return torch.where(left[:, None], y.to(h.dtype), h[0])[None]

            return change

        edits = {site: make(i) for sites, make in ((reads, read), (writes, write)) for i, site in sites.items()}
        if frozen:
            return held.run(edits, []).logits
        return subject._run(text, edits, [], grad=True).logits

    return _Prompt(on, torch.no_grad()(logits))


class _Each:
    """A transcoder a layer."""

    def __init__(self, transcoders: Mapping[int, Dictionary]):
        self.of = transcoders

    def code(self, layer: int, received: Mapping[int, Tensor]) -> Float[Tensor, "pos latent"]:
        return self.of[layer].encode(received[layer].to(self.of[layer].scale_in.dtype)).to_dense()

    def written(self, layer: int, codes: Mapping[int, Tensor], u: Tensor) -> Float[Tensor, "pos d"]:
        y = self.of[layer].decode(Code.dense(codes[layer])).to(u.dtype)
        return y if self.of[layer].skip is None else y + replacement.skip_of(self.of[layer])(u)


class _Stack:
    """A cross-layer transcoder, whose latents of a layer read that layer alone and write to it and later ones."""

    def __init__(self, dictionary: Dictionary, clean: Mapping[int, Tensor]):
        self.of, self.clean = dictionary, clean
        layers = torch.arange(dictionary.latents) // (dictionary.latents // dictionary.shape[0])
        self.own = {i: layers == i for i in clean}

    def code(self, layer: int, received: Mapping[int, Tensor]) -> Float[Tensor, "pos latent"]:
        x = torch.stack([received.get(i, u) for i, u in self.clean.items()], 1)
        return self.of.encode(x.to(self.of.scale_in.dtype)).to_dense() * self.own[layer]

    def written(self, layer: int, codes: Mapping[int, Tensor], u: Tensor) -> Float[Tensor, "pos d"]:
        total = torch.stack([code * self.own[i] for i, code in codes.items() if i <= layer]).sum(0)
        return self.of.decode(Code.dense(total))[:, layer].to(u.dtype)


def _goal(to: Mapping[Site, Tensor], site: Site, code: Tensor) -> Tensor:
    """What ablated codes become, in the shape of a code."""
    value = to.get(site)
    if value is None:
        return torch.zeros_like(code)
    if value.shape not in (code.shape[1:], code.shape):
        wanted = f"{tuple(code.shape[1:])} or {tuple(code.shape)}"
        raise ValueError(f"the mean at {site} must be {wanted}, got {tuple(value.shape)}")
    return value.to(code).expand_as(code)


def _on(code: Tensor, goal: Tensor, rows: Tensor) -> Bool[Tensor, "pos latent_plus_1"]:
    return torch.cat([(code != goal) & rows[:, None], rows[:, None]], 1)


# ---- the ladder


def _known(errors: str, sites: set[Site], means: set[Site]) -> None:
    if errors not in ERRORS:
        raise ValueError(f"errors must be of {', '.join(ERRORS)}, got {errors!r}")
    if odd := means - sites:
        raise ValueError(f"mean is given at {sorted(map(str, odd))[0]}, where there is no dictionary")


def _ranking(effects: "pd.DataFrame", sites: set[str], errors: str, by_position: bool) -> list[Node]:
    if lost := {"site", "pos", "latent", "effect"} - set(effects.columns):
        raise ValueError(
            f"effects must have columns site, pos, latent, effect, got none called {', '.join(sorted(lost))}"
        )
    if odd := set(effects["site"]) - sites:
        raise ValueError(f"effects are at {sorted(odd)[0]}, dictionaries at {', '.join(sorted(sites))}")
    if effects["effect"].isna().to_numpy().any():
        raise ValueError("effects must be numbers, some are NaN")
    table: Any = effects if errors == "ranked" else effects[effects["latent"] >= 0]
    table = table if by_position else table.assign(pos=-1)
    total = table.groupby(["site", "pos", "latent"], sort=False)["effect"].sum().abs()
    return list(total.sort_values(ascending=False, kind="stable").index)


def _sizes(sizes: Sequence[int] | None, count: int) -> list[int]:
    if sizes is None:
        sizes = [m * 10**e for e in range(9) for m in (1, 2, 5) if m * 10**e < count] + [count]
    if wrong := [n for n in sizes if not 0 <= n <= count]:
        raise ValueError(f"sizes must be within 0..{count}, the number of ranked nodes, got {wrong[0]}")
    return sorted({0, *sizes})


def _mask(prompt: _Prompt, nodes: Sequence[Node]) -> Keep:
    keep = {site: torch.zeros_like(on) for site, on in prompt.on.items()}
    for site, pos, latent in nodes:
        mask = keep[Site.of(site)]
        mask[slice(None) if pos < 0 else pos, latent] = True  # latent -1 is the last column
    return keep


def _curve(
    prompts: Sequence[_Prompt],
    effects: "pd.DataFrame",
    of: Any,
    errors: str,
    ablation: str,
    sizes: Sequence[int] | None,
    by_position: bool,
) -> "pd.DataFrame":
    import pandas as pd

    if not prompts:
        raise ValueError("no prompts: give one or more that the nodes were not ranked on")
    metrics = list(of) if isinstance(of, Sequence) else [of] * len(prompts)
    if len(metrics) != len(prompts):
        raise ValueError(f"one metric, or one for each of {len(prompts)} prompts is wanted, got {len(metrics)}")
    ranking = _ranking(effects, {str(s) for s in prompts[0].on}, errors, by_position)
    for i, prompt in enumerate(prompts):
        count = len(next(iter(prompt.on.values())))
        if over := [pos for _, pos, _ in ranking if pos >= count]:
            raise ValueError(
                f"effects are at position {over[0]}, prompt {i} has {count} tokens: by_position=False pools them"
            )
    ranking = [(site, p, f) for site, p, f in ranking if p < 0 or any(m.on[Site.of(site)][p, -1] for m in prompts)]
    ladder, whole = _sizes(sizes, len(ranking)), _count(prompts, ranking, errors, by_position)
    rows = [(size, None) for size in ladder if size < whole] + [(whole, "all")]
    found = torch.zeros(4, len(rows), len(prompts), dtype=torch.float64)  # m(C), m(M less C), m(nothing), m(M)
    for i, (prompt, metric) in enumerate(zip(prompts, metrics, strict=True)):

        def value(keep: Keep, prompt: _Prompt = prompt, metric: splices.Metric = metric) -> Tensor:
            if errors != "ranked":
                keep = {
                    s: torch.cat([k[:, :-1], torch.full_like(k[:, -1:], errors == "kept")], 1) for s, k in keep.items()
                }
            return splices.each(metric, prompt.logits(keep))[0].double()

        every = {site: torch.ones_like(on) for site, on in prompt.on.items()}
        none, full = value(_mask(prompt, [])), value(every)
        for row, (size, all_) in enumerate(rows):
            keep = every if all_ else _mask(prompt, ranking[:size])
            found[0, row, i] = full if all_ else value(keep) if size else none
            found[1, row, i] = none if all_ else value({s: ~k for s, k in keep.items()}) if size else full
        found[2, :, i] = none
        found[3, :, i] = splices.each(metric, prompt.logits(every))[0].double()
    gap = (found[3] - found[2]).mean(1)
    if float(gap.abs().min()) == 0:
        raise ValueError("the metric is the same with everything ablated: there is nothing for a circuit to keep")

    def share(of: Tensor, which: Any = slice(None)) -> Tensor:
        return (of - found[2])[:, which].mean(1) / (found[3] - found[2])[:, which].mean(1)

    rng = torch.Generator().manual_seed(0)
    draws = torch.randint(len(prompts), (DRAWS, len(prompts)), generator=rng)
    if len(prompts) > 1:
        low, high = torch.stack([share(found[0], d) for d in draws]).quantile(
            torch.tensor([0.025, 0.975], dtype=torch.float64), 0
        )
    else:
        low = high = torch.full((len(rows),), torch.nan)
    return pd.DataFrame(
        {
            "size": [size for size, _ in rows],
            "share": [size / whole for size, _ in rows],
            "faithfulness": share(found[0]).numpy(),
            "low": low.numpy(),
            "high": high.numpy(),
            "completeness": share(found[1]).numpy(),
            "metric": found[0].mean(1).numpy(),
            "complement": found[1].mean(1).numpy(),
            "errors": errors,
            "ablation": ablation,
            "prompts": len(prompts),
        }
    )


def _count(prompts: Sequence[_Prompt], ranking: Sequence[Node], errors: str, by_position: bool) -> int:
    """Nodes that are on in some prompt, or ranked."""
    found = set(ranking)
    for prompt in prompts:
        for site, on in prompt.on.items():
            on = on if errors == "ranked" else on[:, :-1]
            for pos, column in on.nonzero().tolist():
                latent = -1 if errors == "ranked" and column == on.shape[1] - 1 else column
                found.add((str(site), pos if by_position else -1, latent))
    return len(found)
