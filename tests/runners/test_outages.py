"""Disks, stores and processes that fail beside the training: one line says so, and nothing is lost; without Ray's own.

``/proc`` takes no file, not even root's.
"""

import errno
import json
import os
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.exceptions import RayActorError, WorkerCrashedError
from ray.train import TrainingFailedError

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.engine.stop import Interrupted, TakenOver
from raykd.errors import RaykdError, RunFailed, SetupError, error_from_dict, error_to_dict
from raykd.models import permission
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.recipe.table import load_table
from raykd.runners import table as tables
from raykd.runners.outcome import BatchStopped, RunOutcome
from raykd.runners.ray import driver, pool, trial, tuner
from raykd.runners.ray.heartbeat import HungWorker, Worker
from raykd.runners.ray.pool import RunPool
from raykd.runners.ray.signals import RunSignals
from raykd.runners.ray.trial import FAILED, INTERRUPTED, TrialTask, make_sets, run_trial
from raykd.runners.ray.worker import WorkerTask
from raykd.runners.tune import search
from raykd.search.attributes import RUN
from raykd.search.setup import Search, SearchStopped, plan_search
from raykd.search.space_file import load_space
from raykd.search.study import draw_values, end_trial, open_study
from raykd.store.remote import Remote
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace, open_workspace
from tests.object_store import Server
from tests.runners import runs

NOWHERE = Path("/proc/nowhere")
HERE = Cluster(name="here", cpus_per_worker=1, threads=1)


def task_of(run: Experiment, store: Path) -> WorkerTask:
    return WorkerTask.of(run, HERE, Workspace(None, store), RunSignals(store, "job"))


def alone(seed: int = 0) -> Experiment:
    return resolve(load_recipe("supervised_digits_lenet5", [f"seed={seed}"]))


def fail(*_: Any) -> Any:
    raise ZeroDivisionError("by a fault\nof ours")


@pytest.mark.parametrize("blocked", [False, True])
def test_a_fault_is_told_whether_or_not_its_traceback_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: bool
) -> None:
    """A run that fails before its first step has no directory, and a trial that raised would be started again."""
    run, told = alone(), list[dict[str, Any]]()
    task = task_of(run, tmp_path)
    log = tmp_path / run.run_id / "error.log"
    if blocked:
        log.parent.touch()
    monkeypatch.setattr(trial, "_run_seed", fail)
    monkeypatch.setattr(trial, "tune", SimpleNamespace(report=told.append))
    monkeypatch.setattr(WorkerTask, "run", fail)
    run_trial(asdict(TrialTask(asdict(task), ["accuracy"], HERE.model_dump(), 0, 1)))
    reasons = [told[0][FAILED], pool._train_alone(asdict(task))["message"]]
    for reason in reasons:
        assert reason.startswith("ZeroDivisionError: by a fault of ours; ")
        if blocked:
            assert "test_outages.py:" in reason
            assert f"the traceback could not be kept in {log} ({log.parent} is a file" in reason
        else:
            assert reason.endswith(f"the traceback is in {log}")
            assert "Traceback" in log.read_text()


