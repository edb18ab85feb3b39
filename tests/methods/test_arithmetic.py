"""Precision and compilation change the rounding and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from raykd.distributed.host import compile_obstacle
from raykd.distributed.updater import Compiler
from raykd.distributed.world import World
from raykd.engine.compiling import replayed
from raykd.methods import METHODS
from raykd.methods.base import ShardedMethod
from tests.methods.toy import Plain, advance, made_method, made_setting


def test_tf32_is_float32_where_there_is_no_such_thing() -> None:
    exact = advance(made_method("dafl", made_setting(dropout=0.0)), 2)
    assert advance(made_method("dafl", made_setting(dropout=0.0, world=World.alone(precision="tf32"))), 2) == exact


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_is_close_to_float32(name: str) -> None:
    """Over three steps: an adversarial game magnifies any rounding without bound."""
    exact = advance(made_method(name, made_setting(dropout=0.0)), 3)
    world = World.alone(precision="bf16")
    rounded_method = made_method(name, made_setting(dropout=0.0, world=world))
    rounded = advance(rounded_method, 3)
    assert rounded != exact  # bfloat16 was really used
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours == pytest.approx(theirs, rel=0.03, abs=0.01)
    parameters = [p for n in rounded_method.trained.values() for p in n.parameters()]
    shard = rounded_method.shard() if isinstance(rounded_method, ShardedMethod) else {}
    assert {p.dtype for p in [*parameters, *shard.values()]} == {torch.float32}


def compiled(network: nn.Module) -> Callable[..., Any]:
    """Trace every network, and generate code for the smallest one, the student, only: that is slow."""
    backend = "inductor" if isinstance(network, Plain) else "aot_eager"
    return torch.compile(network, dynamic=False, backend=backend)


def as_graphs(network: nn.Module) -> Callable[..., Any]:
    """Trace every network, and copy its answers as those of graphs are."""
    return replayed(torch.compile(network, dynamic=False, backend="aot_eager"))


@pytest.mark.filterwarnings("default")  # tracing reads attributes that warn, which torch then hides
@pytest.mark.parametrize(
    ("name", "compiler"), [("dafl", compiled), ("lsgdfd", compiled), ("dafl", as_graphs), ("pool_inversion", as_graphs)]
)
def test_compiled_networks_compute_the_same(name: str, compiler: Compiler) -> None:
    obstacle = compile_obstacle()
    if obstacle:
        pytest.skip(obstacle)
    exact = advance(made_method(name, made_setting(dropout=0.0)), 2)
    context = made_setting(dropout=0.0, compiler=compiler)
    for ours, theirs in zip(advance(made_method(name, context), 2), exact, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
