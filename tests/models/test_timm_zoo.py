"""Architectures of timm, and its published weights in the local cache of Hugging Face."""

import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from raykd.errors import MissingPackage, UsageError
from raykd.models import build_model
from raykd.models.timm_zoo import full_timm_name, timm_facts, timm_file
from raykd.models.weights import load_weights


def fill_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Put a network of chance where a fetched one would lie: a link into a folder of blobs."""
    torch.manual_seed(0)
    repository = cache / "models--timm--test_resnet.r160_in1k"
    for name in ("refs", "blobs", "snapshots/abc"):
        (repository / name).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    save_file(timm.create_model("test_resnet").state_dict(), repository / "blobs" / "sum")
    link = repository / "snapshots" / "abc" / "model.safetensors"
    link.symlink_to("../../blobs/sum")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return link


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_networks_are_built_for_other_images_and_classes(name: str) -> None:
    network = build_model(f"timm/{name}", num_classes=4, channels=1, size=32)
    assert network.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_published_weights_are_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = fill_cache(monkeypatch, tmp_path)
    assert timm_file("test_resnet") == timm_file("test_resnet.r160_in1k") == link
    load_weights(build_model("timm/test_resnet", num_classes=1000, channels=3, size=160), link)


def test_weights_that_are_not_there_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="`hf download timm/test_resnet.r160_in1k model.safetensors` does so"):
        timm_file("test_resnet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_resnt", "did you mean 'test_resnet'"),
        ("hf-hub:somebody/net", "unknown timm model"),
        ("test_resnet.r16", "unknown weights of timm/test_resnet"),
    ],
)
def test_a_name_that_is_none_asks_nobody(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(f"timm/{name}", num_classes=4, channels=3, size=32)


def test_facts_are_those_of_the_pretrained_config() -> None:
    assert full_timm_name("resnet18") == timm.get_pretrained_cfg("resnet18").architecture + ".a1_in1k"
    facts = timm_facts("resnet18.a1_in1k", own_weights=False)
    assert (facts.size, facts.mean, facts.num_classes) == (224, (0.485, 0.456, 0.406), 1000)
    assert facts.class_names[:2] == ("tench", "goldfish")
    own = timm_facts("resnet18", own_weights=True)
    assert (own.size, own.num_classes, own.class_names) == (224, None, ())


def test_a_missing_package_is_told_with_the_machine_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("platform.node", lambda: "node7")
    with pytest.raises(MissingPackage, match=r"timm/test_resnet needs the package timm.* on node7 .*'raykd\[timm\]'"):
        build_model("timm/test_resnet", num_classes=4, channels=3, size=32)
