"""Steering beside its controls: what the push does to target tokens, to the prediction, and to the text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp, inf, log, nan
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..batch import Batch, Tokens
from ..code import Codec
from ..edit import At, Edit
from ..site import Site

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

    from ..subject import Subject

Method = Callable[[float], Edit]
BATCH = 4  # rows run at once: their logits are what costs memory


@runtime_checkable
class Rows(Protocol):
    """What `choose` needs of a Store view: rows with their place, and the token rows they came from."""

    tokens: Tokens

    def batches(self, size: int, *, site: Any = None, seed: int | None = None) -> Iterator[Batch]: ...


class Choice(NamedTuple):
    """A latent picked by rule, the tokens that follow where it fires, and the rule's score for it."""

    latent: int
    targets: list[int]
    score: float


@torch.no_grad()
def choose(
    codec: Codec,
    rows: Rows,
    *,
    low: float = 1e-4,
    high: float = 1e-2,
    top: int = 1,
    least: int = 30,
    rare: float = 5e-3,
    most: int = 200_000,
    batch: int = 8192,
) -> Choice:
    """The latent that best foretells its next token, of those that fire on `low` to `high` of the rows.

    Score: share of its firings that are followed by one of its `top` commonest next tokens, less the share of all rows
    that are; tokens that make up more than `rare` of the text cannot be targets, since function words follow anything.
    A latent counts when it fires at least `least` times. The rule looks at the first `most` of the given rows only
    (give those that were trained on), never at what steering does to held-out text. Raises ValueError when no latent is
    in the range.
    """
    ids, real = rows.tokens.ids, rows.tokens.mask
    pairs, base, count = [], torch.zeros(int(ids.max()) + 1), 0
    for part in rows.batches(batch, site=codec.site):
        assert part.text is not None and part.pos is not None
        after = (part.pos + 1).clamp_max(ids.shape[1] - 1)
        known = (part.pos + 1 < ids.shape[1]) & real[part.text, after]
        following = ids[part.text, after]
        row, latent, _ = codec.encode(part.x).entries()
        row, latent = row.cpu()[known[row.cpu()]], latent.cpu()[known[row.cpu()]]
        pairs.append(latent * len(base) + following[row])
        base += torch.bincount(following[known], minlength=len(base))
        count += int(known.sum())
        if count >= most:
            break
    found, times = torch.cat(pairs).unique(return_counts=True)
    latent, token = found // len(base), found % len(base)
    fired = torch.zeros(codec.latents).index_add(0, latent, times.float())
    uncommon = base[token] <= rare * count
    latent, token, times = latent[uncommon], token[uncommon], times[uncommon]
    best = Choice(-1, [], float("-inf"))
    fit = (fired >= max(least, low * count)) & (fired <= high * count)
    begins = torch.searchsorted(latent, torch.arange(codec.latents + 1))
    for one in fit.nonzero()[:, 0].tolist():
        span = slice(int(begins[one]), int(begins[one + 1]))
        if span.start == span.stop:
            continue  # only common tokens follow it
        commonest = times[span].topk(min(top, span.stop - span.start))
        targets = token[span][commonest.indices]
        score = float(commonest.values.sum() / fired[one] - base[targets].sum() / count)
        if score > best.score:
            best = Choice(one, targets.tolist(), score)
    if best.latent < 0:
        raise ValueError(
            f"no latent fires on {low:g} to {high:g} of the {count} rows: widen low and high, or give more"
        )
    return best


def equal_norm(edit: Edit, *, seed: int) -> Edit:
    """The control: at every position a push of the same length as the edit's, in one random direction."""

    def change(h: Tensor, at: At) -> Tensor:
        moved = (edit(h, at) - h).float().norm(dim=-1, keepdim=True)
        direction = torch.randn(h.shape[-1], generator=torch.Generator().manual_seed(seed))
        return h + (moved * (direction / direction.norm()).to(h.device)).to(h.dtype)

    return Edit(change, lambda h, at: at.real)


