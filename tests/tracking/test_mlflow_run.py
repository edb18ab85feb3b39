"""A run in a real server of MLflow: its limits, and what becomes of a run that is not there any more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raykd.tracking.mlflow_run import MlflowRun
from raykd.tracking.tracker import Report, RunFacts
from tests.tracking.server import TrackingServer

FACTS = RunFacts("tiny-0-s3", "tiny", 3, {"data.name": "digits"}, {"raykd.run_id": "tiny-0-s3"}, Path())


@pytest.fixture
def client(mlflow_server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    from mlflow import MlflowClient

    return MlflowClient(mlflow_server.uri)


def test_what_is_too_long_too_many_or_forbidden_is_taken(client: Any) -> None:
    parameters = {**{f"a.{number}": number for number in range(250)}, "long": "x" * 9000, "k" * 300: 1, "odd[0]": 2}
    run = MlflowRun(replace(FACTS, parameters=parameters), None, 0)
    reports = [
        Report(step, {"step": step, **{f"m/{i}": float(step) for i in range(300)}}, None) for step in (1, 2, 3, 4)
    ]
    run.log(reports)
    told = client.get_run(run.id).data
    assert (len(told.params), told.params["a.249"], told.params["odd_0_"]) == (253, "249", "2")
    assert max(map(len, told.params.values())) <= 500
    assert [(point.step, point.value) for point in client.get_metric_history(run.id, "m/299")] == [
        (step, float(step)) for step in (1, 2, 3, 4)
    ]


def test_a_run_goes_on_by_its_id_behind_the_servers_step(client: Any) -> None:
    first = MlflowRun(FACTS, None, 0)
    first.log([Report(5, {"step": 5, "loss": 1.0}, None)])
    first.end("stopped", {"state": "interrupted", "reason": "stopped at step 5"}, None)
    assert client.get_run(first.id).info.status == "KILLED"
    assert client.get_run(first.id).data.tags["raykd.reason"] == "stopped at step 5"
    again = MlflowRun(FACTS, first.id, 90)
    assert (again.id, again.step, client.get_run(first.id).info.status) == (first.id, 5, "RUNNING")


@pytest.mark.parametrize("known", ["0" * 32, "deleted"])
def test_a_run_that_the_server_has_not_is_made(client: Any, known: str) -> None:
    if known == "deleted":
        known = MlflowRun(FACTS, None, 0).id
        client.delete_run(known)
    made = MlflowRun(FACTS, known, 7)
    assert (made.id != known, made.step) == (True, 0)


def test_a_run_whose_parameters_fail_is_not_made_twice(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def refused(*_: object, **__: object) -> None:
        raise OSError("the server went away")

    reports = [Report(1, {"step": 1, "loss": 1.0}, None)]
    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "log_batch", refused)
        run = MlflowRun(FACTS, None, 0)
        with pytest.raises(OSError, match="went away"):
            run.log(reports)
    again = MlflowRun(FACTS, run.id, 0)
    again.log(reports)
    assert (again.id, client.get_run(run.id).data.params) == (run.id, {"data.name": "digits"})
