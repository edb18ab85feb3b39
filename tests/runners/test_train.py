"""What is settled before and beside Ray: results that are there, a Ray that is not, errors that travel as data."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.errors import SetupError, UsageError, WorkerFailed, error_to_dict
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import dump_recipe
from raykd.store.workspace import Workspace
from tests.runners import runs


def cluster(workers: int | tuple[int, int]) -> Cluster:
    return Cluster(name="some", workers=workers)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("raykd.runners.ray.driver")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray.train", None)


def test_what_is_finished_is_read_without_ray(no_ray: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = runs.save_teacher(tmp_path / "teacher.safetensors")
    brief = {"steps": 2, "report_every": 2, "global_batch": 32}
    alone = runs.recipe(weights, schedule=brief)
    result = runs.start(alone, tmp_path, workers=0)
    caplog.set_level("INFO")
    assert runs.start(alone, tmp_path, address="127.0.0.1:1") == result
    assert f"{resolve(alone).run_id} is finished already: reading its result" in caplog.text
    (tmp_path / "control.yaml").write_text(dump_recipe(alone.model_copy(update={"name": "control", "seed": 1})))
    with_control = runs.recipe(weights, schedule=brief, controls=[str(tmp_path / "control.yaml")])
    (tmp_path / resolve(alone).run_id).rename(tmp_path / resolve(with_control).run_id)
    with pytest.raises(SetupError, match="needs Ray"):
        runs.start(with_control, tmp_path)


def test_a_run_whose_student_is_gone_is_not_read_but_trained_where_the_cluster_says(
    no_ray: None, tmp_path: Path
) -> None:
    recipe = runs.recipe(
        runs.save_teacher(tmp_path / "teacher.safetensors"),
        schedule={"steps": 2, "report_every": 2, "global_batch": 32},
    )
    runs.start(recipe, tmp_path, workers=0)
    (tmp_path / resolve(recipe).run_id / "student.safetensors").unlink()
    with pytest.raises(SetupError, match="needs Ray"):
        runs.start(recipe, tmp_path)


def test_a_missing_ray_is_said(no_ray: None, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"pip install 'raykd\[ray\]'"):
        runs.start(runs.recipe(tmp_path), tmp_path)


def test_a_silent_address_fails_within_seconds(tmp_path: Path) -> None:
    """In a process of its own: this one may hold the connection of other tests."""
    program = (
        "import sys; from pathlib import Path; from tests.runners import runs\n"
        f"store = Path({str(tmp_path)!r})\n"
        "runs.start(runs.recipe(store), store, address='127.0.0.1:1')"
    )
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "SetupError: nothing answers at 127.0.0.1:1" in done.stderr
    assert time.monotonic() - before < 60


@pytest.mark.ray
def test_an_error_of_all_workers_is_data_and_that_of_one_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from raykd.runners.ray import worker
    from raykd.runners.ray.signals import RunSignals

    monkeypatch.setattr(worker, "_SETTLING_SECONDS", 0.2)
    words = RunSignals(tmp_path, "job")
    words.open()
    error, second = UsageError("no such data"), World(1, 2, torch.device("cpu"))
    with pytest.raises(UsageError, match="no such data"):
        worker.answer_for(words, second, error)
    assert words.failures() == [error_to_dict(error)]
    first = World(0, 2, torch.device("cpu"))
    assert worker.answer_for(words, first, error) == error_to_dict(error)
    assert worker.answer_for(RunSignals(tmp_path, "gone"), first, error) == error_to_dict(error)


@pytest.mark.ray
def test_a_worker_that_failed_with_another_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd.runners.ray import worker
    from raykd.runners.ray.signals import RunSignals

    def fail(*_: object, **__: object) -> None:
        raise WorkerFailed("worker 1 failed with KeyError: 'x'; its output has the traceback")

    monkeypatch.setattr(worker, "run_here", fail)
    words = RunSignals(tmp_path, "job")
    words.open()
    recipe, cluster = runs.recipe(tmp_path / "teacher.safetensors"), Cluster(name="test", workers=2)
    job = worker.WorkerTask.of(resolve(recipe), cluster, Workspace(None, tmp_path), words)
    with pytest.raises(WorkerFailed):
        worker.work(job.as_config())
    assert words.failures() == [], "it would be told as final"
