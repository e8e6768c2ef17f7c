"""Schedules: functions of progress, so a warm-up ends inside a short run too."""

from .core import Progress, Schedule


def ramp(to: float, *, over: float = 0.05) -> Schedule:
    """0 to `to` linearly over this share of the run, then flat."""
    return lambda progress: to if over <= 0 else to * min(1.0, progress.share / over)


def trapezoid(*, warmup: float = 0.02, decay: float = 0.2) -> Schedule:
    """Multiplies a learning rate: 0 to 1 over the first share of the run, 1, then linearly to 0 over the last."""

    def at(progress: Progress) -> float:
        done = (progress.tokens + progress.budget / 1e6) / progress.budget  # the first step is not quite 0
        up = 1.0 if warmup <= 0 else min(1.0, done / warmup)
        return min(up, 1.0 if decay <= 0 else min(1.0, (1 - progress.share) / decay))

    return at
