"""Architectures against their published sizes, and the table that names them."""

import os
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from raykd.errors import UsageError
from raykd.models import MODELS, build_model


def parameters(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in network.parameters())


def batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "num_classes", "channels", "size", "published"),
    [
        ("lenet5", 10, 1, 32, 61_706),
        ("lenet5_half", 10, 1, 32, 15_738),
        ("hinton1200", 10, 1, 28, 2_395_210),
        ("hinton800", 10, 1, 28, 1_276_810),
        ("alexnet", 1000, 3, 224, 61_100_840),
        ("alexnet", 10, 3, 32, 2_472_266),
        ("resnet18", 10, 3, 32, 11_173_962),
        ("resnet34", 10, 3, 32, 21_282_122),
        ("resnet50", 10, 3, 32, 23_520_842),
        ("cifar_resnet8", 10, 3, 32, 75_290),
        ("cifar_resnet20", 10, 3, 32, 269_722),
        ("cifar_resnet32", 10, 3, 32, 464_154),
        ("cifar_resnet44", 10, 3, 32, 658_586),
        ("cifar_resnet56", 10, 3, 32, 853_018),
        ("cifar_resnet110", 10, 3, 32, 1_727_962),
        ("wrn_40_2", 100, 3, 32, 2_255_156),
        ("wrn_40_1", 100, 3, 32, 569_780),
        ("wrn_16_2", 100, 3, 32, 703_284),
        ("wrn_16_1", 100, 3, 32, 180_916),
        ("wrn_28_10", 10, 3, 32, 36_479_194),
        ("mobilenetv2", 1000, 3, 32, 3_504_872),
        ("shufflenetv2", 1000, 3, 32, 2_278_604),
        ("googlenet", 10, 3, 32, 6_166_250),
        ("densenet121", 10, 3, 32, 6_956_298),
        ("densenet121", 100, 3, 32, 7_048_548),
        ("resnext29_8x64d", 10, 3, 32, 34_426_698),
        ("resnext29_8x64d", 100, 3, 32, 34_518_948),
    ],
)
def test_parameter_count_is_the_published_one(
    name: str, num_classes: int, channels: int, size: int, published: int
) -> None:
    with torch.device("meta"):
        network = build_model(name, num_classes=num_classes, channels=channels, size=size)
    assert parameters(network) == published


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet34", 36), ("resnet18", 20), ("wrn_40_2", 37), ("wrn_16_1", 13), ("lenet5_bn", 3)],
)
def test_batch_norm_count_is_the_published_one(name: str, layers: int) -> None:
    with torch.device("meta"):
        assert batch_norms(build_model(name, num_classes=10, channels=3, size=32)) == layers


def test_vgg11_has_the_convolutions_of_torchvisions() -> None:
    with torch.device("meta"):
        ours = build_model("vgg11", num_classes=7, channels=3, size=32)
        published = torchvision.models.vgg11_bn().features
    assert parameters(ours) == parameters(published) + 512 * 7 + 7


@pytest.mark.parametrize("name", [name for name in MODELS if name != "cifar_resnet110"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_model_learns_from_every_parameter(name: str, channels: int) -> None:
    network = build_model(name, num_classes=5, channels=channels, size=32)
    logits = network(torch.randn(2, channels, 32, 32))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert [key for key, tensor in network.named_parameters() if tensor.grad is None] == []


@pytest.mark.parametrize(
    "name", ["alexnet_half", "vgg11", "mobilenetv2", "cifar_resnet20", "shufflenetv2", "googlenet"]
)
def test_larger_images_are_taken(name: str) -> None:
    network = build_model(name, num_classes=2, channels=3, size=128).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 128, 128)).shape == (1, 2)


def test_half_alexnet_halves_every_width() -> None:
    with torch.device("meta"):
        full, half = (build_model(name, num_classes=2, channels=3, size=224) for name in ("alexnet", "alexnet_half"))
    for one, other in zip(full.parameters(), half.parameters(), strict=True):
        assert one.shape[0] == (2 if other.shape[0] == 2 else 2 * other.shape[0])


def test_vgg11_ends_in_maps_of_four_pixels() -> None:
    for size in (32, 64):
        network = build_model("vgg11", num_classes=2, channels=3, size=size).eval()
        maps = network.get_submodule("features")(torch.zeros(1, 3, size, size))
        assert maps.shape == (1, 512, 4, 4)


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_resnet_has_the_keys_of_the_published_checkpoints(depth: int) -> None:
    network = build_model(f"cifar_resnet{depth}", num_classes=10, channels=3, size=32)
    blocks = [f"layer{stage}.{i}." for stage in (1, 2, 3) for i in range((depth - 2) // 6)]
    norms = ["bn1", *(f"{block}bn{i}" for block in blocks for i in (1, 2))]
    keys = {"conv1.weight", "linear.weight", "linear.bias"}
    keys |= {f"{block}conv{i}.weight" for block in blocks for i in (1, 2)}
    keys |= {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}
    keys |= {f"{norm}.running_{part}" for norm in norms for part in ("mean", "var")}
    assert {key for key in network.state_dict() if "num_batches" not in key} == keys
    if data := os.environ.get("RAYKD_DATA"):
        state = load_file(Path(data) / "teachers" / f"cifar10_resnet{depth}.safetensors")
        assert network.load_state_dict(state, strict=True).missing_keys == []


def test_option_a_shortcut_subsamples_and_pads() -> None:
    network = build_model("cifar_resnet20", num_classes=10, channels=3, size=32)
    x = torch.randn(2, 16, 8, 8)
    carried = network.get_submodule("layer2.0.shortcut")(x)
    expected = torch.zeros(2, 32, 4, 4)
    for row in range(4):
        for column in range(4):
            expected[:, 8:24, row, column] = x[:, :, 2 * row, 2 * column]
    assert torch.equal(carried, expected)


@pytest.mark.parametrize(
    ("name", "channels", "size", "message"),
    [
        ("resnet81", 3, 32, "unknown model 'resnet81'; did you mean 'resnet18'"),
        ("wrn_41_2", 3, 32, "6n \\+ 4 .* got 41; the nearest is 40"),
        ("wrn_16_0", 3, 32, "width must be at least 1"),
        ("lenet5", 1, 28, "exactly 32 x 32 pixels, got 28 x 28: set data.size=32"),
        ("alexnet", 3, 28, "at least 32 x 32 pixels, got 28 x 28"),
        ("vgg11", 3, 4, "at least 8 x 8"),
        ("resnet18", 0, 32, "at least 1 channel"),
        ("torchvision/resnet18", 1, 32, "3 channels, the data has 1"),
        ("torchvision/resnet19", 3, 32, "did you mean 'resnet1"),
        ("torchvision/vit_b_16", 3, 40, "cannot be built for 40 x 40"),
    ],
)
def test_impossible_models_are_refused(name: str, channels: int, size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(name, num_classes=10, channels=channels, size=size)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 classes, got num_classes=1"):
        build_model("lenet5", num_classes=1, channels=1, size=32)
