"""Architectures of torchvision, and its published weights in torch's hub cache."""

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision.models import ShuffleNet_V2_X0_5_Weights

from raykd.errors import CorruptError, UsageError
from raykd.models import build_model
from raykd.models.torchvision_zoo import torchvision_facts, torchvision_file
from raykd.models.weights import load_weights

NAME = "shufflenet_v2_x0_5"


def publish(monkeypatch: pytest.MonkeyPatch, home: Path, *, sound: bool = True) -> Path:
    """Put a network of chance into a hub cache, under the name that torchvision would give such a file."""
    torch.manual_seed(0)
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(build_model(f"torchvision/{NAME}", num_classes=1000, channels=3, size=32).state_dict(), folder / "new")
    digits = hashlib.sha256((folder / "new").read_bytes()).hexdigest()[:8] if sound else "00000000"
    path = (folder / "new").rename(folder / f"shuffle-{digits}.pth")
    monkeypatch.setenv("TORCH_HOME", str(home))
    entry = ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(entry, "url", f"https://example.org/models/{path.name}")
    return path


def test_torchvision_models_are_reached_by_name() -> None:
    network = build_model("torchvision/mobilenet_v3_small", num_classes=4, channels=3, size=32)
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    vision = build_model("torchvision/vit_b_32", num_classes=4, channels=3, size=32)
    assert vision.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_published_weights_are_found_by_their_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish(monkeypatch, tmp_path)
    assert torchvision_file(NAME, "DEFAULT") == path
    load_weights(build_model(f"torchvision/{NAME}", num_classes=1000, channels=3, size=32), path)


def test_a_file_of_another_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, tmp_path, sound=False)
    with pytest.raises(CorruptError, match="its name tells a sha256 that begins with 00000000, it has "):
        torchvision_file(NAME, "IMAGENET1K_V1")


def test_a_missing_file_is_told_with_its_place_and_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish(monkeypatch, tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match=f"no {path}; nothing is fetched here, so put https://example.org/models/"):
        torchvision_file(NAME, "DEFAULT")


def test_an_entry_that_is_none_is_told_with_the_others() -> None:
    with pytest.raises(UsageError, match="did you mean 'IMAGENET1K_V2'"):
        torchvision_file("resnet50", "IMAGENET1K_V3")


def test_facts_are_those_of_the_transforms() -> None:
    facts = torchvision_facts("resnet50", "DEFAULT")
    assert (facts.size, facts.mean, facts.std) == (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (facts.num_classes, facts.class_names[0]) == (1000, "tench")
    assert str(facts) == (
        "torchvision's ResNet50_Weights.IMAGENET1K_V2: images of 3 x 224 x 224, mean [0.485, 0.456, 0.406], std "
        "[0.229, 0.224, 0.225] (there resized to 232 pixels and cropped to the 224 in the middle; here resized whole); "
        "1,000 classes (tench, goldfish, great white shark, ...)"
    )


def test_networks_that_normalise_themselves_with_published_weights_are_shown_what_they_would_make() -> None:
    """``transform_input`` maps ImageNet's constants to 0.5; built without it the images must come so."""
    from torchvision.models import googlenet

    facts = torchvision_facts("googlenet", "DEFAULT")
    torch.manual_seed(0)
    shifting = googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=True, num_classes=2).eval()
    pixels = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = shifting((pixels - mean) / std)
    shifting.transform_input = False
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (facts.mean, facts.std))
    torch.testing.assert_close(shifting((pixels - mean) / std), expected, rtol=1e-4, atol=1e-5)
