"""SAELens: `SAETrainer.fit` on its TopK autoencoder, with its estimate of the norm and its defaults for the rest."""

from feed import FAINT, PLAIN, Feed, Job, serve
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor


class SAELens:
    def __init__(self, job: Job):
        self.job = job
        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=job.d, d_sae=job.latents, k=job.k, normalize_activations="expected_average_only_in"
            )
        )
        config = SAETrainerConfig(
            total_training_samples=job.steps * job.rows,
            train_batch_size_samples=job.rows,
            lr=job.lr,
            lr_end=job.lr,
            lr_warm_up_steps=job.warmup,
            lr_decay_steps=job.decay,
            dead_feature_window=max(1, job.dead_after // job.rows),  # counted in steps
            n_batches_for_norm_estimate=PLAIN,
        )
        self.trainer = SAETrainer(config, sae, iter(()))

    def train(self, rows: Feed) -> None:
        def provider():
            yield from rows.plain()
            yield from rows

        self.trainer.data_provider = provider()
        self.trainer.fit()

    def kill(self, latents: Tensor) -> None:
        self.trainer.sae.W_enc.data[:, latents] *= FAINT
        self.trainer.n_forward_passes_since_fired[latents] = 1e9

    def dead(self) -> int:
        return int(self.trainer.dead_neurons.sum())

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.trainer.activation_scaler.scaling_factor or 1.0
        code = self.trainer.sae.encode(x * scale)
        return self.trainer.sae.decode(code) / scale, code != 0


serve(SAELens)
