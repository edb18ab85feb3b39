"""What trackers are told and what they need, without one."""

import sys

import pytest

from raykd.errors import SetupError
from raykd.tracking.tracker import describe_failure, flatten, require_trackers, result_figures, tracker_settings


def test_nested_sections_become_dotted_keys_without_secrets() -> None:
    tree = {
        "name": "x",
        "data": {"name": "s3://me:word@host/a", "augment": ["s3://me:word@host/b"]},
        "schedule": {"steps": 3},
    }
    assert flatten(tree, ".") == {
        "name": "x",
        "data.name": "s3://...@host/a",
        "data.augment": ["s3://...@host/b"],
        "schedule.steps": 3,
    }


def test_the_numbers_of_a_result_are_figures() -> None:
    status = {"result": {"run": "x", "blind": {"step": 4, "accuracy/top1": 97.5}, "flag": True, "warnings": None}}
    assert result_figures(status) == {"result/blind/step": 4.0, "result/blind/accuracy/top1": 97.5}
    assert result_figures({"state": "failed"}) == {}


def test_an_error_is_a_line_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc123")
    told = describe_failure(ValueError("https://me:word@host/api\n refused abc123"))
    assert told == "ValueError: https://...@host/api refused ..."


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    require_trackers([name])  # type: ignore[list-item]
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match=rf"'{name}' is not installed: run `pip install 'raykd\[{name}\]'`"):
        require_trackers([name])  # type: ignore[list-item]


def test_mlflow_wants_a_server_and_wandb_a_key_where_it_is_not_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="set MLFLOW_TRACKING_URI"):
        require_trackers(["mlflow"])
    require_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    require_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "run")
    with pytest.raises(SetupError, match="no key for WANDB_MODE=online: set WANDB_API_KEY"):
        require_trackers(["wandb"])
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    require_trackers(["wandb"])


def test_a_job_gets_the_settings_that_are_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:word@host")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert tracker_settings() == {"WANDB_PROJECT": "mine"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host")
    assert tracker_settings() == {"MLFLOW_TRACKING_URI": "https://host", "WANDB_PROJECT": "mine"}
