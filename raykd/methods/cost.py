"""What the cost of a worker's step grows with: the one quantity that planning varies to foretell time and memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.generators.waves import plan_waves

_FEW = 8  # images; of fewer a processor makes less than of many


@dataclass(frozen=True)
class PlannedRun:
    """What a method is told of a run that is being planned.

    Attributes:
        workers: how many there are.
        global_batch: images of a step, of all workers together.
        steps: of the recipe's schedule.
        built: builds the run here and returns what it found, the number of ``classes`` and the ``total_steps`` among
            it. That takes a process of its own, so only who needs it asks.
    """

    workers: int
    global_batch: int
    steps: int
    built: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class CostAxis:
    """A quantity of which a worker has ``planned`` in the run; time and memory of its step grow by a straight line.

    Attributes:
        counts: what is counted, for a reader: ``images``.
        planned: how many of them the first worker has in a step.
        sizes: the numbers that can be tried, ascending, from the smallest that tells of larger ones to ``planned``.
        knobs: what to set to try a number: ``global_batch`` of the recipe or ``wave`` of the runtime.
        smaller: what a user can do so that a worker has at most so many, in words; none where nothing helps.
        shares: what a worker has of the run, by name.
        stages: the number that the first worker has in each of the run's stages, which take its ``steps`` each.
        members: generators that a worker makes at the beginning of a stage.
    """

    counts: str
    planned: int
    sizes: Sequence[int]
    knobs: Callable[[int], Mapping[str, int]]
    smaller: Callable[[int], list[str]]
    shares: Mapping[str, int]
    stages: tuple[int, ...]
    members: int = 0


def by_images(run: PlannedRun) -> CostAxis:
    """Return the axis of a method whose workers share the images of a global batch."""
    batch, planned = run.global_batch, run.global_batch // run.workers

    def smaller(most: int) -> list[str]:
        if most < 2:
            return []
        share = next((size for size in range(most, 1, -1) if batch % size == 0), None)
        workers = [f"{batch // share} workers"] if share else []
        return [*workers, f"schedule.global_batch={run.workers * most} (now {batch})"]

    return CostAxis(
        counts="images",
        planned=planned,
        sizes=range(max(2, min(_FEW, planned // 4)), planned + 1),
        knobs=lambda images: {"global_batch": run.workers * images},
        smaller=smaller,
        shares={"images_per_worker": planned},
        stages=(planned,),
    )


def by_images_of_jobs(run: PlannedRun) -> CostAxis:
    """Return the axis of a method whose workers are at jobs of their own: how many images such a job has."""
    batch = run.global_batch
    rounds = max(1, run.built()["total_steps"] // run.steps)
    return CostAxis(
        counts="images of a job",
        planned=batch,
        sizes=range(max(2, min(_FEW, batch // 4)), batch + 1),
        knobs=lambda images: {"global_batch": images},
        smaller=lambda most: [f"schedule.global_batch={most} (now {batch})"] if most >= 2 else [],
        shares={"images_per_worker": batch, "jobs_per_worker": rounds},
        stages=(batch,) * rounds,
    )


def by_members(run: PlannedRun) -> CostAxis:
    """Return the axis of a bank whose members are independent: how many a worker trains at once."""
    classes, batch = run.built()["classes"], run.global_batch
    waves = _waves(run, classes)

    def smaller(most: int) -> list[str]:
        if most >= 1:
            wave = f"wave: {most} in the cluster file (now {waves[0]})"
            return [wave, f"{-(-classes // most)} workers for a single wave"]
        fewer = f"schedule.global_batch={2 * classes} (now {batch}), fewer images of each class"
        return [fewer] if batch > 2 * classes else []

    least = max(1, min(-(-_FEW * classes // batch), waves[0] // 4))
    return CostAxis(
        counts="members",
        planned=waves[0],
        sizes=[size for size in range(least, waves[0] + 1) if _cut(classes, run.workers, size)[0] == size],
        knobs=lambda members: {"wave": members},
        smaller=smaller,
        shares=_shares(run, classes, waves),
        stages=waves,
        members=waves[0],
    )


def by_images_of_members(run: PlannedRun) -> CostAxis:
    """Return the axis of a bank all of whose members train at once: how many images each makes in a step."""
    classes, batch = run.built()["classes"], run.global_batch
    planned, waves = batch // classes, _waves(run, classes)

    def smaller(most: int) -> list[str]:
        return [f"schedule.global_batch={classes * most} (now {batch})"] if most >= 2 else []

    return CostAxis(
        counts="images of a member",
        planned=planned,
        sizes=range(2, planned + 1),
        knobs=lambda images: {"global_batch": classes * images},
        smaller=smaller,
        shares=_shares(run, classes, waves),
        stages=(planned,) * len(waves),
        members=waves[0],
    )


def _waves(run: PlannedRun, classes: int) -> tuple[int, ...]:
    """Return how many members the first worker trains in each wave of the run."""
    count = max(1, run.built()["total_steps"] // run.steps)
    return _cut(classes, run.workers, -(-classes // (run.workers * count)))


def _cut(classes: int, workers: int, capacity: int) -> tuple[int, ...]:
    waves = plan_waves(dict.fromkeys(range(classes), 0), 1, workers, capacity)
    return tuple(len(wave.share(0, workers)) for wave in waves)


def _shares(run: PlannedRun, classes: int, waves: Sequence[int]) -> dict[str, int]:
    images = run.global_batch // classes
    return {
        "classes_per_worker": -(-classes // run.workers),
        "images_per_class": images,
        "images_per_worker": images * waves[0],
        "wave": waves[0],
        "waves": len(waves),
    }
