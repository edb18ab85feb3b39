"""What goes wrong while a checkpoint is loaded is the file's fault or the machine's, and the two are told apart."""

from pathlib import Path
from unittest import mock

import pytest
import torch

from raykd.distributed.world import World
from raykd.engine.state import restore
from raykd.errors import CorruptError
from raykd.store.checkpoint import UnfitCheckpoint, read_checkpoint, write_checkpoint
from tests.store.test_checkpoint import made

OF_THE_MACHINE = (
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    MemoryError(),
)


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=str)
def test_a_failure_of_the_machine_makes_no_checkpoint_unfit(tmp_path: Path, error: Exception) -> None:
    path = write_checkpoint(tmp_path, made(5))
    method = mock.Mock(world=World.alone(), load_state_dict=mock.Mock(side_effect=error))
    with pytest.raises(type(error)) as caught:
        restore(path, method, mock.Mock())
    assert caught.value is error
    method.load_state_dict.side_effect = RuntimeError("size mismatch for w: a shape of [2]")
    with pytest.raises(UnfitCheckpoint, match="is not of this run .size mismatch"):
        restore(path, method, mock.Mock())


def test_a_file_is_not_damaged_because_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path, made(5))
    monkeypatch.setattr(torch, "load", mock.Mock(side_effect=OF_THE_MACHINE[0]))
    with pytest.raises(RuntimeError, match="allocate memory"):
        read_checkpoint(path)
    monkeypatch.setattr(torch, "load", mock.Mock(side_effect=RuntimeError("failed finding central directory")))
    with pytest.raises(CorruptError, match="state.pt is damaged"):
        read_checkpoint(path)
