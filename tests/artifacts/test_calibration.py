"""Statistics that a recipe names: measured once and kept, and again where what was kept is damaged."""

from pathlib import Path

import pytest

from raykd.artifacts import calibration
from raykd.data.datasets import Images
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace
from tests.methods.toy import SPEC, assert_same, made_images, made_teacher


def test_they_are_measured_once_and_again_if_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def stored_images(data: str, *_: object) -> Images:
        read.append(data)
        return made_images()

    monkeypatch.setattr(calibration, "stored_images", stored_images)
    experiment = resolve(load_recipe("lsgdfd_digits_bank", ["calibration={per_class: 2}"]))
    opened, workspace = OpenedData(None), Workspace(None, tmp_path)

    def found() -> object:
        return calibration.class_statistics(experiment, made_teacher(), None, SPEC, World.alone(), opened, workspace)

    first = found()
    assert_same(found(), first)
    assert read == ["digits"]
    (file,) = tmp_path.rglob("*.safetensors")
    half = file.read_bytes()[:-1]
    file.unlink()  # those that were read may still be mapped
    file.write_bytes(half)
    assert_same(found(), first)
    assert read == ["digits", "digits"]
    assert opened.by_role()["calibration"] == ["digits/train (2 of each class)"]
