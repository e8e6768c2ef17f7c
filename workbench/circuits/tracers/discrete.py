"""Heads of a circuit by their discrete codes, a few prompts and no ablation: codes that only the task's prompts show.

O'Neill & Bui 2024, arXiv:2405.12522. Ours takes each head's rows less their mean and over their spread, so that one
small dictionary serves loud and quiet heads, and holds every score against permuted labels: the fewer times a code
occurs, the more often it is on one side by luck.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...batch import Batch
from ...dictionary import recipe, train
from ...site import Site
from ...subject import Subject
from ...subject.inside import heads_of

if TYPE_CHECKING:
    import pandas as pd

ROWS = 256  # of one training step
QUIET = 1e-3  # a head whose spread is below this share of the median head's says nothing
TEXTS = 32  # read at once
ITEMS = 512  # heads or pairs scored at once


@dataclass(frozen=True, eq=False)
class Codes:
    """The strongest latent of each head on each prompt (-1: none is on), and which prompts are of the task."""

    codes: Int[Tensor, "prompt layer head"]
    positive: Bool[Tensor, " prompt"]

    def heads(self, *, permutations: int = 1000, seed: int = 0) -> "pd.DataFrame":
        """Columns layer, head, codes, score, null_mean, excess, p; a row per head.

        `codes`: how many different ones positive prompts show. `score`: the share of them that no negative prompt
        shows. `null_mean`: its mean when labels are permuted, `excess`: score - null_mean, `p`: the share of
        labellings, the true one among them, whose score is as high.
        """
        import pandas as pd

        layers, heads = self.codes.shape[1:]
        only, seen = self._counts(self.codes.flatten(1), permutations, seed)
        score = only / seen
        table = {
            "layer": torch.arange(layers).repeat_interleave(heads),
            "head": torch.arange(heads).repeat(layers),
            "codes": seen[0].long(),
            "score": score[0],
        }
        return pd.DataFrame({k: v.numpy() for k, v in (table | _null(score)).items()})

    def edges(
        self, among: Sequence[tuple[int, int]] | None = None, *, permutations: int = 1000, seed: int = 0
    ) -> "pd.DataFrame":
        """Columns layer, head, to_layer, to_head, score, null_mean, excess, p; a row per pair of heads in two layers.

        `score`: how many pairs of codes occur together on positive prompts and on no negative one. `among`: the
        (layer, head) to pair, all unless given, at a cost of pairs x prompts^2 x permutations.
        """
        import pandas as pd

        layers, heads = self.codes.shape[1:]
        known = [(i, h) for i in range(layers) for h in range(heads)]
        if unknown := sorted(set(among or ()) - set(known)):
            raise ValueError(f"heads are (0, 0) to {known[-1]} as (layer, head), got {unknown[0]}")
        chosen = sorted(set(known if among is None else among))
        pairs = [(a, b) for a in chosen for b in chosen if a[0] < b[0]]
        if not pairs:
            raise ValueError(f"heads of two layers are wanted, got {chosen}")
        layer, head, to_layer, to_head = torch.tensor(pairs).flatten(1).T
        base = int(self.codes.max()) + 2  # -1 is a code too
        joint = self.codes[:, layer, head] * base + self.codes[:, to_layer, to_head]
        only, _ = self._counts(joint, permutations, seed)
        table = pd.DataFrame([(*a, *b) for a, b in pairs], columns=["layer", "head", "to_layer", "to_head"])
        return table.assign(**{k: v.numpy() for k, v in ({"score": only[0].long()} | _null(only)).items()})

    def _counts(
        self, codes: Int[Tensor, "prompt item"], permutations: int, seed: int
    ) -> tuple[Float[Tensor, "labels item"], Float[Tensor, "labels item"]]:
        """Codes on positive prompts only, and on positive ones at all; under the true labels, then permuted ones."""
        if permutations < 1:
            raise ValueError(f"permutations must be 1 or more, got {permutations}")
        rng, count = torch.Generator().manual_seed(seed), len(codes)
        order = [torch.arange(count), *(torch.randperm(count, generator=rng) for _ in range(permutations))]
        labels = self.positive[torch.stack(order)].float()
        found = [_shown(part, labels) for part in codes.split(ITEMS, dim=1)]
        return torch.cat([only for only, _ in found], 1), torch.cat([seen for _, seen in found], 1)


def heads(
    subject: Subject,
    positive: Any,
    negative: Any,
    *,
    at: int = -1,
    latents: int = 256,
    k: int = 4,
    steps: int = 300,
    permutations: int = 1000,
    seed: int = 0,
) -> "pd.DataFrame":
    """Every head's score on a task, by prompts that the model can do and corrupted ones that it cannot, some ten each.

    The table of `Codes.heads`. For edges make the codes once: `found = codes(...)`, `found.heads()`, `found.edges()`.
    Raises ValueError as `codes` does.
    """
    found = codes(subject, positive, negative, at=at, latents=latents, k=k, steps=steps, seed=seed)
    return found.heads(permutations=permutations, seed=seed)


def codes(
    subject: Subject,
    positive: Any,
    negative: Any,
    *,
    at: int = -1,
    latents: int = 256,
    k: int = 4,
    steps: int = 300,
    seed: int = 0,
) -> Codes:
    """Discrete codes of what each head adds to the stream at one position, by a TopK dictionary trained on all heads.

    `positive`, `negative`: texts, token ids or tokens. `at`: the position, counted from the end of each prompt.
    Raises ValueError for prompts that are too short or fewer than two of a kind.
    """
    rows = [contributions(subject, prompts, at=at) for prompts in (positive, negative)]
    if min(map(len, rows)) < 2:
        raise ValueError(f"two or more prompts of each kind are wanted, got {len(rows[0])} and {len(rows[1])}")
    h = torch.cat(rows)
    h = h - h.mean(0)
    spread = h.square().sum(-1).mean(0).sqrt()  # (layer, head)
    h = h / spread.clamp_min(QUIET * float(spread.median())).clamp_min(1e-30)[..., None]
    flat = h.flatten(0, 2)
    made = recipe("topk", d=h.shape[-1], latents=latents, k=k, seed=seed)
    dictionary = train(made, _Rows(flat, steps, seed), site=None, scale=h.shape[-1] ** 0.5, seed=seed, progress=False)
    with torch.no_grad():
        found = dictionary.encode(flat)
    best = torch.full((len(flat),), -1)
    assert found.indices is not None  # TopK's layout
    value, slot = found.values.max(1)
    best[value > 0] = found.indices.gather(1, slot[:, None])[:, 0][value > 0]
    positive_ = torch.arange(len(h)) < len(rows[0])
    return Codes(best.unflatten(0, h.shape[:3]), positive_)


@torch.no_grad()
def contributions(subject: Subject, prompts: Any, *, at: int = -1) -> Float[Tensor, "prompt layer head d"]:
    """What each head adds to the stream at a position counted from each prompt's end, before any norm behind W_O."""
    tokens, count = subject.tokens(prompts), heads_of(subject)
    if at >= 0:
        raise ValueError(f"at counts from the end of a prompt, -1 the last position, got {at}")
    real = tokens.mask.long().sum(-1)
    if int(real.min()) < -at:
        raise ValueError(f"at={at} is asked for, the shortest prompt has {int(real.min())} tokens")
    place = (tokens.mask.long().cumsum(-1) == (real + at + 1)[:, None]).long().argmax(-1)
    sites = [Site(layer, "heads") for layer in range(subject.layers)]
    found = []
    for part in torch.arange(len(place), device=place.device).split(TEXTS):
        h = subject.read(tokens.rows(part), sites)
        here = torch.arange(len(part), device=place.device)
        each = []
        for site in sites:
            projection: Any = subject._modules[subject.plan.port(site).path]
            weight = projection.weight.float()
            weight = weight if type(projection).__name__ == "Conv1D" else weight.T  # (in, out)
            z = h[site][here, place[part]].unflatten(-1, (count, -1))
            each.append(torch.einsum("phw,hwd->phd", z, weight.unflatten(0, (count, -1))))
        found.append(torch.stack(each, 1))
    return torch.cat(found).cpu()


