"""A run that has failed ends, or goes back to where it was good; killed at any moment, it comes to the same."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.artifacts.pool_files import open_pool
from raykd.engine import run as engine
from raykd.engine.finite import Unhealthy
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import run
from raykd.methods.dafl import Dafl
from raykd.methods.lsgdfd import Lsgdfd
from raykd.methods.pool_inversion import PoolInversion
from raykd.recipe.experiment import resolve
from raykd.store.checkpoint import find_fault, step_of
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import open_workspace
from tests.engine.killed import RECIPES
from tests.engine.test_run import assert_same_run
from tests.golden.shrunk import shrunk
from tests.object_store import Server

SHORT = ["schedule.steps=8", "schedule.report_every=2", "controls=[]"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def poison(monkeypatch: pytest.MonkeyPatch, value: float, when: Callable[[Dafl], bool]) -> None:
    """Let DAFL report a loss of ``value`` in the steps for which ``when`` holds."""
    original = Dafl.step

    def step(self: Dafl, batches: Any) -> Any:
        losses = original(self, batches)
        return {**losses, "loss/kd": torch.tensor(value)} if when(self) else losses

    monkeypatch.setattr(Dafl, "step", step)


def once_late(method: Dafl) -> bool:
    """From step 4 on, but not with the noise of after a rewind."""
    return method.steps_done >= 4 and method.context.seed == 0


def test_the_policy_stop_ends_the_run_and_keeps_what_was_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 1e9, once_late)
    monkeypatch.setattr("raykd.store.checkpoint.KEPT", 1)  # as after more stops than reports
    with shrunk(2, tmp_path) as (place, load):
        recipe = load("dafl_digits", [*SHORT, "sentinel.policy=stop"])
        with pytest.raises(Unhealthy, match="explosion: loss/kd above .*at step 6") as caught:
            run(resolve(recipe), place)
        directory = place.workspace.run(resolve(recipe).run_id)
    assert caught.value.exit_code == 1
    status = directory.status()
    assert (status["state"], status["reason"]) == ("failed", str(caught.value))
    assert [step_of(path) for path in sorted(directory.checkpoints.iterdir())] == [2, 4]
    assert [find_fault(path) for path in directory.checkpoints.iterdir()] == [None, None]
    assert not directory.student.exists()


class Killed(BaseException):
    """Ends a run as a kill would: nothing in it may catch this."""


def rewound(
    root: Path, monkeypatch: pytest.MonkeyPatch, kill: str | None = None, *, before: bool = True
) -> RunDirectory:
    """Train a run that has to go back once; with ``kill`` it dies at that function's first call, then goes on."""
    with shrunk(2, root) as (place, load):
        experiment = resolve(load("dafl_digits", [*SHORT, "sentinel.policy=rewind"]))
        if kill is not None:
            original = getattr(engine, kill)

            def deadly(*args: Any, **kwargs: Any) -> None:
                if not before:
                    original(*args, **kwargs)
                raise Killed

            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(engine, kill, deadly)
                run(experiment, place)
        run(experiment, place)
        return place.workspace.run(experiment.run_id)


@pytest.fixture(scope="module")
def sent_back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunDirectory, str]]:
    """A run that nobody killed, and its log."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        poison(monkeypatch, 1e9, once_late)
        records: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("raykd.engine").addHandler(handler)
        yield rewound(tmp_path_factory.mktemp("back"), monkeypatch), "\n".join(records)
        logging.getLogger("raykd.engine").removeHandler(handler)


def test_the_policy_rewind_goes_back_before_the_first_sign(sent_back: tuple[RunDirectory, str]) -> None:
    directory, log = sent_back
    status = directory.status()
    assert (status["state"], status["rewinding"]) == ("finished", None)
    (rewind,) = status["rewinds"]
    assert rewind["to"] == 2
    assert rewind["cause"].startswith("explosion: loss/kd")
    assert status["result"]["rewinds"] == status["rewinds"]
    assert any(text.startswith("rewound to step 2") for text in status["result"]["warnings"])
    assert "goes back to its last good checkpoint" in log
    assert [row["step"] for row in directory.rows()] == [2, 4, 6, 8]
    assert max(row["loss/kd"] for row in directory.rows()) < 1e6


@pytest.mark.parametrize(
    ("function", "before"),
    [("begin_rewind", True), ("begin_rewind", False), ("remove_after", True), ("remove_after", False)],
)
def test_a_kill_in_a_rewind_changes_nothing(
    sent_back: tuple[RunDirectory, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, before: bool
) -> None:
    poison(monkeypatch, 1e9, once_late)
    directory = rewound(tmp_path, monkeypatch, function, before=before)
    assert_same_run(directory.path, sent_back[0].path)
    assert directory.status()["rewinds"] == sent_back[0].status()["rewinds"]


def test_a_kill_after_a_rewind_changes_nothing(
    sent_back: tuple[RunDirectory, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 6, when a checkpoint of the new noise is there already."""
    poison(monkeypatch, 1e9, once_late)
    patched = Dafl.step

    def step(self: Dafl, batches: Any) -> Any:
        if self.context.seed and self.steps_done == 5:
            raise Killed
        return patched(self, batches)

    with shrunk(2, tmp_path) as (place, load):
        experiment = resolve(load("dafl_digits", [*SHORT, "sentinel.policy=rewind"]))
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Dafl, "step", step)
            run(experiment, place)
        run(experiment, place)
        directory = place.workspace.run(experiment.run_id)
    assert_same_run(directory.path, sent_back[0].path)


