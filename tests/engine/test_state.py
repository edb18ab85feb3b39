"""From a running method to files and back, bit for bit."""

from pathlib import Path
from unittest import mock

import pytest
import torch

from raykd.artifacts.pool_files import write_part
from raykd.config.optim import Adam
from raykd.distributed.world import World
from raykd.engine.selection import Selection
from raykd.engine.sentinel import Sentinel
from raykd.engine.state import averaged_weights, capture, restore
from raykd.errors import CorruptError
from raykd.methods import METHODS, Method
from raykd.methods.base import BankMethod
from raykd.recipe.sections import SentinelConfig
from raykd.store.checkpoint import UnfitCheckpoint, latest_checkpoint, read_checkpoint, write_checkpoint, write_shard
from raykd.store.run_directory import RunDirectory
from tests.methods.toy import (
    STEPS,
    advance,
    assert_same,
    made_method,
    made_setting,
    made_teacher,
)
from tests.store.test_checkpoint import made


@pytest.mark.parametrize("name", METHODS)
def test_going_on_from_files_is_bit_exact(name: str, tmp_path: Path) -> None:
    def fresh() -> tuple[Method, Selection]:
        teacher = made_teacher()
        optim = Adam(name="adam", lr=0.01, warmup_steps=3)
        method = made_method(name, made_setting(teacher=teacher, optim=optim))
        return method, Selection(method, teacher)

    def consider(method: Method, selection: Selection) -> None:
        if "student" not in method.roles:
            return
        top1 = {"accuracy/top1": 10.0 - method.steps_done}
        selection.consider(averaged_weights(method.student, method.world), method.steps_done, top1)

    whole, whole_selection = fresh()
    rows = advance(whole, 5)
    consider(whole, whole_selection)
    rows += advance(whole, 5)
    consider(whole, whole_selection)

    first, first_selection = fresh()
    advance(first, 5)
    consider(first, first_selection)
    checkpoint = capture(first, first_selection, 1.5, None, Sentinel(SentinelConfig()))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    images = write_part(RunDirectory(tmp_path), checkpoint, 0)
    write_checkpoint(folder, checkpoint, write_shard(folder, checkpoint, 0), pool=images)
    torch.manual_seed(999)  # a new process has another random state
    second, second_selection = fresh()
    assert restore(latest_checkpoint(folder), second, second_selection) == 1.5
    assert second.steps_done == 5
    assert advance(second, 5) == rows[5:]
    consider(second, second_selection)
    assert_same(second.state_dict(), whole.state_dict())
    if isinstance(second, BankMethod) and isinstance(whole, BankMethod):
        assert_same(second.products(), whole.products())
    assert_same(second_selection.state_dict(), whole_selection.state_dict())
    assert_same(second_selection.weights, whole_selection.weights)
    assert len(rows) == STEPS


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
