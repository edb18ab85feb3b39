"""Classifiers by name: the table of architectures and the one function that builds them."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from raykd.errors import UsageError, unknown
from raykd.models.alexnet import AlexNet
from raykd.models.densenet import DenseNet
from raykd.models.googlenet import GoogLeNet
from raykd.models.lenet import HALF, LeNet5
from raykd.models.mlp import HintonNet
from raykd.models.mobilenet import MobileNetV2
from raykd.models.resnet import BasicBlock, Bottleneck, cifar_resnet, resnet
from raykd.models.resnext import ResNeXt
from raykd.models.shufflenet import ShuffleNetV2
from raykd.models.vgg import Vgg11
from raykd.models.wide_resnet import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": LeNet5,
    "lenet5_half": partial(LeNet5, widths=HALF),
    "lenet5_bn": partial(LeNet5, batch_norm=True),
    "hinton1200": partial(HintonNet, hidden=1200),
    "hinton800": partial(HintonNet, hidden=800),
    "alexnet": AlexNet,
    "alexnet_half": partial(AlexNet, divisor=2),
    "resnet18": partial(resnet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(resnet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(resnet, Bottleneck, (3, 4, 6, 3)),
    "cifar_resnet8": partial(cifar_resnet, 8),
    "cifar_resnet20": partial(cifar_resnet, 20),
    "cifar_resnet32": partial(cifar_resnet, 32),
    "cifar_resnet44": partial(cifar_resnet, 44),
    "cifar_resnet56": partial(cifar_resnet, 56),
    "cifar_resnet110": partial(cifar_resnet, 110),
    "wrn_40_2": partial(WideResNet, depth=40, width=2),
    "wrn_40_1": partial(WideResNet, depth=40, width=1),
    "wrn_16_2": partial(WideResNet, depth=16, width=2),
    "wrn_16_1": partial(WideResNet, depth=16, width=1),
    "vgg11": Vgg11,
    "mobilenetv2": MobileNetV2,
    "shufflenetv2": ShuffleNetV2,
    "googlenet": GoogLeNet,
    "densenet121": partial(DenseNet, depths=(6, 12, 24, 16)),
    "resnext29_8x64d": partial(ResNeXt, depth=29, cardinality=8, width=64),
}


def build_model(name: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """Build an untrained classifier for images of ``channels`` x ``size`` x ``size`` values.

    ``name`` is a key of ``MODELS``, ``wrn_<depth>_<width>``, ``torchvision/<name>`` or ``timm/<name>``.

    Raises:
        UsageError: unknown name, or one that cannot take such images or so few classes.
        MissingPackage: it is timm's, which is not installed.
    """
    if num_classes < 2:
        raise UsageError(f"a classifier needs at least 2 classes, got num_classes={num_classes}")
    if channels < 1:
        raise UsageError(f"images need at least 1 channel, got channels={channels}")
    return find_builder(name)(num_classes=num_classes, channels=channels, size=size)


def find_builder(name: str) -> Callable[..., nn.Module]:
    """Return the function, or the class, that builds the classifier of a name, see ``build_model``.

    Raises:
        UsageError: unknown name.
    """
    return MODELS[name] if name in MODELS else _build_by_pattern(name)


def find_model(shapes: Sequence[tuple[int, ...]]) -> str | None:
    """Return the name of the built-in model whose tensors have these shapes, whatever they are called; None without.

    Args:
        shapes: of the tensors of a file in any order, counters of BatchNorm aside.
    """
    kernels = [shape for shape in shapes if len(shape) == 4]
    matrices = [shape for shape in shapes if len(shape) == 2]
    if not matrices:
        return None
    channels = min((kernel[1] for kernel in kernels if kernel[1] <= 4), default=1)
    classes = min(matrix[0] for matrix in matrices)
    # A wide ResNet of depth 6 n + 4 has 6 n + 1 convolutions and two or three for shortcuts; it ends at 64 widths.
    depth, width = 6 * ((len(kernels) - 1) // 6) + 4, max((kernel[0] for kernel in kernels), default=0) // 64
    for name in [*MODELS, *([f"wrn_{depth}_{width}"] if depth > 4 and width else [])]:
        for size in (32,) if kernels and len(matrices) == 1 else (32, 28, 64):
            try:
                with torch.device("meta"):
                    own = build_model(name, num_classes=classes, channels=channels, size=size).state_dict()
            except (UsageError, RuntimeError):
                continue
            if Counter(tuple(own[key].shape) for key in own if "num_batches" not in key) == Counter(shapes):
                return name
    return None


def _build_by_pattern(name: str) -> Callable[..., nn.Module]:
    if wide := re.fullmatch(r"wrn_(\d+)_(\d+)", name):
        return partial(WideResNet, depth=int(wide[1]), width=int(wide[2]))
    if name.startswith("torchvision/"):
        # Only here, since importing torchvision costs more than building most networks.
        from raykd.models.torchvision_zoo import build_torchvision

        return partial(build_torchvision, name.removeprefix("torchvision/"))
    if name.startswith("timm/"):
        from raykd.models.timm_zoo import build_timm

        return partial(build_timm, name.removeprefix("timm/"))
    raise unknown("model", name, [*MODELS, "wrn_<depth>_<width>", "torchvision/<name>", "timm/<name>"])