@torch.no_grad()
def measure(
    subject: "Subject", tokens: Tokens, edits: Sequence[Mapping[Site | str, Edit]], targets: Sequence[int]
) -> list[dict[str, float]]:
    """For each set of edits: target probability, KL(clean || edited) in nats, perplexity; means over kept positions.

    Target probability is the geometric mean of the targets' summed probability: in an arithmetic one the few positions
    where a target is nearly certain anyway (after "United", say) outweigh all the others.
    Perplexity is the edited model's on the given text itself. A position counts when it and the next token are real and
    the exclusion rule by token keeps it. Raises ValueError when none is left.
    """
    keep = subject.exclusion.by_token(tokens, subject.special_ids)
    sums, count = torch.zeros(len(edits), 3, dtype=torch.float64), 0
    for begin in range(0, len(tokens.ids), BATCH):
        part = tokens.rows(slice(begin, begin + BATCH))
        where = keep[begin : begin + BATCH, :-1] & part.mask[:, 1:]
        following = part.ids[:, 1:][where][:, None]
        clean = subject.run(part).logits[:, :-1][where].float().log_softmax(-1)
        for i, one in enumerate(edits):
            edited = subject.run(part, one).logits[:, :-1][where].float().log_softmax(-1) if one else clean
            target = edited[:, list(targets)].logsumexp(-1).sum()
            kl = (clean.exp() * (clean - edited)).sum()
            sums[i] += torch.stack([target, kl, -edited.gather(-1, following).sum()]).double().cpu()
        count += int(where.sum())
    if not count:
        raise ValueError("no position is left to measure on: give longer texts")
    means = (sums / count).tolist()
    return [{"target_probability": exp(t), "kl": k, "perplexity": exp(n)} for t, k, n in means]


