"""A run in MLflow, through its client. All that is set in the environment is left to the user where it is set."""

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.tracking.tracker import End, Report, RunFacts, result_figures

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTINGS = {
    # Seven attempts of two minutes by default: the next look, in a while, is the next attempt.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is a command's result
}
_EXPERIMENT = "raykd"
_STEP = "step"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
# Limits of MLflow's REST interface; a longer batch, key or value is refused.
_METRICS, _PARAMETERS = 1000, 100
_KEY, _VALUE, _TAG = 250, 500, 5000
_FORBIDDEN = re.compile(r"[^\w\-. /]")


class MlflowRun:
    """A run of an MLflow server, or of whatever else MLFLOW_TRACKING_URI names."""

    def __init__(self, facts: RunFacts, known: str | None, noted: int) -> None:
        """Go on with the run of the id ``known``, or make one; the server knows better than who ``noted`` its step."""
        self._client = _connect()
        run = None if known is None else _find(self._client, known)
        if run is None:
            run = self._client.create_run(
                _experiment_id(self._client),
                run_name=facts.run_id,
                tags={name: value[:_TAG] for name, value in facts.tags.items()},
            )
        elif run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self.id: str = run.info.run_id
        self.step = int(run.data.metrics.get(_STEP, 0))
        # Not here: a run that is made, and whose id is not returned, is made once more at the next try.
        self._lacks = {key: text for key, text in _parameters(facts).items() if key not in run.data.params}

    def _log_parameters(self) -> None:
        from mlflow.entities import Param

        lacking = [Param(key, text) for key, text in self._lacks.items()]
        for first in range(0, len(lacking), _PARAMETERS):
            self._client.log_batch(self.id, params=lacking[first : first + _PARAMETERS])
        self._lacks = {}

    def log(self, reports: Sequence[Report]) -> None:
        """Send pictures, then metrics in batches: what fails in between has no step there, and is sent again."""
        self._log_parameters()
        for report in reports:
            if report.sheet is not None:
                self._log_file(f"step_{report.step:07d}.png", report.sheet, "samples")
        for batch in _batches(reports):
            self._client.log_batch(self.id, metrics=[metric for report in batch for metric in _metrics(report)])
        self.step = reports[-1].step

    def end(self, how: End, status: Mapping[str, Any], page: Path | None) -> None:
        """Send the result's figures and the page, then set the run's status."""
        from mlflow.entities import Metric

        self._log_parameters()
        now = time.time_ns() // 1_000_000
        figures = [Metric(_name(name), value, now, self.step) for name, value in result_figures(status).items()]
        if figures:
            self._client.log_batch(self.id, metrics=figures)
            self._client.log_dict(self.id, status["result"], "result.json")
        if page is not None:
            self._client.log_artifact(self.id, str(page))
        if reason := status.get("reason"):
            self._client.set_tag(self.id, "raykd.reason", reason[:_TAG])
        self._client.set_terminated(self.id, _STATUS[how])

    def _log_file(self, name: str, content: bytes, folder: str) -> None:
        with tempfile.TemporaryDirectory(prefix="raykd-") as scratch:
            path = Path(scratch) / name
            path.write_bytes(content)
            self._client.log_artifact(self.id, str(path), folder)


def _connect() -> "MlflowClient":
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])


def _find(client: "MlflowClient", known: str) -> Any:
    """Return the run, or None where this server has it not, or not any more."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(known)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _experiment_id(client: "MlflowClient") -> str:
    """Return the experiment of the runs, made if need be, by whoever is first."""
    from mlflow.exceptions import MlflowException

    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def _batches(reports: Sequence[Report]) -> Iterator[Sequence[Report]]:
    at_once = max(1, _METRICS // max(len(report.row) + 1 for report in reports))
    for first in range(0, len(reports), at_once):
        yield reports[first : first + at_once]


def _metrics(report: Report) -> list[Any]:
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    named = {**{name: value for name, value in report.row.items() if name != _STEP}, _STEP: report.step}
    return [Metric(_name(name), float(value), now, report.step) for name, value in named.items()]


def _parameters(facts: RunFacts) -> dict[str, str]:
    return {_name(key): _shortened(str(value)) for key, value in facts.parameters.items()}


def _name(key: str) -> str:
    return _FORBIDDEN.sub("_", key)[:_KEY]


def _shortened(value: str) -> str:
    return value if len(value) <= _VALUE else value[: _VALUE - 3] + "..."
