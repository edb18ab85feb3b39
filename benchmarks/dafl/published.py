"""The step of the published DAFL script, re-created from its description, and rungs above it.

One joint backward; the teacher in eval mode but not frozen, so that its parameters collect
gradients for ever; plain modules in NCHW; default optimizers. The pseudo-random start is that of
raykd's method, so that the first losses of all rungs agree.
"""

from typing import Any

import torch
import torch.nn.functional as F
from dafl.ladder import Case, Variant
from torch import Tensor, nn

from raykd.distributed.world import World
from raykd.generators import Dcgan
from raykd.models import build_model
from tests.generators.plain import PlainGenerator

SIZE = 32


def build_networks(case: Case) -> tuple[nn.Module, nn.Module]:
    """Return teacher and student with random weights, the same in every rung."""
    torch.manual_seed(0)
    shape = {"num_classes": 10, "channels": case.channels, "size": SIZE}
    return build_model(case.teacher, **shape), build_model(case.student, **shape)


class PublishedStep:
    """Call it to take one step; returns the losses in the order of raykd's method."""

    def __init__(self, case: Case, variant: Variant, device: str = "cpu") -> None:
        """Build networks and optimizers."""
        self.case, self.world = case, World.alone(device)
        self.teacher, self.student = (network.to(device) for network in build_networks(case))
        torch.manual_seed(1)
        make = Dcgan if variant.product_generator else PlainGenerator
        self.generator = make(case.latent_dim, case.channels, SIZE).to(device)
        self.teacher.eval().requires_grad_(not variant.frozen)
        if variant.channels_last:
            for network in (self.teacher, self.student, self.generator):
                network.to(memory_format=torch.channels_last)
        head = self.teacher.get_submodule(getattr(self.teacher, "feature_layer", "linear"))
        head.register_forward_pre_hook(self._keep_features)
        fused: dict[str, Any] = {"fused": True} if variant.fused else {}
        self.generator_optim = torch.optim.Adam(self.generator.parameters(), lr=case.generator_lr, **fused)
        options = {key: value for key, value in case.student_optim.items() if key != "name"}
        optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[str(case.student_optim["name"])]
        self.student_optim = optimizer(self.student.parameters(), **options, **fused)
        self.steps = 0

    def _keep_features(self, _: nn.Module, args: tuple[Tensor]) -> None:
        self.features = args[0]

    def __call__(self) -> list[Tensor]:
        """Take one step."""
        case = self.case
        z = self.world.randn(case.batch, case.latent_dim, seed=0, step=self.steps)
        self.steps += 1
        self.generator_optim.zero_grad()
        self.student_optim.zero_grad()
        images = self.generator(z)
        logits = self.teacher(images)
        onehot = F.cross_entropy(logits, logits.detach().argmax(1))
        mean = logits.softmax(1).mean(0)
        entropy = (mean * mean.log()).sum()
        activation = -self.features.abs().mean()
        kd = F.kl_div(
            F.log_softmax(self.student(images.detach()), 1),
            F.softmax(logits.detach(), 1),
            reduction="batchmean",
        )
        o, b, a = case.weights
        (o * onehot + b * entropy + a * activation + kd).backward()
        self.generator_optim.step()
        self.student_optim.step()
        return [onehot, entropy, activation, kd]
