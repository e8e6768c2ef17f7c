"""sparsify: `Trainer.fit` with Adam on a model whose one hooked module gives the shared rows; defaults for the rest.

Its Adam is torch's (8-bit needs a GPU package), its AuxK is off by default and given 1/32 here. It normalises nothing;
its loss is a ratio. Its schedule is linear from the end of the warm-up to 0.
"""

import torch
from feed import FAINT, Feed, Job, scratch, serve
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn


class Model(nn.Module):
    """A model of one module, `site`, whose output is the next batch: (text 1, pos row, d)."""

    device = torch.device("cpu")
    dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    def __init__(self, d: int):
        super().__init__()
        self.site, self.x = nn.Identity(), torch.zeros(1, d)

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.site(self.x[None])


class Texts:
    """As many texts of one batch's tokens as there are steps; looking one up puts its rows into the model."""

    def __init__(self, job: Job, model: Model):
        self.job, self.model = job, model
        self.ids, self.rows = torch.zeros(job.rows, dtype=torch.long), iter(())

    def __len__(self) -> int:
        return self.job.steps

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        self.model.x = next(self.rows)
        return {"input_ids": self.ids}


class Sparsify:
    def __init__(self, job: Job):
        model = Model(job.d)
        self.texts = Texts(job, model)
        config = TrainConfig(
            SparseCoderConfig(num_latents=job.latents, k=job.k),
            batch_size=1,
            optimizer="adam",
            lr=job.lr,
            lr_warmup_steps=job.warmup,
            auxk_alpha=job.aux,
            dead_feature_threshold=job.dead_after,
            hookpoints=["site"],
            init_seeds=[job.seed],
            save_every=10**9,
            save_dir=scratch(),
            log_to_wandb=False,
        )
        self.trainer = Trainer(config, self.texts, model)

    def train(self, rows: Feed) -> None:
        self.texts.rows = rows
        self.trainer.fit()

    def kill(self, latents: Tensor) -> None:
        self.trainer.saes["site"].encoder.weight.data[latents] *= FAINT
        self.trainer.num_tokens_since_fired["site"][latents] = 10**9

    def dead(self) -> int:
        return int((self.trainer.num_tokens_since_fired["site"] > self.trainer.cfg.dead_feature_threshold).sum())

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sae = self.trainer.saes["site"]
        sae.set_decoder_norm_to_unit_norm()  # its loop does this at the start of a step
        values, indices, _ = sae.encode(x)
        active = torch.zeros(len(x), sae.num_latents).scatter(1, indices, (values != 0).float())
        return sae.decode(values, indices), active


serve(Sparsify)
