"""Optimizers and their learning-rate schedules."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from raykd.config.base import Config


class Constant(Config):
    """Learning rate that stays what it is."""

    name: Literal["constant"] = "constant"

    def factor(self, step: int, total_steps: int) -> float:
        """Return the multiple of the base learning rate at ``step``."""
        return 1.0


class MultiStep(Config):
    """Learning rate multiplied by ``factor_each`` at every step of ``at``."""

    name: Literal["multistep"]
    at: tuple[int, ...] = Field(min_length=1, description="steps (not epochs) of the drops")
    factor_each: float = Field(default=0.1, gt=0, le=1, description="of the rate at each drop")

    def factor(self, step: int, total_steps: int) -> float:
        """Return the multiple of the base learning rate at ``step``."""
        return self.factor_each ** sum(step >= drop for drop in self.at)


class Cosine(Config):
    """Half a cosine from the base learning rate to ``floor`` times it at the last step."""

    name: Literal["cosine"]
    floor: float = Field(default=0.0, ge=0, lt=1, description="share of the base rate at the end")

    def factor(self, step: int, total_steps: int) -> float:
        """Return the multiple of the base learning rate at ``step``."""
        wave = 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))
        return self.floor + (1 - self.floor) * wave


_Beta = Annotated[float, Field(ge=0, lt=1)]
Schedule = Annotated[Constant | MultiStep | Cosine, Field(discriminator="name")]


class _Optimizer(Config):
    lr: float = Field(gt=0, description="base learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="pull of the weights towards 0")
    warmup_steps: int = Field(default=0, ge=0, description="linear ramp from 0 to the base rate")
    schedule: Schedule = Field(default=Constant(), description="how the rate goes on: constant, multistep, cosine")

    @property
    def state_tensors(self) -> int:
        """Return how many tensors it keeps beside each parameter, of the parameter's shape: two means of Adam's."""
        return 2

    def lr_at(self, step: int, total_steps: int) -> float:
        """Return the learning rate of ``step`` (0-based): a pure function, so nothing needs saving."""
        ramp = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * ramp * self.schedule.factor(step, total_steps)


class Sgd(_Optimizer):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    momentum: float = Field(default=0.9, ge=0, lt=1, description="share of the last update that is kept")
    nesterov: bool = Field(default=False, description="momentum that looks ahead")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Sgd":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0: give one, such as 0.9, or leave nesterov out")
        return self

    @property
    def state_tensors(self) -> int:
        """Return how many tensors it keeps beside each parameter: its momentum, if it has any."""
        return int(self.momentum > 0)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the fused torch optimizer."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


class Adam(_Optimizer):
    """Adam with coupled (l2) weight decay, as the distillation papers use it."""

    name: Literal["adam"]
    betas: tuple[_Beta, _Beta] = Field(default=(0.9, 0.999), description="decay of both means")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the fused torch optimizer."""
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)


class AdamW(_Optimizer):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"]
    betas: tuple[_Beta, _Beta] = Field(default=(0.9, 0.999), description="decay of both means")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the fused torch optimizer."""
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)


Optimizer = Annotated[Sgd | Adam | AdamW, Field(discriminator="name")]
