"""The workbench: `train`'s own loop on the recipe topk_auxk.

WORKBENCH_KERNELS says dense or sparse; BENCH_ROUGH=1 lets a bfloat16 product name the candidates.
"""

import os
from collections.abc import Iterator
from typing import Any

from feed import FAINT, Feed, Job, serve
from torch import Tensor

from workbench.batch import Batch
from workbench.dictionary import recipe
from workbench.dictionary.training import _Run


class Rows:
    """A stream: a few plain batches for what is measured before step 0, then those of the feed."""

    def __init__(self, job: Job, feed: Feed):
        self.job, self.passes = job, iter([feed.plain(), feed])

    def __len__(self) -> int:
        return self.job.steps

    def describe(self) -> dict[str, Any]:
        return {}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        return (Batch(x, x) for x in next(self.passes))


class Workbench:
    def __init__(self, job: Job):
        self.job = job
        self.made = recipe("topk_auxk", d=job.d, latents=job.latents, k=job.k, aux=job.aux)
        self.made.dictionary.rough = "BENCH_ROUGH" in os.environ

    def train(self, rows: Feed) -> None:
        stream = Rows(self.job, rows)
        run = _Run([self.made], stream, self.job.lr, None, {}, self.job.dead_after, self.job.seed)
        run.begin("auto", None, fresh=True)
        self.learner = run.learners[0]
        run.loop(None, log_every=10**9, checkpoint_every=10**9, bar=False, stop=lambda: False, on_row=None)

    def kill(self, latents: Tensor) -> None:
        self.made.dictionary.encoder.weight.data[:, latents] *= FAINT
        self.learner.idle[latents] = 10**9
        self.learner.dead = latents

    def dead(self) -> int:
        return len(self.learner.dead)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.made.dictionary.encode(x)
        return self.made.dictionary.decode(code), code.to_dense() != 0


serve(Workbench)
