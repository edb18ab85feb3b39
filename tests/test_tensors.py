"""A file of tensors with its own sum is whole, or it is said what is damaged; files of others are left alone."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raykd.errors import CorruptError
from raykd.files import sha256_of
from raykd.tensors import DESCRIPTION, checksum_metadata, read_tensor_file, read_tensors
from tests.methods.toy import assert_same

TENSORS = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(4)}
TOLD: dict[str, Any] = {"name": "made", "mean": [0.5], "class_names": ["ä", "b"]}


@pytest.mark.parametrize("description", [None, TOLD])
def test_whatever_byte_is_flipped_what_is_read_is_right(tmp_path: Path, description: dict[str, Any] | None) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, checksum_metadata(TENSORS, description))
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            metadata, tensors = read_tensor_file(path, "fetch it again")
        except CorruptError as error:
            assert str(error).startswith(f"{path} is damaged (")
            assert str(error).endswith("; fetch it again")
            refused += 1
            continue
        assert_same(tensors, TENSORS)
        with suppress(json.JSONDecodeError):  # who wants the description finds that it is none
            told = json.loads(metadata.get(DESCRIPTION, "{}"))  # a key by another name is none
            assert not told or {key: told[key] for key in description or {}} == description
    data = sum(tensor.nbytes for tensor in TENSORS.values())
    assert refused >= data, "every byte of the tensors among them"


def test_equal_tensors_make_equal_files(tmp_path: Path) -> None:
    for name, tensors in (("a", TENSORS), ("b", dict(reversed(TENSORS.items())))):
        save_file(tensors, tmp_path / name, checksum_metadata(tensors, TOLD))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"format": "pt", "sha256": "of something else"}, {"data": "words"}, {"data": "[1]"}],
)
def test_files_of_others_are_read(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(TENSORS, tmp_path / "x", metadata)
    assert_same(read_tensors(tmp_path / "x", ""), TENSORS)


def test_the_sum_of_the_file_stands_in_where_it_bears_none(tmp_path: Path) -> None:
    bare, told = tmp_path / "bare", tmp_path / "told"
    save_file(TENSORS, bare)
    save_file(TENSORS, told, checksum_metadata(TENSORS))
    read_tensors(bare, "", sha256=sha256_of(bare))
    read_tensors(told, "", sha256="that of the file that they came in")
    with pytest.raises(CorruptError, match=r"bare is damaged \(it differs from its checksum\); restore"):
        read_tensors(bare, "restore it", sha256=sha256_of(told))
