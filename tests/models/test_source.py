"""A built-in network's own source, by itself, is the network."""

import ast
from typing import Any

import pytest
import torch
from torch import nn

from raykd.errors import UsageError
from raykd.models import MODELS, build_model
from raykd.models.image_classifier import ImageClassifier
from raykd.models.source import factory_source, network_source
from raykd.spec import DataSpec

SPEC = DataSpec("made", 7, 3, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), pad=2)
NAMES = [*MODELS, "wrn_10_3", "torchvision/mobilenet_v3_small", "torchvision/vit_b_16"]


def built(source: str) -> ImageClassifier:
    names: dict[str, Any] = {"__name__": "network"}
    exec(compile(source, "network.py", "exec"), names)
    network: ImageClassifier = names["build"]()
    return network


def packages(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_tensors_and_modules_of_the_network_and_imports_none_of_raykd(name: str) -> None:
    source = network_source(name, SPEC)
    library = {"torchvision"} if name.startswith("torchvision/") else set()
    assert packages(source) <= {"torch", "math", "collections", "typing", *library}
    with torch.device("meta"):
        own, found = build_model(name, num_classes=7, channels=3, size=32), built(source).network
    assert repr(found) == repr(own)
    shapes = {key: tensor.shape for key, tensor in own.state_dict().items()}
    assert {key: tensor.shape for key, tensor in found.state_dict().items()} == shapes


@pytest.mark.parametrize("name", ["lenet5_half", "wrn_16_1", "cifar_resnet8", "shufflenetv2"])
def test_it_computes_what_the_network_computes(name: str) -> None:
    torch.manual_seed(0)
    own = build_model(name, num_classes=7, channels=3, size=32).eval()
    found = built(network_source(name, SPEC)).eval()
    found.network.load_state_dict(own.state_dict())
    pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    framed = torch.zeros(3, 3, 32, 32)
    framed[..., 2:-2, 2:-2] = pixels.float() / 255
    with torch.no_grad():
        assert torch.equal(found(pixels), own(SPEC.normalise(framed)))


def test_an_unknown_model_has_none() -> None:
    with pytest.raises(UsageError, match="unknown model 'lenet6'"):
        network_source("lenet6", SPEC)


def test_what_a_factory_is_called_and_given_stands_there_as_literals() -> None:
    hostile = "x'\nimport os #"
    source = factory_source(hostile, hostile, {"not a name": hostile, "width": 3}, SPEC, hostile)
    assert packages(source) == {"torch", "typing", "collections", "importlib"}
    source = factory_source("torch.nn", "Linear", {"in_features": 4, "out_features": 2}, SPEC, "main")
    classifier = built(source)
    assert isinstance(classifier.network, nn.Linear) and classifier.output == "main"
