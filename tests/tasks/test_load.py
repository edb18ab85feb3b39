"""A student is read from its file alone, if somebody says its architecture."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import raykd
from raykd.errors import CorruptError, UsageError
from raykd.models import build_model
from raykd.models.weights import load_weights
from raykd.spec import DataSpec
from raykd.tasks.load import load_file
from raykd.tensors import checksum_metadata
from tests.methods.toy import assert_same
from tests.store.test_checkpoint import flip
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
    with pytest.raises(CorruptError, match="mine.safetensors is damaged"):
        raykd.load(alone, student="lenet5")


SPEC = DataSpec("made", 10, 1, 32, (0.5,), (0.25,))


def test_a_flipped_byte_of_a_students_file_is_noticed(tmp_path: Path) -> None:
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    path, weights = tmp_path / "student.safetensors", network.state_dict()
    save_file(weights, path, checksum_metadata(weights, SPEC.to_dict()))
    assert load_file(path, "lenet5").spec == SPEC
    flip(path)
    for read in (lambda: load_file(path, network), lambda: load_weights(network, path)):
        with pytest.raises(CorruptError, match="student.safetensors is damaged .it differs from its checksum"):
            read()


def test_a_students_file_of_before_bears_no_sum_and_is_read(tmp_path: Path) -> None:
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    save_file(network.state_dict(), tmp_path / "student.safetensors", {"data": json.dumps(SPEC.to_dict())})
    student = load_file(tmp_path / "student.safetensors", "lenet5")
    assert student.spec == SPEC
    assert_same(student.network.state_dict(), network.state_dict())
