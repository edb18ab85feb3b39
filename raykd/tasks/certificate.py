"""What a command came to under faults: each fault, what it cost, and which weights are those of an undisturbed one."""

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raykd.artifacts.pool_files import open_pool
from raykd.files import MANIFEST, is_file, sha256_of
from raykd.store.checkpoint import POOL
from raykd.store.run_directory import RunDirectory, runs_in
from raykd.tasks.faults import Kind


@dataclass
class Event:
    """A fault and what came of it.

    Attributes:
        kind, target: see Fault.
        run: the run that was training.
        at_step: its step then, estimated by its pace since the last report.
        resumed_from: the step that it went on from; None if it was not started again.
        steps_lost: what was trained twice.
        seconds_to_recover: until it trained again, or went on.
        exit_code: of the command, minus the signal that killed it; None if it went on.
        file: what was damaged.
        workers: how many trained it when it went on; None if it was not started again.
    """

    kind: Kind
    target: str
    run: str
    at_step: int
    resumed_from: int | None = None
    steps_lost: int | None = None
    seconds_to_recover: float | None = None
    exit_code: int | None = None
    file: str | None = None
    workers: int | None = None
    at: float = field(default=0.0, repr=False)


@dataclass(frozen=True)
class Certificate:
    """What a command came to under faults.

    Attributes:
        command: the arguments of ``raykd``.
        seed: of the schedule.
        events: the faults.
        left_out: what was not tried, and why.
        starts: of the command, until it was finished.
        seconds: of the undisturbed command, and of the disturbed one in all.
        weights: how many files of weights, and pools of images, are equal in both stores, which differ, which are in
            one alone, and which are not to be compared, since what they come of was trained by another number of
            workers for a time.
        faults_of_ours: what the command said or did that it must not; empty if all is well.
        in_order: whether what it trains does not depend on which of its runs ends first.
    """

    command: list[str]
    seed: int
    events: list[Event]
    left_out: dict[str, str]
    starts: int
    seconds: dict[str, float]
    weights: dict[str, Any]
    faults_of_ours: list[str]
    in_order: bool = True

    @property
    def ok(self) -> bool:
        """Tell whether weights are equal as far as they should be, and nothing went wrong but what was done on purpose.

        A search of several trials at a time may propose others if others end first, and weights are in one store alone.
        """
        alone = self.weights["in_one_store"] if self.in_order else []
        has_any = self.weights["equal"] > 0 or self.weights["not_comparable"]
        return bool(has_any) and not (self.weights["different"] or alone or self.faults_of_ours)

    @property
    def verdict(self) -> str:
        """Say it in a line."""
        if not self.ok:
            return "NOT as undisturbed"
        if self.weights["not_comparable"]:
            return "ended whatever happened; equal where it can be compared"
        return "equal whatever happened"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        events = [{key: value for key, value in asdict(event).items() if key != "at"} for event in self.events]
        return {"ok": self.ok, "verdict": self.verdict, **asdict(self), "events": events}


def compare_weights(reference: Path, disturbed: Path, resized: Collection[str] = ()) -> dict[str, Any]:
    """Count the files of weights, and pools of images, that are equal in both stores, and name the others.

    ``resized`` are runs that were trained by another number of workers for a time: sums over workers round otherwise,
    so that their weights, and those of what builds on them, may differ.
    """
    sums, others = _sums_of_products(reference), _sums_of_products(disturbed)
    both = sums.keys() & others.keys()
    apart = sorted(name for name in both if sums[name] != others[name])
    excused = _built_on(disturbed, resized) if resized else set()
    return {
        "equal": len(both) - len(apart),
        "different": [name for name in apart if Path(name).parts[0] not in excused],
        "in_one_store": sorted(sums.keys() ^ others.keys()),
        "not_comparable": [name for name in apart if Path(name).parts[0] in excused],
    }


def _built_on(store: Path, names: Collection[str]) -> set[str]:
    """Return these runs of a store, and those that build on them."""
    found = set()
    for run in runs_in(store):
        before = {part.run_id for source in run.experiment().sources for part in source.runs}
        if not {run.name, *before}.isdisjoint(names):
            found.add(run.name)
    return found


def _sums_of_products(store: Path) -> dict[str, str]:
    sums = {}
    for run in runs_in(store):
        for file in (run.student, run.statistics, *run.bank.glob("*.safetensors")):
            if file.is_file():
                sums[file.relative_to(store).as_posix()] = sha256_of(file)
        if is_file(run.pool / MANIFEST):
            sums[f"{run.name}/{POOL}"] = _sum_of_pool(run)
    return sums


def _sum_of_pool(run: RunDirectory) -> str:
    """Return the sum of a pool's images, each with its label, in the order of their numbers.

    How they are cut into files depends on stops and workers, so the files' own sums tell nothing.
    """
    images = []
    for part in open_pool(run).parts():
        for pixels, label, number in zip(part.pixels.numpy(), part.labels.tolist(), part.numbers.tolist(), strict=True):
            shape = f"{number} {label} {pixels.shape} ".encode()
            images.append((number, hashlib.sha256(shape + pixels.tobytes()).digest()))
    return hashlib.sha256(b"".join(digest for _, digest in sorted(images))).hexdigest()
