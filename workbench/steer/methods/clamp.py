"""Hold a latent at strength * peak or above (after Templeton et al. 2024, "Scaling Monosemanticity")."""

from collections.abc import Callable

from ... import edit
from ...code import Codec
from ...edit import Edit


def clamp(codec: Codec, latent: int, *, peak: float) -> Callable[[float], Edit]:
    """Strength in units of `peak`, e.g. the latent's largest activation; the dictionary's error is kept.

    Ours never lowers the latent, so that strength 0 changes nothing; to hold it at a value use `workbench.edit.clamp`.
    Raises ValueError for a peak that is not above 0.
    """
    if not peak > 0:
        raise ValueError(f"peak must be above 0, got {peak}: a latent that never fired has no scale")
    return lambda strength: edit.set_latent(codec, latent, lambda f: f.clamp_min(max(0.0, strength) * peak))
