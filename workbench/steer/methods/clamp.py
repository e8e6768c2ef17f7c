"""Hold a latent at strength * peak or above (after Templeton et al. 2024, "Scaling Monosemanticity")."""

from collections.abc import Callable

from ... import edit
from ...code import Codec
from ...edit import Edit


def clamp(codec: Codec, latent: int, *, peak: float) -> Callable[[float], Edit]:
    """Strength in units of `peak`, e.g. the latent's largest activation; the dictionary's error is kept.

    Ours never lowers the latent, so that strength 0 changes nothing; to hold it at a value use `workbench.edit.clamp`.
    A negative activation (signed codes) is raised by strength * peak.
    Raises ValueError for a peak that is not above 0 and for a negative strength.
    """
    if not peak > 0:
        raise ValueError(f"peak must be above 0, got {peak}: a latent that never fired has no scale")

    def at(strength: float) -> Edit:
        if strength < 0:
            raise ValueError(f"strength must be 0 or more, got {strength}: to lower a latent use edit.scale or ablate")
        return edit.set_latent(codec, latent, lambda f: f + (strength * peak - f.clamp_min(0)).clamp_min(0))

    return at
