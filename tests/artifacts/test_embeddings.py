"""Embeddings of labels from a file, and the ways to give a wrong one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from raykd.artifacts.embeddings import read_embeddings
from raykd.errors import CorruptError, UsageError
from raykd.methods.latents import label_embeddings

ROWS = torch.arange(12.0).view(4, 3)


def test_both_kinds_of_file_give_the_same_rows(tmp_path: Path) -> None:
    save_file({"names": ROWS.half()}, tmp_path / "e.safetensors")
    np.savez(tmp_path / "e.npz", ROWS.numpy())
    for name in ("e.safetensors", "e.npz"):
        found = read_embeddings(tmp_path / name, 4)
        assert found.dtype == torch.float32
        assert torch.equal(found, ROWS)
    assert torch.equal(label_embeddings("file", torch.nn.Linear(2, 2), 4, ROWS), ROWS)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": ROWS, "b": 2 * ROWS}, "holds 2 tensors"),
        ({"a": ROWS[:3]}, r"shape \[3, 3\].*a row for each of the 4 classes"),
        ({"a": ROWS.view(-1)}, r"shape \[12\]"),
        ({"a": ROWS.long()}, "int64"),
        ({"a": ROWS / 0}, "not finite"),
        ({"a": torch.ones(4, 3)}, "equal rows"),
    ],
)
def test_what_is_no_row_for_each_class_is_refused(tmp_path: Path, tensors: dict[str, Any], says: str) -> None:
    save_file(tensors, tmp_path / "e.safetensors")
    with pytest.raises(UsageError, match=says):
        read_embeddings(tmp_path / "e.safetensors", 4)


def test_no_code_and_no_damaged_file_is_read(tmp_path: Path) -> None:
    torch.save(ROWS, tmp_path / "e.pt")
    with pytest.raises(UsageError, match="give a .safetensors or .npz file"):
        read_embeddings(tmp_path / "e.pt", 4)
    np.savez(tmp_path / "e.npz", np.array([{"a": 1}], dtype=object))
    with pytest.raises(UsageError, match="pickled"):
        read_embeddings(tmp_path / "e.npz", 4)
    (tmp_path / "e.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CorruptError):
        read_embeddings(tmp_path / "e.safetensors", 4)
