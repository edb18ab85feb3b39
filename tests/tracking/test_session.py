"""Runs as two trackers are told of them: real trainings, a real server of MLflow, real files of Weights & Biases."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from raykd.cluster.config import Cluster
from raykd.engine import stop
from raykd.engine.stop import Interrupted
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe
from raykd.runners.tune import search
from raykd.search.setup import plan_search
from raykd.search.space_file import load_space
from raykd.store.mirror import Mirror
from raykd.store.remote import Remote
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tracking import session
from raykd.tracking.session import tracked
from raykd.tracking.tracker import Report, RunFacts
from tests.architecture.imports import ROOT
from tests.object_store import Server
from tests.reporting.pages.made import made_run
from tests.runners import runs
from tests.tracking.server import TrackingServer
from tests.tracking.wandb_file import ended_files, history

STEPS = 20
BOTH = ("mlflow", "wandb")
UNTRACKED = """
import sys
from pathlib import Path
from tests.runners import runs
from tests.tracking.test_session import short
folder = Path(sys.argv[1])
runs.start(short(folder), folder / "untracked", workers=0, threads=1)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"mlflow", "wandb"}))
"""


def short(folder: Path) -> Recipe:
    return runs.recipe(folder / "teacher.safetensors", schedule={"steps": STEPS, "report_every": 5, "global_batch": 32})


@pytest.fixture
def client(mlflow_server: TrackingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Of an experiment of this test's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.setattr(session, "_CLOSING_SECONDS", 120.0)
    monkeypatch.setattr(session, "_LOOK_SECONDS", 0.1)
    from mlflow import MlflowClient

    return MlflowClient(mlflow_server.uri)


def told_runs(client: Any, folder: Path) -> list[Any]:
    """The runs of this test in MLflow."""
    found = client.get_experiment_by_name(folder.name)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def steps_of(client: Any, run: Any, metric: str = "loss/kd") -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


def test_a_run_that_was_stopped_goes_on_in_both_and_is_the_same_without(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: what tracks nothing loads neither package."""
    monkeypatch.setattr(stop, "_SECONDS_BETWEEN", 0)  # a run so short may end before it is asked for the second time
    runs.save_teacher(tmp_path / "teacher.safetensors")
    recipe = short(tmp_path)
    directory = RunDirectory(tmp_path / "tracked" / resolve(recipe).run_id)
    with pytest.raises(Interrupted):
        runs.start(recipe, directory.path.parent, lambda: runs.reported(directory.path) >= 2, workers=0, trackers=BOTH)
    (run,) = told_runs(client, tmp_path)
    assert (run.info.status, run.info.run_name) == ("KILLED", directory.name)
    assert steps_of(client, run) == [row["step"] for row in directory.rows()]
    runs.start(recipe, directory.path.parent, workers=0, trackers=BOTH)

    (run,) = told_runs(client, tmp_path)
    rows = directory.rows()
    assert steps_of(client, run) == [row["step"] for row in rows] == [5, 10, 15, 20]
    values = [point.value for point in client.get_metric_history(run.info.run_id, "accuracy/top1")]
    assert values == [row["accuracy/top1"] for row in rows]
    assert (run.info.status, run.data.params["method.generator_optim.lr"]) == ("FINISHED", "0.001")
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("raykd.") and "reason" not in name}
    assert tags.pop("raykd.commit")
    assert tags == {
        "raykd.run_id": directory.name, "raykd.recipe": "tiny", "raykd.seed": "0", "raykd.version": "0.1.0"
    }  # fmt: skip
    assert run.data.metrics["result/last/accuracy/top1"] == rows[-1]["accuracy/top1"]
    sheets = {file.path for file in client.list_artifacts(run.info.run_id, "samples")}
    assert sheets == {f"samples/step_{step:07d}.png" for step in (5, 10, 15, 20)}

    files = ended_files(directory.path, 2)
    assert [row["_step"] for file in files for row in history(file)] == [5, 10, 15, 20]
    assert len({file.name for file in files}) == 1, "the id"

    done = subprocess.run(
        [sys.executable, "-c", UNTRACKED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    untracked = RunDirectory(tmp_path / "untracked" / directory.name)
    assert untracked.student.read_bytes() == directory.student.read_bytes()


def test_a_server_that_dies_is_one_warning_and_gets_the_rest_later(
    client: Any, mlflow_server: TrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs.save_teacher(tmp_path / "teacher.safetensors")
    recipe = short(tmp_path)
    directory = RunDirectory(tmp_path / resolve(recipe).run_id)
    killed: list[int] = []

    def kill_once() -> bool:
        if not killed and "step" in note(directory, "mlflow"):
            killed.append(runs.reported(directory.path))
            mlflow_server.stop()
        return False

    try:
        with caplog.at_level(logging.WARNING, "raykd.tracking"):
            runs.start(recipe, tmp_path, kill_once, workers=0, trackers=["mlflow"])
    finally:
        if killed:
            mlflow_server.start()
    assert killed
    assert directory.is_finished
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("raykd.tracking")]
    assert told.startswith("tracker mlflow: ")
    assert "training goes on" in told
    runs.start(recipe, tmp_path, workers=0, trackers=["mlflow"])
    (run,) = told_runs(client, tmp_path)
    assert (steps_of(client, run), run.info.status) == ([5, 10, 15, 20], "FINISHED")


def note(directory: RunDirectory, tracker: str) -> dict[str, Any]:
    path = directory.path / f"tracker_{tracker}.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def test_the_page_goes_along_and_a_step_that_was_not_noted_is_not_told_twice(client: Any, tmp_path: Path) -> None:
    run = made_run(tmp_path, finished=False, sheets=5)
    experiment, workspace = run.experiment(), Workspace(None, tmp_path)
    with tracked(["mlflow"], [experiment], workspace, elsewhere=False):
        run.write_status(state="running", step=12, steps=20)
    (made,) = told_runs(client, tmp_path)
    assert (steps_of(client, made, "kl"), made.info.status) == ([4, 8, 12], "KILLED"), "up to the last checkpoint"
    path = run.path / "tracker_mlflow.json"
    path.write_text(json.dumps({"id": made.info.run_id, "step": 4}))  # as a kill leaves it behind what it has sent
    with tracked(["mlflow"], [experiment], workspace, elsewhere=False):
        run.write_status(state="finished", step=20, result={"seed": 0, "blind": {"accuracy/top1": 91.5}})
        run.page.write_text("<p>the report</p>")
    (made,) = told_runs(client, tmp_path)
    assert (steps_of(client, made, "kl"), made.info.status) == ([4, 8, 12, 16, 20], "FINISHED")
    assert {file.path for file in client.list_artifacts(made.info.run_id)} == {"report.html", "result.json", "samples"}
    before = path.read_text()
    with tracked(["mlflow"], [experiment], workspace, elsewhere=False):
        pass
    assert path.read_text() == before, "it lacks nothing"


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: {"id": note["id"]},
        lambda note: {**note, "step": "20"},
        lambda note: {**note, "step": None},
        lambda note: {**note, "step": 1e9},
        lambda note: {"step": note["step"]},
        lambda note: {**note, "id": [note["id"]]},
        lambda note: [note],
        lambda note: {**note, "step": note["step"], "sha256": "0" * 64},
    ],
)
def test_a_damaged_note_is_told_and_the_tracker_gets_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    """Of Weights & Biases, which does not know what it was told before."""
    monkeypatch.setitem(session._KINDS, "wandb", (__name__, "Taking"))
    run = made_run(tmp_path, finished=False)
    path = run.path / "tracker_wandb.json"
    path.write_text(json.dumps(damage({"id": "made before", "step": 8, "end": "finished"})))
    with tracked(["wandb"], [run.experiment()], Workspace(None, tmp_path), elsewhere=False):
        run.write_status(state="running", step=20)
    assert Taking.told[-1] == (None, [4, 8, 12, 16, 20])
    (told,) = [record.getMessage() for record in caplog.records]
    assert "tracker_wandb.json is damaged" in told
    assert "the tracker gets a new run" in told
    assert (note(run, "wandb")["step"], note(run, "wandb")["end"]) == (20, "stopped")


