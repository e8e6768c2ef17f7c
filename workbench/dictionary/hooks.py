"""Training hooks: the few moments when something other than the optimiser may write to a dictionary."""

import torch

from .core import Dictionary, Hook, Moments, Pass, Progress


class CenterBias(Hook):
    """Start the decoder's bias at the mean target."""

    @torch.no_grad()
    def start(self, dictionary: Dictionary, moments: Moments, rng: torch.Generator) -> None:
        dictionary.decoder.bias.copy_(moments.mean_y * dictionary.scale_out)


class CenterInput(Hook):
    """Start the encoder's bias so that pre-activations of the mean input are 0: a transcoder has no shared centre."""

    @torch.no_grad()
    def start(self, dictionary: Dictionary, moments: Moments, rng: torch.Generator) -> None:
        mean = (moments.mean_x * dictionary.scale_in)[None]
        dictionary.encoder.bias.sub_(dictionary.encoder(mean, dictionary.decoder)[0])


class Points(Hook):
    """Draw an archetypal decoder's points from the first batch, without repeats, and start the encoder at its atoms."""

    @torch.no_grad()
    def start(self, dictionary: Dictionary, moments: Moments, rng: torch.Generator) -> None:
        rows, points = moments.first.y * dictionary.scale_out, dictionary.decoder.points
        if len(rows) < len(points):
            raise ValueError(
                f"{len(points)} points are drawn from the first batch of {len(rows)} rows: take fewer points"
            )
        points.copy_(rows[torch.randperm(len(rows), generator=rng)[: len(points)]].flatten(1))
        atoms = dictionary.decoder.weight
        dictionary.encoder.weight.copy_((atoms / atoms.square().sum(-1, keepdim=True).clamp_min(1e-12)).T)


class Project(Hook):
    """Keep the constraints of decoder and sparsifier, and drop the gradient that they would undo."""

    def before_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        dictionary.decoder.project_grad_()

    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        dictionary.decoder.project_()
        if hasattr(dictionary.sparsifier, "project_"):
            dictionary.sparsifier.project_()


class Threshold(Hook):
    """Move a BatchTopK threshold towards the smallest value that the batch kept."""

    def __init__(self, momentum: float = 0.99):
        self.momentum = momentum

    @torch.no_grad()
    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        values, threshold = seen.code.values.detach(), dictionary.sparsifier.threshold
        if len(values):
            low = values.min()
            threshold.copy_(torch.where(threshold < 0, low, threshold.lerp(low, 1 - self.momentum)))


class Density(Hook):
    """Keep a running mean of the share of rows in which each latent is on, in the sparsifier's `density`."""

    @torch.no_grad()
    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        dictionary.sparsifier.density.lerp_(seen.code.fired() / len(seen.x), 0.01)
