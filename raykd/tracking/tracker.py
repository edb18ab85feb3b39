"""What a tracker is to raykd: a service that shows a run's parameters, curves and pictures, beside the run's own files.

Nothing heavy is imported here, since the command line asks for the names.
"""

import netrc
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args
from urllib.parse import urlsplit

from raykd.errors import SetupError, masked

TrackerName = Literal["mlflow", "wandb"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)
End = Literal["finished", "failed", "stopped"]

_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
_SETTINGS = (
    "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL",
)  # fmt: skip
_SHOWN = 300  # characters of a tracker's own error


@dataclass(frozen=True)
class RunFacts:
    """What a tracker is told when it first hears of a run.

    Attributes:
        run_id: raykd's.
        recipe: the recipe's name.
        seed: the recipe's.
        parameters: the recipe's fields, by dotted keys.
        tags: run id, recipe, seed, version and commit.
        folder: the run's directory.
    """

    run_id: str
    recipe: str
    seed: int
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    folder: Path


class Report(NamedTuple):
    """A row of a run's metrics, with the sheet of its images, a PNG, if there is one."""

    step: int
    row: Mapping[str, float]
    sheet: bytes | None


class TrackedRun(Protocol):
    """A run in a tracker, open. Every method may take seconds and raise whatever the tracker's package raises.

    It is made of the run's facts, the tracker's id of it (None for a new one) and the step noted under that.
    """

    id: str
    """The tracker's own, under which the run is opened again."""
    step: int
    """The last one that the tracker has, 0 before the first."""

    def log(self, reports: Sequence[Report]) -> None:
        """Send reports, in the order of their steps, each once."""

    def end(self, how: End, status: Mapping[str, Any], page: Path | None) -> None:
        """Tell how the run ended, with its result or the reason why it has none, and its report for a reader."""


def require_trackers(names: Iterable[TrackerName]) -> None:
    """Refuse trackers that could not be told anything from here, before a run begins.

    Raises:
        SetupError: naming the extra, or the variable, that is missing.
    """
    for name in names:
        if find_spec(name) is None:
            raise SetupError(
                f"tracker {name!r} is not installed: run `pip install 'raykd[{name}]'`, or leave the tracker out"
            )
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise SetupError(
            "tracker 'mlflow' has no server: set MLFLOW_TRACKING_URI, as to http://127.0.0.1:5000 of `mlflow server`, "
            "or leave the tracker out"
        )
    if "wandb" in names and wandb_mode() not in ("offline", "disabled") and not _has_wandb_key():
        raise SetupError(
            f"tracker 'wandb' has no key for WANDB_MODE={wandb_mode()}: set WANDB_API_KEY or run `wandb login`, or "
            "leave WANDB_MODE out to keep its files on this machine"
        )


def wandb_mode() -> str:
    """Return the mode of Weights & Biases, by its newer name: offline, unless the user chose another."""
    mode = os.environ.get("WANDB_MODE") or "offline"
    return {"dryrun": "offline", "run": "online"}.get(mode, mode)


def _has_wandb_key() -> bool:
    """Tell whether it can be asked without a prompt."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def tracker_settings() -> dict[str, str]:
    """Return the variables by which trackers are found, to be passed to a job; none that may hold a secret."""
    found = {name: value for name in _SETTINGS if (value := os.environ.get(name))}
    return {name: value for name, value in found.items() if masked(value) == value}


def describe_failure(error: Exception) -> str:
    """Return what a tracker's package raised as a line without secrets."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "...")
    return masked(text)[:_SHOWN]


def flatten(tree: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their joined keys, without secrets; lists stay whole."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, separator, f"{prefix}{key}{separator}")
        else:
            leaves[f"{prefix}{key}"] = _without_secrets(value)
    return leaves


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    return [_without_secrets(inner) for inner in value] if isinstance(value, list | tuple) else value


def result_figures(status: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a finished run's result, as ``result/blind/accuracy/top1``."""
    leaves = flatten({"result": status.get("result") or {}}, "/")
    return {
        name: float(value)
        for name, value in leaves.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
