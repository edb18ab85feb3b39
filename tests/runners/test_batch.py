"""Many runs as parallel trials: each once, in their order, whatever fails, dies or is stopped on the way."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from raykd.cluster.config import Cluster
from raykd.errors import MissingData, SetupError, UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.results import RunResult
from raykd.runners.batch import run_batch
from raykd.runners.outcome import BatchStopped, RunOutcome
from raykd.runners.train import train
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.runners import runs

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TEACHER = "{schedule.steps: 8, schedule.report_every: 4, schedule.global_batch: 16}"


def student(**fields: Any) -> Recipe:
    """A few steps of distillation on digits, from a teacher that is a run of its own."""
    pairs = {"teacher.overrides": TEACHER, "schedule.steps": 8, "schedule.report_every": 4, "schedule.global_batch": 16}
    return load_recipe("kd_digits", [f"{key}={value}" for key, value in {**pairs, **fields}.items()])


def trials(
    recipes: list[Recipe], store: Path, should_stop: Callable[[], bool] = lambda: False, **where: Any
) -> tuple[dict[str, RunOutcome], list[str]]:
    """Run them one at a time or as ``where`` says; return how each ended, and the order in which they did."""
    order: list[str] = []
    cluster = Cluster(name="test", **{"cpus_per_worker": 2, "threads": 1, **where})
    ended = run_batch(
        [resolve(recipe) for recipe in recipes],
        cluster,
        store=store,
        data_root=None,
        should_stop=should_stop,
        on_outcome=lambda run, _: order.append(run.run_id),
    )
    return ended, order


def weights(store: Path, recipe: Recipe) -> bytes:
    return (store / resolve(recipe).run_id / "student.safetensors").read_bytes()


def test_students_share_a_teacher_and_equal_runs_alone(ray_session: ModuleType, tmp_path: Path) -> None:
    both = [student(), student(seed=1)]
    teacher = resolve(both[0]).teacher
    assert teacher is not None
    ended, order = trials(both, tmp_path / "trials", cpus_per_worker=1)
    assert order[0] == teacher.run_id
    assert sorted(order) == sorted(ended) == sorted({teacher.run_id, *(resolve(one).run_id for one in both)})
    for one in both:
        result = train(
            resolve(one),
            Cluster(name="here", workers=0, threads=1),
            store=tmp_path / "alone",
            data_root=None,
            should_stop=bool,
        )
        assert weights(tmp_path / "trials", one) == weights(tmp_path / "alone", one)
        again = ended[resolve(one).run_id].result
        assert again is not None
        assert again.last == result.last
    assert not list((tmp_path / "trials" / ".ray").iterdir())


def test_what_is_finished_is_read_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Cluster(name="here", workers=0)
    result = train(resolve(student()), here, store=tmp_path, data_root=None, should_stop=bool)
    monkeypatch.setattr("raykd.runners.batch.apply_ray_settings", None)  # starting would fail
    ended, order = trials([student()], tmp_path)
    assert ended[resolve(student()).run_id] == RunOutcome(result)
    assert order == [run for run in ended]


def test_a_failure_stops_only_what_builds_on_it(ray_session: ModuleType, tmp_path: Path) -> None:
    good, broken = student(), student(**{"student_optim.lr": 1e30})
    orphan = student(**{"teacher.overrides": TEACHER.replace("}", ", student_optim.lr: 1.0e+30}")})
    ended, _ = trials([good, broken, orphan], tmp_path)
    assert ended[resolve(good).run_id].result is not None
    assert ended[resolve(broken).run_id].result is None
    assert "finite" in str(ended[resolve(broken).run_id].reason)
    teacher = resolve(orphan).teacher
    assert teacher is not None
    assert ended[resolve(orphan).run_id] == RunOutcome(None, f"not run: {teacher.run_id}, which it builds on, failed")
    again, order = trials([orphan], tmp_path)  # nothing is at work when the last ones fall away
    assert order == [teacher.run_id, resolve(orphan).run_id]
    assert again[resolve(orphan).run_id] == ended[resolve(orphan).run_id]


def test_a_fault_of_ours_is_kept_with_its_traceback(tmp_path: Path) -> None:
    from raykd.runners.ray.pool import _return_errors
    from raykd.runners.ray.signals import RunSignals
    from raykd.runners.ray.worker import WorkerTask

    run, workspace = resolve(student()), Workspace(None, tmp_path)
    task = WorkerTask.of(run, Cluster(name="test"), workspace, RunSignals(tmp_path, "job"))
    workspace.run(run.run_id).path.mkdir()

    def train() -> RunResult:
        raise ZeroDivisionError("by a fault of ours")

    reason, log = _return_errors(task, train)["message"], workspace.run(run.run_id).error_log
    assert f"ZeroDivisionError: by a fault of ours; the traceback is in {log}" == reason
    assert "Traceback" in log.read_text()


def send_when_started(store: Path, recipe: Recipe, signum: signal.Signals) -> threading.Thread:
    """Send a signal to the process of a trial, once, as soon as it has a checkpoint."""

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not list((store / resolve(recipe).run_id / "checkpoints").glob("step_*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in runs.processes_below(os.getpid(), "_train_alone"):
            os.kill(process, signum)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_trial_that_hangs_or_dies_goes_on(
    ray_session: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = student(**{"schedule.steps": 300, "schedule.report_every": 20})
    trials([long], tmp_path / "undisturbed")
    thread = send_when_started(tmp_path / "killed", long, signal.SIGSTOP)
    ended, _ = trials([long], tmp_path / "killed", max_failures=1, hang_seconds=2, on_hang="restart")
    thread.join()
    assert ended[resolve(long).run_id].result is not None
    assert weights(tmp_path / "killed", long) == weights(tmp_path / "undisturbed", long)
    assert f"{resolve(long).run_id}: worker 0 (node " in caplog.text
    assert "its process is stopped; last step" in caplog.text
    thread = send_when_started(tmp_path / "dead", long, signal.SIGKILL)
    ended, _ = trials([long], tmp_path / "dead", max_failures=0)
    thread.join()
    assert "died 1 times" in str(ended[resolve(long).run_id].reason)


def test_a_stop_is_passed_on_and_the_same_call_continues(ray_session: ModuleType, tmp_path: Path) -> None:
    long = [student(seed=seed, **{"schedule.steps": 300, "schedule.report_every": 20}) for seed in range(2)]
    first = tmp_path / resolve(long[0]).run_id / "checkpoints"
    with pytest.raises(BatchStopped, match=r"stopped with 1 of 3 runs finished and 1 saved on the way") as stopped:
        trials(long, tmp_path, lambda: bool(list(first.glob("step_*"))))
    assert stopped.value.exit_code == 130
    assert RunDirectory(tmp_path / resolve(long[0]).run_id).status()["state"] == "interrupted"
    ended, _ = trials(long, tmp_path)
    assert all(end.result is not None for end in ended.values())


@pytest.mark.endurance
def test_a_trial_of_several_workers_is_a_train_run(ray_session: ModuleType, tmp_path: Path) -> None:
    one = student()
    ended, _ = trials([one], tmp_path, workers=2, cpus_per_worker=1)
    result = ended[resolve(one).run_id].result
    assert result is not None, ended
    environment = json.loads((tmp_path / resolve(one).run_id / "environment.json").read_text())
    assert environment["workers"] == 2
    again, _ = trials([one], tmp_path)
    assert again == ended


@pytest.mark.endurance
def test_logits_of_several_workers_are_the_teachers(ray_session: ModuleType, tmp_path: Path) -> None:
    one = student()
    results: dict[str, RunResult] = {}
    for logits in ("cached", "live"):
        cluster = Cluster(name=logits, workers=2, teacher_logits=logits)
        results[logits] = train(resolve(one), cluster, store=tmp_path / logits, data_root=None, should_stop=bool)
    assert weights(tmp_path / "cached", one) == weights(tmp_path / "live", one)
    assert results["cached"].last == results["live"].last


def test_what_has_no_data_is_told_at_once_and_stops_nothing(ray_session: ModuleType, tmp_path: Path) -> None:
    without = [load_recipe("kd_mnist"), load_recipe("blind_kd_mnist", ["data={name: digits, ood: imagenet-32}"])]
    ended, order = trials([*without, student()], tmp_path)
    assert ended[resolve(student()).run_id].result is not None
    assert order.index(resolve(without[1]).run_id) < order.index(resolve(student()).run_id)
    assert "data set 'mnist' is a folder of" in str(ended[resolve(without[0]).run_id].reason)
    assert "`raykd data imagenet --size 32 --source FOLDER --out DIR`" in str(ended[resolve(without[1]).run_id].reason)


def test_slips_show_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not divide the global batches"):
        trials([student(), student(**{"schedule.global_batch": 2})], tmp_path, workers=2)
    assert not tmp_path.joinpath(".ray").exists()
    with pytest.raises(MissingData, match="data set 'mnist' is a folder of train-"):
        trials([load_recipe("kd_mnist")], tmp_path)
    with pytest.raises(UsageError, match="unknown model 'lenet6'"):
        trials([student(), student(**{"student.model": "lenet6"})], tmp_path)


def test_more_than_there_is_is_refused(ray_session: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="have room for 0"):
        trials([student()], tmp_path, cpus_per_worker=64)