def compare(
    subject: "Subject",
    site: Site | str,
    method: Method,
    strengths: Sequence[float],
    texts: Mapping[int, Tokens] | Sequence[Tokens],
    targets: Sequence[int],
    *,
    progress: bool = True,
) -> "DataFrame":
    """The method beside no edit and a random push of equal norm, at each strength, once per seed.

    `texts` gives each seed its held-out token rows; the seed also draws the random direction. Columns: seed, arm (none,
    steered, random), strength, target_probability, kl (nats), perplexity. Raises ValueError without strengths or texts.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    seeded = dict(texts) if isinstance(texts, Mapping) else dict(enumerate(texts))
    levels = [float(s) for s in strengths]
    if not levels or not seeded or not targets:
        raise ValueError("give at least one strength, one set of texts and one target token")
    rows: list[dict[str, Any]] = []
    for seed, tokens in tqdm(seeded.items(), desc="steer", disable=not progress):
        arms: list[tuple[str, float, dict[Site | str, Edit]]] = [("none", 0.0, {})]
        for strength in levels:
            edit = method(strength)
            arms += [("steered", strength, {site: edit}), ("random", strength, {site: equal_norm(edit, seed=seed)})]
        measured = measure(subject, tokens, [edits for _, _, edits in arms], targets)
        rows += [
            {"seed": seed, "arm": arm, "strength": strength} | found
            for (arm, strength, _), found in zip(arms, measured, strict=True)
        ]
    return pd.DataFrame(rows)


def verdict(table: "DataFrame", *, limit: float = 2.0) -> "DataFrame":
    """Per seed: is the target likelier than under the random push of equal norm, and than under none, at the largest
    strength whose perplexity stays below `limit` times the clean one?

    Columns: seed, strength, clean, steered, random (target probabilities), perplexity_ratio, reaches_limit (the
    strength at which perplexity would cross the limit, its logarithm taken as linear between strengths; infinite when
    it never does), holds. A seed whose smallest strength is already beyond the limit does not hold.
    """
    import pandas as pd

    rows, records = [], table.to_dict("records")
    for seed in dict.fromkeys(r["seed"] for r in records):
        part = sorted((r for r in records if r["seed"] == seed), key=lambda r: r["strength"])
        clean = next(r for r in part if r["arm"] == "none")
        random = {r["strength"]: r["target_probability"] for r in part if r["arm"] == "random"}
        row = {"seed": seed, "strength": nan, "clean": clean["target_probability"], "steered": nan, "random": nan}
        row |= {"perplexity_ratio": nan, "reaches_limit": inf, "holds": False}
        before, height = 0.0, 0.0  # the strength before, and log of its perplexity ratio
        for one in (r for r in part if r["arm"] == "steered" and r["strength"] > 0):
            strength, up = one["strength"], log(one["perplexity"] / clean["perplexity"])
            if up >= log(limit):
                row["reaches_limit"] = before + (strength - before) * (log(limit) - height) / (up - height)
                break
            probability = one["target_probability"]
            row |= {"strength": strength, "steered": probability, "random": random[strength]}
            row |= {
                "perplexity_ratio": exp(up),
                "holds": probability > max(random[strength], clean["target_probability"]),
            }
            before, height = strength, up
        rows.append(row)
    return pd.DataFrame(rows)


def continuations(
    subject: "Subject",
    site: Site | str,
    edit: Edit,
    prompt: str,
    *,
    new: int = 40,
    seed: int = 0,
    temperature: float = 0.7,
) -> "DataFrame":
    """The same prompt continued without an edit, with it, and with the random push of equal norm; one text each.

    Columns: arm, text, and perplexity: the unedited model's on the new tokens. Low is not good by itself, a text that
    repeats itself is easy to foretell; `compare` measures the edited model on text that people wrote.
    """
    import pandas as pd

    arms: dict[str, dict[Site | str, Edit]] = {
        "none": {}, "steered": {site: edit}, "random": {site: equal_norm(edit, seed=seed)}
    }  # fmt: skip
    start = subject.tokens(prompt).ids.shape[1]
    rows = []
    for arm, edits in arms.items():
        made = subject.generate(prompt, edits, new=new, seed=seed, temperature=temperature)
        nats = float(subject.nll(made.tokens)[0, start:].mean())
        rows.append({"arm": arm, "text": made.new_texts[0], "perplexity": exp(nats)})
    return pd.DataFrame(rows)


def figure(table: "DataFrame") -> "Figure":
    """Target probability, KL and perplexity against strength: a line per arm through the seeds' means, their points."""
    from plotly.subplots import make_subplots

    panels = {
        "target_probability": "target probability, geometric mean",
        "kl": "KL from clean, nats",
        "perplexity": "perplexity of held-out text",
    }
    made = make_subplots(rows=1, cols=3, subplot_titles=list(panels.values()), horizontal_spacing=0.08)
    colors = {"steered": "#2f6fde", "random": "#98a2b3"}
    records = table.to_dict("records")
    for column, metric in enumerate(panels, start=1):
        for arm, color in colors.items():
            found: dict[float, list[float]] = {}
            for r in records:
                if r["arm"] == arm:
                    found.setdefault(r["strength"], []).append(r[metric])
            levels = sorted(found)
            shared = {"legendgroup": arm, "name": arm, "marker": {"color": color}, "row": 1, "col": column}
            means = [sum(found[s]) / len(found[s]) for s in levels]
            made.add_scatter(x=levels, y=means, mode="lines", showlegend=column == 1, **shared)
            points = [(s, value) for s in levels for value in found[s]]
            x, y = [s for s, _ in points], [value for _, value in points]
            made.add_scatter(x=x, y=y, mode="markers", showlegend=False, **shared)
        clean = [r[metric] for r in records if r["arm"] == "none"]
        line = {"dash": "dot", "color": "#888"}
        ends, level = [0, max(r["strength"] for r in records)], sum(clean) / len(clean)
        made.add_scatter(
            x=ends, y=[level, level], mode="lines", line=line, name="no edit", showlegend=False, row=1, col=column
        )
        made.update_xaxes(title="strength", row=1, col=column)
    seeds = table["seed"].nunique()
    made.update_layout(
        title={
            "text": "Steering against an equal push in a random direction",
            "subtitle": {
                "text": f"{seeds} seeds (points: other held-out texts, another random direction). Dotted: no edit."
            },
        },
        template="plotly_white",
        height=430,
        legend={"orientation": "h", "y": -0.25},
        margin={"t": 110},
    )
    for column in (1, 3):
        made.update_yaxes(type="log", row=1, col=column)
    return made
