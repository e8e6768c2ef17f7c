"""overcomplete: `train_sae` on `TopKSAE`, monitoring off; optimiser, schedule and criterion are the user's to give.

It has no decoder bias and counts no dead latents: its auxiliary loss decodes half of all latents in every step. Here
that loss stands where others have dead latents, and a plain squared error where they have none.
"""

import torch

# it imports torchvision for its vision models, and the registry's build, made for CUDA, asks for these two operators
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from feed import Feed, Job, serve  # noqa: E402
from overcomplete.sae import TopKSAE  # noqa: E402
from overcomplete.sae.losses import top_k_auxiliary_loss  # noqa: E402
from overcomplete.sae.train import train_sae  # noqa: E402
from torch import Tensor  # noqa: E402


class Overcomplete:
    def __init__(self, job: Job):
        self.job, self.killed = job, 0
        self.sae = TopKSAE(job.d, job.latents, job.k)

    def loss(self, x: Tensor, x_hat: Tensor, pre: Tensor, code: Tensor, dictionary: Tensor) -> Tensor:
        if self.killed:
            return top_k_auxiliary_loss(x, x_hat, pre, code, dictionary, penalty=self.job.aux)
        return (x - x_hat).square().mean()

    def train(self, rows: Feed) -> None:
        adam = torch.optim.Adam(self.sae.parameters(), lr=self.job.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, self.job.rate)
        train_sae(self.sae, rows, self.loss, adam, schedule, nb_epochs=1, monitoring=0)

    def kill(self, latents: Tensor) -> None:
        self.killed = len(latents)

    def dead(self) -> int:
        return self.killed

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, code = self.sae.encode(x)
        return code @ self.sae.get_dictionary(), code != 0


serve(Overcomplete)
