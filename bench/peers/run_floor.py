"""The floor: what no trainer can leave out of a step. One GEMM of the batch with the encoder, and its top-k."""

import torch
from feed import Feed, Job, serve
from torch import Tensor


class Floor:
    def __init__(self, job: Job):
        self.job = job
        self.weight, self.bias = torch.randn(job.d, job.latents) / job.d**0.5, torch.zeros(job.latents)

    def train(self, rows: Feed) -> None:
        with torch.no_grad():
            for x in rows:
                torch.addmm(self.bias, x, self.weight).topk(self.job.k, sorted=False)

    def kill(self, latents: Tensor) -> None: ...

    def dead(self) -> int:
        return 0

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("the floor trains nothing")


serve(Floor)