def test_shards_of_other_machines_do_not_send_a_run_back_to_its_beginning(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine of rank 0 has not what workers elsewhere have sent to the store."""
    original = Lsgdfd.step

    def step(self: Lsgdfd, batches: Any) -> Any:
        losses = original(self, batches)
        is_bad = self.steps_done >= 4 and self.context.seed == 0
        return {**losses, "loss/class": torch.tensor(1e9)} if is_bad else losses

    class Elsewhere(LocalReporter):
        def report(self, metrics: Any, checkpoint: Any) -> None:
            super().report(metrics, checkpoint)
            for path in self._run.checkpoints.glob("*/shard_*"):
                path.unlink()

    monkeypatch.setattr(Lsgdfd, "step", step)
    monkeypatch.setattr("raykd.engine.fit.bank_figures", lambda *_: {})  # after so few steps no class is known
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    with shrunk(8, tmp_path) as (place, load):
        workspace = open_workspace(f"s3://{s3.new_bucket()}/runs", None)
        place = replace(place, workspace=workspace, make_reporter=lambda run: Elsewhere(run, mirror=workspace.mirror))
        experiment = resolve(load("lsgdfd_digits_bank", ["schedule.report_every=2", "sentinel.policy=rewind"]))
        run(experiment, place)
        (rewind,) = workspace.run(experiment.run_id).status()["rewinds"]
    assert rewind["to"] == 2


@pytest.mark.parametrize("value", [1e9, torch.nan])
def test_after_three_rewinds_the_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    rates: list[float] = []
    poison(monkeypatch, value, lambda method: method.steps_done >= 4)
    made = Dafl.__init__

    def noted(self: Dafl, config: Any, context: Any) -> None:
        rates.append(config.generator_optim.lr)
        made(self, config, context)

    monkeypatch.setattr(Dafl, "__init__", noted)
    with shrunk(2, tmp_path) as (place, load):
        experiment = resolve(load("dafl_digits", [*SHORT, "sentinel.policy=rewind"]))
        with pytest.raises(Unhealthy):
            run(experiment, place)
        directory = place.workspace.run(experiment.run_id)
    status = directory.status()
    assert status["state"] == "failed"
    assert [one["to"] for one in status["rewinds"]] == [2, 2, 2]
    assert rates == [0.2, 0.1, 0.05, 0.025]


def test_a_pool_goes_back_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made behind the good checkpoint is made anew; what it names stays as it is, in its files."""
    original = PoolInversion.step
    kept: dict[str, bytes] = {}

    def step(self: PoolInversion, batches: Any) -> Any:
        losses = original(self, batches)
        if self.context.seed:
            return losses
        kept.update({path.name: path.read_bytes() for path in folder().glob("images-*")})
        return {**losses, "loss/kd": torch.tensor(1e9)} if self.steps_done >= 4 else losses

    def folder() -> Path:
        return place.workspace.run(experiment.run_id).pool

    monkeypatch.setattr(PoolInversion, "step", step)
    small = [*RECIPES["fast_digits"], *SHORT, "method.warmup_calls=1", "sentinel.policy=rewind"]
    with shrunk(2, tmp_path) as (place, load):
        experiment = resolve(load("fast_digits", small))
        run(experiment, place)
        directory = place.workspace.run(experiment.run_id)
    assert [rewind["to"] for rewind in directory.status()["rewinds"]] == [2]
    names = [f"images-{step:07d}-00000.parquet" for step in (2, 4, 6, 8)]
    assert sorted(path.name for path in directory.pool.glob("images-*")) == names
    assert [(directory.pool / name).read_bytes() == kept[name] for name in names[:2]] == [True, False]
    assert sum(len(part.labels) for part in open_pool(directory).parts()) == 16 * (1 + 2 * 7)
