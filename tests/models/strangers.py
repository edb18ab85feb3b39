"""Classifiers as other people write them: 3 classes of images [1, 12, 12]."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, CHANNELS, SIZE = 3, 1, 12
SHAPE = (CHANNELS, SIZE, SIZE)


class Flattens(nn.Module):
    """Two convolutions and a linear head; subclasses differ in how they get from one to the other."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6 * (SIZE // 2) ** 2, num_classes)

    def forward(self, images: Tensor) -> Any:
        x = F.relu(self.norm(self.conv1(images)))
        return self.fc(self.flat(self.conv2(x)))

    def flat(self, x: Tensor) -> Tensor:
        return torch.flatten(x, 1)


class ByReshape(Flattens):
    def flat(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)


class ByView(Flattens):
    def flat(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class ByStrides(Flattens):
    """Right in the contiguous layout only, and silently wrong in any other."""

    def flat(self, x: Tensor) -> Tensor:
        width = x[0].numel()
        return torch.as_strided(x, (len(x), width), (width, 1))


class ByTranspose(Flattens):
    def flat(self, x: Tensor) -> Tensor:
        return x.flatten(1).T.contiguous().T


class _Square(torch.autograd.Function):
    """A function of somebody's own, whose gradient views its input as if it were contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return 2 * x.view(len(x), -1).view(x.shape) * slope


class OwnGradient(Flattens):
    def flat(self, x: Tensor) -> Tensor:
        squared: Tensor = _Square.apply(x)
        return squared.flatten(1)


class InPlace(Flattens):
    """It normalises its input itself, where it lies."""

    def forward(self, images: Tensor) -> Any:
        images.sub_(0.5).div_(0.5)
        return super().forward(images)


class Untracked(Flattens):
    """Its BatchNorm keeps no running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.layers(images)
        return answer


@dataclass
class Answer:
    scores: Tensor
    features: Tensor


class Returns(Flattens):
    """It returns its logits in some other shape."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Any:
        features = self.conv2(self.conv1(images)).flatten(1)
        logits = self.fc(features)
        return {
            "tuple": (logits, features),
            "list": [features, logits],
            "dict": {"prediction": logits, "features": features},
            "dataclass": Answer(logits, features),
            "log-probabilities": logits.log_softmax(1),
            "1-D": logits[:, 0],
            "none": None,
        }[self.kind]


def build(kind: str) -> nn.Module:
    """A network of one of these classes by its name."""
    network: nn.Module = globals()[kind]()
    return network


def raising(kind: str) -> nn.Module:
    """A factory that fails."""
    if kind == "exit":
        raise SystemExit(0)
    if kind == "package":
        import a_package_that_is_not_there  # type: ignore[import-not-found]  # noqa: F401, PLC0415
    raise RuntimeError("no GPU is here\nand more")
