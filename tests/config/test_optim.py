import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from raykd.config.optim import Adam, AdamW, Constant, Cosine, MultiStep, Optimizer, Sgd

OPTIMIZERS: TypeAdapter[Sgd | Adam | AdamW] = TypeAdapter(Optimizer)


def test_constant_never_moves() -> None:
    assert {Constant().factor(step, 100) for step in (0, 50, 99, 1000)} == {1.0}


def test_multistep_drops_at_its_steps_and_not_before() -> None:
    schedule = MultiStep(name="multistep", at=(10, 20), factor_each=0.1)
    found = [schedule.factor(step, 30) for step in (0, 9, 10, 19, 20, 29)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_is_half_a_wave() -> None:
    schedule = Cosine(name="cosine")
    found = [schedule.factor(step, 12) for step in (0, 4, 6, 8, 12, 13)]
    assert found == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])


def test_cosine_ends_at_its_floor() -> None:
    schedule = Cosine(name="cosine", floor=0.2)
    assert [schedule.factor(step, 10) for step in (0, 5, 10)] == pytest.approx([1, 0.6, 0.2])


def test_warmup_ramps_to_the_base_rate_and_multiplies_the_schedule() -> None:
    sgd = Sgd(name="sgd", lr=2.0, warmup_steps=4, schedule=Cosine(name="cosine"))
    wave = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    ramp = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    expected = [2.0 * r * w for r, w in zip(ramp, wave, strict=True)]
    assert [sgd.lr_at(step, 8) for step in range(8)] == pytest.approx(expected)


def test_no_warmup_starts_at_the_base_rate() -> None:
    assert Adam(name="adam", lr=0.3).lr_at(0, 10) == 0.3


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (
            {"name": "sgd", "lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
        ),
        (
            {"name": "adam", "lr": 0.1, "betas": [0.5, 0.9], "weight_decay": 0.01},
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), weight_decay=0.01),
        ),
        (
            {"name": "adamw", "lr": 0.1, "betas": [0.5, 0.9], "weight_decay": 0.01},
            lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.5, 0.9), weight_decay=0.01),
        ),
    ],
)
def test_every_number_reaches_the_optimizer(config: dict[str, object], reference) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizers = [OPTIMIZERS.validate_python(config).build([ours]), reference([theirs])]
    for step in range(5):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.tensor([1.0, -0.3, 0.05]) * (step + 1)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "sgd", "lr": 0.0},
        {"name": "sgd", "lr": -1.0},
        {"name": "sgd", "lr": math.inf},
        {"name": "sgd", "lr": math.nan},
        {"name": "sgd", "lr": 0.1, "momentum": 1.0},
        {"name": "sgd", "lr": 0.1, "warmup_steps": -1},
        {"name": "sgd", "lr": 0.1, "betas": [0.5, 0.9]},
        {"name": "lion", "lr": 0.1},
        {"name": "adam", "lr": 0.1, "schedule": {"name": "multistep", "at": []}},
        {"name": "adam", "lr": 0.1, "schedule": {"name": "cosine", "floor": 1.0}},
    ],
)
def test_nonsense_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OPTIMIZERS.validate_python(config)