def test_a_trial_that_was_taken_over_leaves_at_once_and_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tuner's process is at the run now: that one's status and checkpoints are those that count."""
    told = list[dict[str, Any]]()
    run = resolve(runs.recipe(runs.save_teacher(tmp_path / "teacher.safetensors")))
    signals = RunSignals(tmp_path, "job")
    signals.here.mkdir(parents=True)
    signals.give_up("b")
    assert not signals.stop_asked_for("a")
    context = SimpleNamespace(get_trial_id=lambda: "b")
    monkeypatch.setattr(trial, "tune", SimpleNamespace(report=told.append, get_context=lambda: context))
    run_trial(asdict(TrialTask(asdict(task_of(run, tmp_path)), ["agreement"], HERE.model_dump(), 0, 1)))
    assert told == [{INTERRUPTED: 1.0}]
    directory = RunDirectory(tmp_path / run.run_id)
    assert directory.status()["state"] == "running"
    assert not list(directory.path.glob("checkpoints/*"))


def test_the_workers_of_a_run_that_was_taken_over_are_told_so(tmp_path: Path) -> None:
    signals = RunSignals(tmp_path, "job")
    signals.here.mkdir(parents=True)

    def taken_over() -> bool:
        raise TakenOver

    assert driver._pass_on(taken_over, signals)
    with pytest.raises(TakenOver):
        signals.stop_asked_for()
    assert isinstance(error_from_dict(error_to_dict(TakenOver())), TakenOver), "as a worker's answer comes back"


def test_a_student_that_is_code_is_measured_where_others_have_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a trial of several workers only waits for them, maybe on a machine that has none of them."""
    monkeypatch.setattr(permission, "_permitted", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own = ["student.model=null", "student.factory=raykd.models.lenet:LeNet5"]
    run = resolve(load_recipe("supervised_digits_lenet5", own))
    task = task_of(run, tmp_path)
    of_trial = TrialTask(asdict(task), ["parameters"], HERE.model_dump(), 0, 1)
    assert trial._measure(task, run, None, of_trial.objectives, HERE)["parameters"] == 61_706


def test_a_store_that_takes_no_signals_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"could not write signals into /proc/nowhere/.ray/.*the same command"):
        runs.start(runs.recipe(tmp_path / "teacher.safetensors"), NOWHERE)
    for ask in (RunSignals(NOWHERE, "job").ask_to_stop, lambda: RunSignals(NOWHERE, "job").record(0, {})):
        with pytest.raises(SetupError, match="could not write signals"):
            ask()


