"""Classes that differ by pattern, a teacher that has learnt them, and settings to invert it in."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.methods.base import ClassMoments, MethodContext
from raykd.methods.lsgdfd import Lsgdfd
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from tests.methods.toy import SPEC, Plain, made_method, made_setting

CLASSES, EACH = SPEC.num_classes, 4
ADAM = {"name": "adam", "lr": 0.03}
PLAIN_SGD = {"name": "sgd", "lr": 1.0, "momentum": 0.0}


def patterned(each: int, seed: int) -> Tensor:
    """Noisy stripes and checks (CLASSES * each, 1, 8, 8) of mean 0, one class after the other."""
    wave = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(2)
    across, down = wave.expand(8, 8), wave.expand(8, 8).T
    bases = torch.stack((across, down, across * down, wave.flip(0).expand(8, 8)))
    noise = torch.randn(CLASSES, each, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (bases[:, None] + 0.3 * noise).flatten(0, 1)[:, None]


@cache
def trained(dtype: torch.dtype) -> Plain:
    torch.manual_seed(3)
    network = Plain(8, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    labels = torch.arange(CLASSES).repeat_interleave(16)
    for step in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(patterned(16, step)), labels).backward()
        optimizer.step()
    assert dtype == next(network.parameters()).dtype
    return network


def teacher_of_patterns() -> Teacher:
    return Teacher(copy.deepcopy(trained(torch.get_default_dtype())), channels=1, size=8)


@torch.no_grad()
def statistics(teacher: Teacher) -> ClassMoments:
    moments: ClassMoments = MomentTeacher(copy.deepcopy(teacher))(patterned(50, 99), CLASSES)[2]
    return moments


def pattern_setting(
    *, world: World | None = None, wave: int | None = None, steps: int = 6, each: int = EACH, **changes: Any
) -> MethodContext:
    """``each`` images of every class in a step, for the teacher of patterns."""
    teacher = teacher_of_patterns()
    context = made_setting(teacher=teacher, world=world)
    return replace(
        context,
        student_optim=None,
        steps=steps,
        global_batch=CLASSES * each,
        runtime=Runtime(wave=wave),
        **{"statistics": statistics(teacher), **changes},
    )


def lsgdfd(context: MethodContext | None = None, **fields: Any) -> Lsgdfd:
    method = made_method("lsgdfd", context or pattern_setting(), **{"generator_optim": ADAM, "jitter": 0, **fields})
    assert isinstance(method, Lsgdfd)
    return method


@contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
