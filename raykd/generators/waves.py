"""Waves: which generators of a bank are trained at once, where not all fit into the workers' memory.

Members are independent of each other, so a wave is trained to its end before the next one begins, and a plan can be
made anew at any moment, for any number of workers, from nothing but the steps that each member has behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_USABLE = 0.6
"""Part of the free memory that a plan may fill; the rest is for temporaries and for the estimate's own error."""
_IMAGES_AT_ONCE = {"cuda": 4096, "cpu": 512}
"""From so many images in a step on, a larger wave is not faster."""


@dataclass(frozen=True)
class Wave:
    """Members trained together by all workers, each of which has ``done`` steps behind it."""

    done: int
    classes: tuple[int, ...]

    def share(self, rank: int, size: int) -> tuple[int, ...]:
        """Return the contiguous part of worker ``rank`` of ``size``; parts differ by one member at most."""
        return _cut(self.classes, size)[rank]


def plan_waves(progress: Mapping[int, int], steps: int, workers: int, capacity: int) -> list[Wave]:
    """Return the waves still to be trained, those whose members are furthest first.

    Members of equal progress are cut into as few waves as possible, the sizes of which differ by one at most, larger
    ones first: so the plan that a resumed run makes within a wave is the rest of the plan it was in.

    Args:
        progress: steps done by class; a member that has done all ``steps`` is in no wave.
        steps: steps of every member.
        workers: how many train, each its share of a wave.
        capacity: members that one worker can train at once, at least 1.
    """
    waves = []
    for done in sorted(set(progress.values()) - {steps}, reverse=True):
        classes = tuple(sorted(cls for cls, steps_done in progress.items() if steps_done == done))
        count = -(-len(classes) // (workers * capacity))
        waves += [Wave(done, part) for part in _cut(classes, count)]
    return waves


def member_capacity(free: int, parameters: int, images: int, image_bytes: int, device: str) -> int:
    """Return how many members a worker trains at once, 1 or more.

    Args:
        free: bytes that this worker may use.
        parameters: numbers in one member; each is kept four times (itself, its gradient, two moments of Adam).
        images: images of one member in a step.
        image_bytes: what one image keeps for the backward pass, through generator and teacher.
        device: "cuda" or "cpu".
    """
    member = 4 * 4 * parameters + images * image_bytes
    most = _IMAGES_AT_ONCE.get(device, _IMAGES_AT_ONCE["cpu"]) // images
    return max(1, min(int(_USABLE * free) // member, most))


def _cut(classes: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """Cut into contiguous parts, the first of which are larger by one where it does not divide."""
    each, more = divmod(len(classes), parts)
    starts = [index * each + min(index, more) for index in range(parts + 1)]
    return [classes[first:last] for first, last in zip(starts, starts[1:], strict=False)]
