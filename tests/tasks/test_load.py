"""A student is read from its file alone, if somebody says its architecture."""

import shutil
from pathlib import Path

import pytest
import torch

import raykd
from raykd.errors import CorruptError, UsageError
from tests.test_api import SHORT, network

pytestmark = pytest.mark.usefixtures("bare_place")


def test_a_bare_file_says_how_images_are_shown_but_not_to_whom(tmp_path: Path) -> None:
    result = raykd.train("supervised_digits_lenet5", overrides=SHORT, progress=False)
    alone = Path(shutil.copy(Path(str(result.directory)) / "student.safetensors", tmp_path / "mine.safetensors"))
    student = raykd.load(alone, student="lenet5")
    assert (student.spec.size, student.spec.class_names[3]) == (32, "3")
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(student(images), raykd.load(result)(images))
    with pytest.raises(UsageError, match="give their architecture, as in student='lenet5'"):
        raykd.load(alone)
    with pytest.raises(UsageError, match="is for another architecture"):
        raykd.load(alone, student=network())
    alone.write_bytes(b"torn")
    with pytest.raises(CorruptError, match="damaged or no safetensors"):
        raykd.load(alone, student="lenet5")
