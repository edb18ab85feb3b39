"""From a running method to files and back, bit for bit."""

from pathlib import Path

import pytest
import torch

from raykd.config.optim import Adam
from raykd.engine.selection import Selection
from raykd.engine.state import averaged_weights, capture, restore
from raykd.methods import METHODS, Method
from raykd.methods.base import BankMethod
from raykd.store.checkpoint import latest_checkpoint, write_checkpoint, write_shard
from tests.methods.toy import (
    STEPS,
    advance,
    assert_same,
    made_method,
    made_setting,
    made_teacher,
)


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
    checkpoint = capture(first, first_selection, 1.5, None)
    write_checkpoint(tmp_path, checkpoint, write_shard(tmp_path, checkpoint, 0))
    torch.manual_seed(999)  # a new process has another random state
    second, second_selection = fresh()
    assert restore(latest_checkpoint(tmp_path), second, second_selection) == 1.5
    assert second.steps_done == 5
    assert advance(second, 5) == rows[5:]
    consider(second, second_selection)
    assert_same(second.state_dict(), whole.state_dict())
    if isinstance(second, BankMethod) and isinstance(whole, BankMethod):
        assert_same(second.products(), whole.products())
    assert_same(second_selection.state_dict(), whole_selection.state_dict())
    assert_same(second_selection.weights, whole_selection.weights)
    assert len(rows) == STEPS
