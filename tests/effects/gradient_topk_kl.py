"""At one k, does choosing latents by what the loss hears keep more of the output?"""

from collections.abc import Iterator

import torch

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world
from workbench.testbeds.vectors import Stream

CLAIM = "A gradient autoencoder changes the output less than TopK at equal k"
SOURCE = "Olmo et al. 2024, arXiv:2411.10397"
SETTING = "world readout: 64 directions in d = 32, 10 answers; k = 2 of 3.2 on, 96 latents; 300 steps of 256 rows"
ARMS = ("KL of TopK in nats", "KL of the gradient autoencoder")
MARGIN = 0.0
SEEDS = 8


class WithGradients(Stream):
    """Adds d loss / d x, the loss being the cross-entropy of an answer drawn from the read-out."""

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(super().batches(start), start):
            rng, p = torch.Generator().manual_seed(step), self.world.answer(batch.x)
            answer = torch.nn.functional.one_hot(torch.multinomial(p, 1, generator=rng)[:, 0], p.shape[1])
            yield Batch(batch.x, batch.y, batch.text, batch.pos, (p - answer) @ self.world.matrix)


def measure(seed: int) -> tuple[float, float]:
    made, found = world("readout", world_seed=seed), []
    x = made.sample(4096, 10_000 + seed).x
    clean = made.answer(x).log()
    for name in ("topk_auxk", "gradient_topk"):
        stream = WithGradients(made, 256, 300, seed)
        dictionary = train(recipe(name, d=32, latents=96, k=2, seed=seed), stream, site=None, progress=False, lr=3e-3)
        found.append(float((clean.exp() * (clean - made.answer(dictionary.reconstruct(x)).log())).sum(-1).mean()))
    return found[0], found[1]
