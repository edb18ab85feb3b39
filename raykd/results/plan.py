"""What a run will need, told before it starts."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from raykd.results.base import Result


@dataclass(frozen=True)
class RunPlan(Result):
    """What a run will need of each worker; everything is None of one that is finished or could not be planned.

    Attributes:
        run: its id.
        state: ``finished``, ``to train``, or ``not planned``, for a ``reason``.
        images_per_worker, classes_per_worker, images_per_class, wave, waves: who does what in a step.
        jobs_per_worker: in the run, where a worker takes one job after the other.
        parameters: numbers, by network.
        peak_bytes, available_bytes: memory of a worker; pool_bytes: of its images that the method makes and holds.
        traffic_bytes: what a worker sends in a step, by what for.
        collectives_per_step, collectives_per_report: how often all workers wait for each other.
        network_seconds_per_step, network_seconds_per_report: what that takes, where the network is known; the other
            seconds have it in them.
        seconds_per_step, steps, seconds_per_report, reports, hours, gpu_hours, cpu_hours, price: time and its cost.
        disk_bytes: the most that it takes on the disk at a time, sets of images that are missing among it.
        checkpoint_bytes, checkpoints_kept, bank_bytes, pool_disk_bytes: what of that is which; pool_images: how many.
        measured: what was tried on this machine.
    """

    run: str
    state: str
    _: KW_ONLY
    reason: str | None = None
    images_per_worker: int | None = None
    classes_per_worker: int | None = None
    images_per_class: int | None = None
    jobs_per_worker: int | None = None
    wave: int | None = None
    waves: int | None = None
    parameters: Mapping[str, int] | None = None
    trained_parameters: int | None = None
    optimizer_bytes: int | None = None
    activation_bytes: int | None = None
    pool_bytes: int | None = None
    peak_bytes: int | None = None
    available_bytes: int | None = None
    traffic_bytes: Mapping[str, int] | None = None
    traffic_bytes_in_all: int | None = None
    collectives_per_step: float | None = None
    collectives_per_report: float | None = None
    network_seconds_per_step: float | None = None
    network_seconds_per_report: float | None = None
    bank: Mapping[str, Any] | None = None
    seconds_per_step: float | None = None
    cpu_seconds_per_step: float | None = None
    steps: int | None = None
    seconds_per_report: float | None = None
    reports: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None
    cpu_hours: float | None = None
    price: float | None = None
    disk_bytes: int | None = None
    checkpoint_bytes: int | None = None
    checkpoints_kept: int | None = None
    bank_bytes: int | None = None
    pool_images: int | None = None
    pool_disk_bytes: int | None = None
    measured: Mapping[str, Any] | None = None
    notes: list[str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; of a planned run the memory that nobody knows is null."""
        found = super().to_dict()
        return found if self.measured is None else {**found, "available_bytes": self.available_bytes}


@dataclass(frozen=True)
class Plan(Result):
    """What training a recipe will need.

    Attributes:
        recipe, run: what is trained.
        workers: how many are planned for, of ``allowed_workers``, on ``cluster``.
        runs: of all that training it means, in their order.
        total: hours and what they cost, by name.
        notes: what the figures do not hold.
    """

    recipe: str
    run: str
    workers: int
    runs: list[RunPlan]
    total: Mapping[str, float]
    cluster: str | None = None
    allowed_workers: list[int] | None = None
    notes: list[str] | None = None


@dataclass(frozen=True)
class SubmissionPlan(Result):
    """What a submitted command will need: the ``plan`` of one run, and sums over all where there are several."""

    plan: Plan | None = None
    in_all: Mapping[str, float] | None = field(default=None, metadata={"key": "in all"})
    note: str | None = None