class Taking:
    """A tracker that takes all, and keeps the id by which it was known and the steps."""

    told: ClassVar[list[tuple[str | None, list[int]]]] = []

    def __init__(self, facts: RunFacts, known: str | None, noted: int) -> None:
        self.id, self.step = known or "made now", noted
        self.told.append((known, []))

    def log(self, reports: Sequence[Report]) -> None:
        """Take them."""
        self.told[-1][1].extend(report.step for report in reports)

    def end(self, how: str, status: Mapping[str, Any], page: Path | None) -> None:
        """Take it."""


def test_a_run_of_before_is_left_alone_and_a_failure_is_told(client: Any, tmp_path: Path) -> None:
    run = made_run(tmp_path, finished=False)
    run.write_status(state="failed", step=20, reason="step 20: loss/kd is nan")
    experiment, workspace = run.experiment(), Workspace(None, tmp_path)
    status = json.loads((run.path / "status.json").read_text())
    os.utime(run.path / "status.json")
    assert status["updated"]
    with tracked(["mlflow"], [experiment], workspace, elsewhere=False):
        pass
    assert told_runs(client, tmp_path) == []
    with tracked(["mlflow"], [experiment], workspace, elsewhere=False):
        run.write_status(state="failed")
    (made,) = told_runs(client, tmp_path)
    assert (made.info.status, made.data.tags["raykd.reason"]) == ("FAILED", "step 20: loss/kd is nan")


