"""Disks that fill up, become read-only or go away while a run writes: exit code 3, one line, and nothing is lost."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raykd.engine.reporter import LocalReporter
from raykd.store.checkpoint import latest_checkpoint
from tests.cli.conftest import Raykd, WriteRecipe
from tests.disks import make_read_only, mounted, resize, take_away

SCHEDULE = {"steps": 8, "report_every": 2, "global_batch": 8}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    with mounted(tmp_path / "disk") as folder:
        yield folder


def refused(done: Result, *words: str) -> None:
    lines = done.stderr.splitlines()
    assert done.exit_code == 3, done.stderr
    assert lines[-1].startswith("error: "), done.stderr
    assert [word for word in words if word not in lines[-1]] == [], lines[-1]
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in done.stderr
    assert "enforce fail" not in done.stderr


def test_a_disk_that_is_full_at_any_moment_costs_nothing(
    raykd: Raykd, tiny: WriteRecipe, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command goes on each time, on a disk of a little more room, until it ends as on a large one."""
    recipe = tiny(schedule=SCHEDULE)
    whole = raykd("train", recipe, "--out", "large")
    assert whole.exit_code == 0, whole.stderr
    expected = next(Path("large").glob("tiny-*"))
    monkeypatch.setattr("raykd.engine.run.require_space", lambda *_: None)
    refusals, blocks = 0, 1
    while blocks < 2000:
        resize(disk, blocks)
        done = raykd("train", recipe, "--out", str(disk))
        if done.exit_code == 0:
            break
        refused(done, "No space left on device")
        refusals += 1
        assert not [path for path in disk.rglob(".*") if "writing" in path.name]
        for run in disk.glob("tiny-*"):
            assert (run / "metrics.jsonl").is_file() <= (run / "recipe.yaml").is_file()
            latest_checkpoint(run / "checkpoints")
        blocks = blocks + max(1, blocks // 6)
    assert refusals > 10
    assert (next(disk.glob("tiny-*")) / "student.safetensors").read_bytes() == (
        expected / "student.safetensors"
    ).read_bytes()


def test_a_disk_without_the_room_is_told_of_before_the_first_step(raykd: Raykd, tiny: WriteRecipe, disk: Path) -> None:
    resize(disk, 20)
    refused(raykd("train", tiny(), "--out", str(disk / "runs")), "needs about", "free in", "--out")
    assert not list(disk.glob("runs/tiny-*"))


def remove_runs(disk: Path) -> None:
    for run in disk.glob("tiny-*"):
        shutil.rmtree(run)


@pytest.mark.parametrize("report", [None, 0, 1])
@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (make_read_only, ("Read-only file system",)),
        (take_away, ("run directory", "is gone")),
        (remove_runs, ("run directory", "is gone")),
    ],
    ids=["read-only", "unmounted", "removed"],
)
def test_a_disk_that_is_taken_away_is_told(
    raykd: Raykd,
    tiny: WriteRecipe,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Path], Any],
    words: tuple[str, ...],
    report: int | None,
) -> None:
    """Before the start, or before a report; nothing is written where it was."""
    recipe, reported = tiny(), 0
    write = LocalReporter.report

    def report_at_last(self: LocalReporter, *given: Any) -> None:
        nonlocal reported
        if reported == report:
            happens(disk)
        reported += 1
        write(self, *given)

    monkeypatch.setattr(LocalReporter, "report", report_at_last)
    if report is None:
        happens(disk)
        if "run directory" in words:  # there is none yet, and the folder is as good as any
            assert raykd("train", recipe, "--out", str(disk)).exit_code == 0
            return
    refused(raykd("train", recipe, "--out", str(disk)), *words)
    if "run directory" in words:
        assert not list(disk.glob("tiny-*"))
    elif report:
        assert latest_checkpoint(next(disk.glob("tiny-*")) / "checkpoints") is not None


@pytest.mark.parametrize("out", ["/".join(["x" * 200] * 25), "/proc/nowhere", "/dev/null/runs"])
def test_a_store_that_cannot_be_made_is_told(raykd: Raykd, tiny: WriteRecipe, out: str) -> None:
    refused(raykd("train", tiny(), "--out", out))
