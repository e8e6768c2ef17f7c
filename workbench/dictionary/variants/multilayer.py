"""Multi-layer autoencoder (MLSAE): one TopK dictionary for the rows of all layers (Lawson et al. 2024, 2409.04185)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...batch import Batch, Stream
from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.93  # of planted atoms, in the suite


@dataclass(frozen=True)
class Layers:
    """A stream over several sites, `(row, site, d)`, as one of their single rows: `train(made, Layers(stream))`."""

    stream: Stream

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for batch in self.stream.batches(start):
            text, pos = (p if p is None else p.repeat_interleave(batch.x.shape[1]) for p in (batch.text, batch.pos))
            yield Batch(batch.x.flatten(0, 1), batch.y.flatten(0, 1), text, pos)

    def __len__(self) -> int:
        return len(self.stream)

    def describe(self) -> dict[str, Any]:
        return {"layers as rows": self.stream.describe()}


def relative(term: Term, trains: frozenset[str]) -> Term:
    """A term of rows brought to one norm, so that late layers, whose rows are long, do not decide alone."""

    def loss(p: Pass, d: Dictionary, at: Progress):
        size = p.y.norm(dim=-1, keepdim=True).clamp_min(1e-12) / d.d**0.5
        dead = p.pre_dead if p.pre_dead is None else p.pre_dead / size
        seen = Pass(d, p.batch, p.x / size, p.y / size, p.code, None, dead, p.dead)
        seen.__dict__["y_hat"] = p.y_hat / size
        return term.loss(seen, d, at)

    return replace(term, loss=loss, trains=trains)


def recipe(d: int, latents: int, *, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None) -> Recipe:
    """Rows of any layer, see `Layers`; `k` latents are on in each.

    The paper standardises each row. Ours keeps its units: without a bias the encoder and TopK scale with the row, and
    only the loss divides by its norm; the mean over coordinates stays, and one bias, near 0, serves all layers.
    """
    encoder = encoders.Linear((d,), latents, center=False, bias=False)
    dictionary = Dictionary(encoder, sparsifiers.TopK(k, latents), decoders.Linear(latents, (d,)))
    encoder.weight.data.copy_(dictionary.decoder.weight.data.T)
    terms = {
        "mse": relative(losses.mse(), losses.ENCODER | losses.DECODER),
        "auxk": relative(losses.auxk(aux_k or d // 2, aux), losses.ENCODER | {"decoder.weight"}),
    }
    return Recipe(dictionary, terms, (hooks.Project(),), lr=2e-3)