def _shown(codes: Int[Tensor, "prompt item"], labels: Float[Tensor, "labels prompt"]) -> tuple[Tensor, Tensor]:
    """How many different codes are on positive prompts only, and on positive ones, for each labelling and item."""
    same = codes[:, None] == codes  # (prompt, prompt, item)
    stands = same.long().argmax(1) == torch.arange(len(codes))[:, None]  # one prompt for each code
    positive = torch.einsum("lp,rpi->lri", labels, same.float())
    seen = (positive > 0) & stands
    only = seen & (positive == same.sum(1))
    return only.sum(1).float(), seen.sum(1).float()


def _null(score: Float[Tensor, "labels item"]) -> dict[str, Tensor]:
    """The first labelling's score against the others': their mean, how far above it is, and its share as high."""
    mean = score[1:].mean(0)
    return {
        "null_mean": mean,
        "excess": score[0] - mean,
        "p": (score >= score[0] - 1e-6).float().mean(0),
    }


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows in memory as a stream, drawn with replacement by seed and step."""

    x: Float[Tensor, "row d"]
    steps: int
    seed: int

    def __len__(self) -> int:
        return self.steps

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            rng = torch.Generator().manual_seed(self.seed * 100_003 + step)
            x = self.x[torch.randint(len(self.x), (ROWS,), generator=rng)]
            yield Batch(x, x)

    def describe(self) -> dict[str, Any]:
        return {"rows": list(self.x.shape), "steps": self.steps, "seed": self.seed}