@pytest.mark.parametrize(
    ("death", "reason"),
    [(TrainingFailedError("no more workers"), "no more workers"), (RayActorError(), "controller died 3 times")],
)
def test_workers_that_kept_dying_are_told_of_in_the_store(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Exception, reason: str
) -> None:
    """Another machine's worker had written that the run goes on."""
    store, run = f"s3://{s3.new_bucket()}/runs", resolve(runs.recipe(tmp_path / "teacher.safetensors"))
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "worker"))
    theirs = open_workspace(store, None)
    theirs.run(run.run_id).path.mkdir(parents=True)
    theirs.run(run.run_id).write_status(state="running", step=5)
    theirs.push(run.run_id, World.alone())
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "driver"))

    def fit() -> None:
        raise death

    monkeypatch.setattr(driver, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(driver, "_trainer", lambda *_: SimpleNamespace(fit=fit))
    with pytest.raises(RunFailed, match=reason):
        driver.run_on_ray(run, Cluster(name="two", workers=2), open_workspace(store, None), [2], lambda: False)
    told = Remote(store).read(f"{run.run_id}/status.json") or b""
    assert b'"failed"' in told and reason.encode() in told and b'"step": 5' in told


class MadeUpRay:
    """One task after the other ends, with what it was submitted as; an exception is raised."""

    def wait(self, tasks: list[Any], timeout: float = 0.0) -> tuple[list[Any], list[Any]]:
        return tasks[:1], tasks[1:]

    def get(self, task: Any) -> Any:
        answer = task()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def remote(self, function: Callable[..., Any]) -> "MadeUpRay":
        return self

    def options(self, **_: Any) -> "MadeUpRay":
        return SimpleNamespace(remote=lambda config: lambda: WorkerCrashedError())  # type: ignore[return-value]


def test_a_table_that_cannot_be_written_ends_the_runs_once_they_have_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [alone(seed) for seed in range(2)]
    asked: list[bool] = []

    def submit(self: RunPool, run: Experiment) -> Callable[[], dict[str, Any]]:
        def ended() -> dict[str, Any]:
            asked.append(RunSignals(tmp_path, self._signals.job).stop_asked_for())
            stopped = error_to_dict(Interrupted(1, 2))
            return stopped if asked[-1] else error_to_dict(RaykdError("it was not asked to stop"))

        return ended

    def on_outcome(run: Experiment, outcome: RunOutcome) -> None:
        tables._write(NOWHERE, None)  # type: ignore[arg-type]

    monkeypatch.setattr(pool, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(pool, "room_for", lambda _: 2)
    monkeypatch.setattr(pool, "ray", MadeUpRay())
    monkeypatch.setattr(RunPool, "_submit", submit)
    made = RunPool(HERE, Workspace(None, tmp_path), both, {}, on_outcome)
    with pytest.raises(SetupError, match=r"could not write the table into /proc/nowhere \(.*the same command"):
        made.run(lambda: False)
    assert asked == [False, True], "the second one was asked to save first"


def test_a_full_disk_ends_a_batch_and_fails_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run meets it; the second, at work, saves; the third does not start; and no table tells of a failure."""
    runs_of, recorded = [alone(seed) for seed in range(3)], list[str]()

    def submit(self: RunPool, run: Experiment) -> Callable[[], dict[str, Any]]:
        full = OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

        def train() -> Any:
            if RunSignals(tmp_path, self._signals.job).stop_asked_for():
                raise Interrupted(1, 2)
            raise full

        return lambda: pool._return_errors(task_of(run, tmp_path), train)

    monkeypatch.setattr(pool, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(pool, "room_for", lambda _: 2)
    monkeypatch.setattr(pool, "ray", MadeUpRay())
    monkeypatch.setattr(RunPool, "_submit", submit)
    outcomes: dict[str, RunOutcome] = {}
    made = RunPool(HERE, Workspace(None, tmp_path), runs_of, outcomes, lambda run, _: recorded.append(run.run_id))
    with pytest.raises(SetupError, match=r"^run supervised_\S+: 'metrics.jsonl': No space left on device; .*mend"):
        made.run(lambda: False)
    assert (outcomes, recorded, len(made._waiting)) == ({}, [], 1)


@pytest.mark.parametrize("policy", ["wait", "fail"])
def test_a_run_that_is_killed_because_it_does_not_answer_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Neither where a stop was asked for nor where another is to end for it: the same command goes on with it."""
    run, outcomes, killed = alone(), dict[str, RunOutcome](), list[str]()
    signs = Worker("key", run.run_id, 0, "10.0.0.7", "node", 1, "1", 120, None, None, 7)

    class Watch:
        def __init__(self, *_: Any) -> None:
            pass

        def look(self, stopping: bool) -> list[HungWorker]:
            return [] if killed else [HungWorker(signs, "it does not answer")]

        def end(self, hung: list[HungWorker]) -> None:
            killed.extend(each.worker.run for each in hung)

        def close(self) -> None:
            pass

    def train() -> Any:
        raise WorkerCrashedError

    monkeypatch.setattr(pool, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(pool, "room_for", lambda _: 1)
    monkeypatch.setattr(pool, "ray", MadeUpRay())
    monkeypatch.setattr(pool, "WorkerWatch", Watch)
    cluster = HERE.model_copy(update={"max_failures": 0, "on_hang": policy})
    made = RunPool(cluster, Workspace(None, tmp_path), [], outcomes, lambda *_: None)
    made._working = {train: (run.run_id, run)}
    expected = (BatchStopped, "0 of 1") if policy == "wait" else (SetupError, "it does not answer; the same command")
    with pytest.raises(expected[0], match=expected[1]):
        made.run(lambda: policy == "wait")
    assert (outcomes, killed) == ({}, [run.run_id])


def test_what_a_killed_driver_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    living, killed = RunSignals(tmp_path, "living"), RunSignals(tmp_path, "killed")
    for signals in (living, killed):
        signals.open()
    killed._driver.close()  # as the system does when its process ends
    earlier, now = tmp_path / ".ray" / "of-an-earlier-release", tmp_path / ".ray" / "of-one-at-work"
    for folder in (earlier, now):
        folder.mkdir()
    os.utime(earlier, (0, 0))
    another = RunSignals(tmp_path, "another")
    another.open()
    assert sorted(path.name for path in (tmp_path / ".ray").iterdir()) == ["another", "living", "of-one-at-work"]
    living.ask_to_stop()
    assert pickle.loads(pickle.dumps(living)).stop_asked_for()
    for signals in (another, living):
        signals.close()
    assert [path.name for path in (tmp_path / ".ray").iterdir()] == ["of-one-at-work"]


def test_a_table_in_an_object_store_grows_with_every_run(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"s3://{s3.new_bucket()}/runs"
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    table = {"title": "Two", "source": "nowhere", "seeds": 2, "columns": {"a": "first"}}
    rows = {"rows": [{"name": "plain", "cells": {"a": {"recipe": "supervised_digits_lenet5"}}}]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**table, **rows}))
    seen: list[bytes] = []

    def run_batch(wanted: list[Experiment], *_: Any, on_outcome: Callable[..., None], **__: Any) -> None:
        for run in wanted:
            on_outcome(run, RunOutcome(None, f"{run.run_id} was not run"))
            seen.append(Remote(store).read("tables/two/table.md") or b"")

    monkeypatch.setattr(tables, "run_batch", run_batch)
    tables.fill_table(
        load_table(str(tmp_path / "two.yaml")), HERE, quick=False, seeds=None, store=store, data_root=None,
        should_stop=bool, progress=False,
    )  # fmt: skip
    assert [text.count(b"was not run") for text in seen] == [1, 2]


def planned(folder: Path, **changes: Any) -> Search:
    rate = {"student_optim.lr": {"loguniform": [0.0001, 0.01]}}
    (folder / "made.yaml").write_text(yaml.safe_dump({"recipe": "kd_digits", "trials": 2, "space": rate, **changes}))
    return plan_search(load_space(str(folder / "made.yaml")), folder / "runs")


def searched(what: Search) -> Any:
    return search(what, HERE, store=what.store, data_root=None, should_stop=bool, show=lambda report: None)


def fill(what: Search) -> None:
    """Let two trials of a search have ended."""
    study = open_study(what.space, what.objectives, what.folder, None)
    for number in range(2):
        one = study.ask()
        draw_values(one, what.space)
        one.set_user_attr(RUN, f"run-{number}")
        end_trial(study, one, [float(number)])


def test_a_search_that_is_stopped_keeps_its_trials_and_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYKD_REPORT")
    what = planned(tmp_path, trials=3)
    fill(what)
    made = tuner.Tuning(what, HERE, Workspace(None, what.store), lambda: True, lambda report: None)
    monkeypatch.setattr(made, "_on_ray", lambda *_: None)
    with pytest.raises(SearchStopped, match="stopped with 2 of 3 trials finished"):
        made.run()
    kept = json.loads((what.folder / "trials.json").read_text())
    assert ([one["run"] for one in kept["trials"]], kept["importances"]) == (["run-0", "run-1"], {})
    assert not [name for name in ("figures", "report.html") if (what.folder / name).exists()]
    assert searched(planned(tmp_path)).trials.complete == 2
    assert (what.folder / "report.html").is_file(), "a search that comes to its end is drawn"
    assert json.loads((what.folder / "trials.json").read_text())["importances"]


def test_trials_that_cannot_be_kept_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    what = planned(tmp_path)
    fill(what)
    (what.folder / "trials.json" / "x").mkdir(parents=True)
    with caplog.at_level("WARNING"):
        assert searched(what).trials.complete == 2
    assert any(one.getMessage().startswith("no trials.json of search made-") for one in caplog.records)


def test_a_report_that_cannot_be_written_ends_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = planned(tmp_path)
    fill(what)
    (what.folder / "figures").symlink_to("/proc")
    with pytest.raises(SetupError, match=r"the search cannot go on \(/.*figures/.*the same command"):
        searched(what)
    (what.folder / "figures").unlink()
    assert searched(what).trials.complete == 2


def test_sets_whose_maker_is_killed_or_fails_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = planned(tmp_path, overrides={"bank": {"recipe": "dafl_digits", "images": 30}})
    made = tuner.Tuning(what, HERE, Workspace(None, what.store), bool, lambda report: None)
    run = what.space.make_experiment({})
    monkeypatch.setattr(tuner, "ray", MadeUpRay())
    with pytest.raises(RunFailed, match=r"made the frozen sets died \(WorkerCrashedError: .*the same command goes on"):
        made._make_sets({source.run_id for source in run.sources})
    monkeypatch.setattr(trial, "make_image_sets", fail)
    told = make_sets(asdict(task_of(run, tmp_path)))
    assert told["error"] == "RunFailed"
    assert told["message"].startswith("the frozen sets could not be made: ZeroDivisionError: by a fault of ours; the ")


def test_a_search_that_cannot_ask_its_trials_to_stop_ends_all_the_same(tmp_path: Path) -> None:
    what = planned(tmp_path)
    made = tuner.Tuning(what, HERE, Workspace(None, what.store), lambda: True, lambda report: None)
    made._signals = RunSignals(NOWHERE, "job")
    assert made._is_stopping()
    assert "could not write signals into /proc/nowhere" in str(made._outage)
