"""The ledger of a run: what was opened, in which role, and what could not be."""

from pathlib import Path

import pytest

from raykd.data.datasets import data_spec
from raykd.data.ledger import OpenedData
from raykd.errors import UsageError


def test_the_ledger_lists_what_was_opened_in_which_role(root: Path) -> None:
    opened = OpenedData(root)
    assert opened.by_role() == {"train": [], "synthetic": [], "ood": [], "calibration": [], "test": [], "teacher": []}
    spec = data_spec("digits")
    images = opened.open("test", "digits", "test", spec)
    assert len(images.labels) == 359
    opened.open("ood", "made", "train", spec)
    opened.open("ood", "made", "train", spec)
    assert opened.by_role() == {
        "train": [], "synthetic": [], "ood": ["made/train"], "calibration": [], "test": ["digits/test"], "teacher": [],
    }  # fmt: skip
    opened.by_role()["train"].append("forged")
    assert opened.by_role()["train"] == []
    opened.inherit({"calibration": ["a/train"], "test": ["a/test"], "ood": 7})
    opened.inherit({"train": ["a/train"], "calibration": ["b/train"]}, of_teacher=True)
    found = opened.by_role()
    assert (found["calibration"], found["teacher"]) == (["a/train"], ["a/train", "b/train"])
    assert "a/test" not in found["test"]
    with pytest.raises(UsageError, match="unknown data role 'tset'; did you mean 'test'"):
        opened.open("tset", "digits", "test", spec)  # type: ignore[arg-type]


def test_the_ledger_keeps_attempts_that_failed(root: Path) -> None:
    opened = OpenedData(root)
    with pytest.raises(UsageError):
        opened.open("train", "made", "valid", data_spec("digits"))
    assert opened.by_role()["train"] == ["made/valid"]
