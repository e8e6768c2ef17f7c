"""dictionary_learning: `trainSAE` with one `TopKTrainer`, its activations normalised, its defaults for the rest."""

from collections.abc import Iterator

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from feed import FAINT, Feed, Job, serve
from torch import Tensor


class Rows:
    """`trainSAE` goes over its data twice: once for the norm, then for training."""

    def __init__(self, plain: list[Tensor], rows: Feed):
        self.passes = iter([plain, rows])

    def __iter__(self) -> Iterator[Tensor]:
        return iter(next(self.passes))


class DictionaryLearning:
    def __init__(self, job: Job):
        self.job = job
        self.trainer = TopKTrainer(
            steps=job.steps,
            activation_dim=job.d,
            dict_size=job.latents,
            k=job.k,
            layer=0,
            lm_name="none",
            lr=job.lr,
            auxk_alpha=job.aux,
            warmup_steps=job.warmup,
            decay_start=job.steps - job.decay,
            device="cpu",
        )
        self.trainer.dead_feature_threshold = job.dead_after

    def train(self, rows: Feed) -> None:
        plain = list(rows.plain())
        self.norm = float(torch.stack([x.square().sum(1).mean() for x in plain]).mean().sqrt())  # as its own; kept
        config = {"trainer": lambda: self.trainer}  # it calls what it finds here: the trainer that was made above
        trainSAE(Rows(plain, rows), [config], steps=self.job.steps, normalize_activations=True, device="cpu")

    def kill(self, latents: Tensor) -> None:
        self.trainer.ae.encoder.weight.data[latents] *= FAINT
        self.trainer.num_tokens_since_fired[latents] = 10**9

    def dead(self) -> int:
        return int((self.trainer.num_tokens_since_fired >= self.trainer.dead_feature_threshold).sum())

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.trainer.ae.encode(x / self.norm)
        return self.trainer.ae.decode(code) * self.norm, code != 0


serve(DictionaryLearning)
