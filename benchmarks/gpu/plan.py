"""The steps, the most valuable first, and how a budget of minutes is dealt among them. Only the standard library."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step: what it shows, where its code is, and its part of the time.

    Attributes:
        shows: for a reader.
        code: ``module:function``, which takes ``Parts`` and a ``Site``.
        share: of the time that is left, against those of the steps to come.
        least: minutes without which it is not begun; on a CPU, where everything is small, that does not count.
    """

    shows: str
    code: str
    share: float
    least: float = 0.0


STEPS = {
    "machine": Step("machine, versions, measured peak rates", "gpu.machine:machine", 0.3),
    "curves": Step("the first steps of each method against those of a CPU", "gpu.correctness:curves", 1.2),
    "resume": Step("runs that are stopped and go on, and runs that are repeated", "gpu.correctness:resume", 1.0),
    "syncs": Step("how often a step waits for the device", "gpu.correctness:syncs", 0.6),
    "speed": Step("steps of methods against those of published scripts", "gpu.speed:speed", 2.6),
    "cifar_5": Step("CIFAR-10 without its images in five minutes", "gpu.cifar:five_minutes", 6.5, least=6.5),
    "imagenet": Step("steps of ImageNet's shapes against their plan", "gpu.imagenet:imagenet", 2.0),
    "workers": Step("one worker of NCCL; two on one device, then one", "gpu.workers:workers", 0.8),
    "cifar_10": Step("CIFAR-10 without its images in ten minutes", "gpu.cifar:ten_minutes", 11.5, least=11.5),
}


def chosen(only: Iterable[str], skip: Iterable[str]) -> list[str]:
    """Return the names of steps that were asked for, in their order."""
    wanted = list(only) or list(STEPS)
    return [name for name in STEPS if name in wanted and name not in set(skip)]


def allowance(name: str, later: Iterable[str], seconds_left: float, small: bool) -> float:
    """Return the seconds of a step that is followed by others; 0 where it is not begun.

    What an earlier one has not used is dealt again. A step that wants more than its part gets what it wants, if that is
    left: those behind it are less valuable.
    """
    step, others, needed = STEPS[name], 0.0, 60 * STEPS[name].least
    if not small and needed > seconds_left:
        return 0.0
    for other in map(STEPS.__getitem__, later):
        if small or needed + 60 * other.least <= seconds_left:  # else there will be no time for it
            others, needed = others + other.share, needed + 60 * other.least
    part = seconds_left * (step.share / (step.share + others))
    return part if small else max(part, 60 * step.least)