def test_what_cannot_be_noted_is_a_warning_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:word@127.0.0.1:9")  # where nobody answers
    run = made_run(tmp_path, finished=False)
    with (
        caplog.at_level(logging.WARNING, "raykd.tracking"),
        tracked(["mlflow"], [run.experiment()], Workspace(None, tmp_path), elsewhere=False),
    ):
        run.write_status(state="running", step=20)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "word" not in told.replace("warning", "")
    assert not any(b"me:word" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "end" not in note(run, "mlflow")


def test_what_other_machines_write_is_read_from_the_store(
    client: Any, tmp_path: Path, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_REMOTE_LOOK_SECONDS", 0.1)
    run, remote = made_run(tmp_path / "there", finished=False, sheets=1), Remote(f"s3://{s3.new_bucket()}/runs")
    here = Workspace(None, tmp_path / "here", Mirror(remote, tmp_path / "here"))
    with tracked(["mlflow"], [run.experiment()], here, elsewhere=True):
        run.write_status(state="running", step=12)
        Mirror(remote, tmp_path / "there").push(run.name)
    (made,) = told_runs(client, tmp_path)
    assert steps_of(client, made, "kl") == [4, 8, 12]
    assert len(client.list_artifacts(made.info.run_id, "samples")) == 1
    kept = json.loads(remote.read(f"{run.name}/tracker_mlflow.json") or b"")
    assert (kept["id"], kept["step"], kept["end"]) == (made.info.run_id, 12, "stopped")


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_are_one_run(ray_session: ModuleType, client: Any, tmp_path: Path) -> None:
    runs.save_teacher(tmp_path / "teacher.safetensors")
    runs.start(short(tmp_path), tmp_path, workers=2, trackers=BOTH)
    (run,) = told_runs(client, tmp_path)
    assert (steps_of(client, run), run.info.status) == ([5, 10, 15, 20], "FINISHED")
    assert run.data.metrics["step"] == STEPS
    (file,) = ended_files(tmp_path / resolve(short(tmp_path)).run_id, 1)
    assert [row["_step"] for row in history(file)] == [5, 10, 15, 20]


@pytest.mark.ray
@pytest.mark.slow
def test_the_trials_of_a_search_and_their_teacher_are_runs(
    ray_session: ModuleType, client: Any, tmp_path: Path
) -> None:
    fields = {"schedule.steps": 8, "schedule.report_every": 4, "schedule.global_batch": 16}
    space = {"recipe": "kd_digits", "trials": 2, "overrides": {**fields, "teacher.overrides": fields}}
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps({**space, "space": {"student_optim.lr": {"loguniform": [0.0001, 0.01]}}}))
    report = search(
        plan_search(load_space(str(file)), tmp_path / "runs"),
        Cluster(name="test", cpus_per_worker=2, threads=1, trackers=("mlflow",)),
        store=tmp_path / "runs",
        data_root=None,
        should_stop=lambda: False,
        show=lambda report: None,
    )
    assert report.trials.complete == 2
    told = {run.info.run_name: run for run in told_runs(client, tmp_path)}
    assert set(told) == {path.parent.name for path in (tmp_path / "runs").glob("*/status.json")}
    assert len(told) == 3
    assert {run.info.status for run in told.values()} == {"FINISHED"}
    assert all(steps_of(client, run, "accuracy/top1") == [4, 8] for run in told.values())


class Refusing:
    """A tracker that refuses one run, and takes every other."""

    told: ClassVar[list[str]] = []

    def __init__(self, facts: RunFacts, known: str | None, noted: int) -> None:
        if facts.run_id == self.told[0]:
            raise ValueError("it is refused")
        self.id, self.step = facts.run_id, noted
        self.told.append(facts.run_id)

    def log(self, reports: Sequence[Report]) -> None:
        """Take them."""

    def end(self, how: str, status: Mapping[str, Any], page: Path | None) -> None:
        """Take it."""


def test_a_run_that_is_always_refused_keeps_no_other_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for a server that refuses a run by what is in it, which the real one does of nothing that we send."""
    made = [made_run(tmp_path, overrides=(f"seed={seed}",), finished=False) for seed in range(3)]
    monkeypatch.setitem(session._KINDS, "wandb", (__name__, "Refusing"))
    Refusing.told[:] = [made[0].name]
    with tracked(["wandb"], [run.experiment() for run in made], Workspace(None, tmp_path), elsewhere=False):
        for run in made:
            run.write_status(state="running", step=20)
    assert Refusing.told == [run.name for run in made]
    assert ["end" in note(run, "wandb") for run in made] == [False, True, True]


def test_a_run_of_another_command_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, finished=False)
    with run.held(), tracked(["wandb"], [run.experiment()], Workspace(None, tmp_path), elsewhere=False):
        run.write_status(state="running", step=20)
    assert note(run, "wandb") == {}
