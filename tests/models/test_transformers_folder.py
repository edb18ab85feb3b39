"""Classifiers in folders of transformers: built and read as transformers does, and nothing of the folder runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    HGNetV2Config,
    MobileViTImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from raykd.errors import CorruptError, UsageError
from raykd.models.transformers_folder import build_transformers, load_saved, read_folder

SHOWN = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 1 / 255,
    "image_mean": [0.4], "image_std": [0.2], "size": {"height": 16, "width": 16},
}  # fmt: skip


def save_vit(folder: Path, *, classes: int = 3, size: int = 16, patch: int = 4) -> Any:
    """Save a transformer of images of one channel, with names of its classes."""
    torch.manual_seed(0)
    names = {number: f"class {number}" for number in range(classes)}
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=size,
        patch_size=patch, num_channels=1, id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    network: Any = ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**SHOWN, "size": {"height": size, "width": size}}))
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_vit(tmp_path / "vit")
    return tmp_path / "vit"


def change(folder: Path, file: str = "config.json", **fields: Any) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **fields}))


def rebuilt(folder: Path, classes: int = 3, channels: int = 1) -> Any:
    found = read_folder(str(folder))
    network = build_transformers(found.config, "hf/vit", num_classes=classes, channels=channels)
    load_saved(network, Path(found.weights))
    return network.eval()


def test_a_saved_transformer_answers_as_before(tmp_path: Path) -> None:
    saved, images = save_vit(tmp_path), torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(rebuilt(tmp_path)(images).logits, saved(images).logits)
    facts = read_folder(str(tmp_path)).facts
    assert (facts.mean, facts.std, facts.size) == ((0.4,), (0.2,), 16)
    assert facts.class_names == ("class 0", "class 1", "class 2")


def test_a_saved_convolutional_network_answers_as_before(tmp_path: Path) -> None:
    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    saved, images = ResNetForImageClassification(config).eval(), torch.rand(2, 1, 16, 16)
    saved.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SHOWN))
    torch.testing.assert_close(rebuilt(tmp_path, 2)(images).logits, saved(images).logits)
    assert read_folder(str(tmp_path)).facts.class_names == (), "LABEL_0 is no name"


def test_indices_that_earlier_releases_have_saved_are_no_weights(tmp_path: Path) -> None:
    config = SwinConfig(
        image_size=16, patch_size=2, num_channels=1, embed_dim=8, depths=[1], num_heads=[2], window_size=4
    )  # fmt: skip
    saved, images = SwinForImageClassification(config).eval(), torch.rand(2, 1, 16, 16)
    saved.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SHOWN))
    indices = {name: one.clone() for name, one in saved.named_buffers() if not one.is_floating_point()}
    assert indices, "the network has indices"
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), **indices}, file, {"format": "pt"})
    torch.testing.assert_close(rebuilt(tmp_path, 2)(images).logits, saved(images).logits)


def test_weights_of_whole_numbers_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "classifier.weight": weights["classifier.weight"].to(torch.int8)}, file, {"format": "pt"})
    with pytest.raises(UsageError, match=r"classifier.weight holds torch.int8"):
        rebuilt(folder)


def test_widths_of_stages_are_no_depths(folder: Path) -> None:
    (folder / "config.json").write_text(HGNetV2Config(num_channels=1, image_size=16).to_json_string())
    assert sum(read_folder(str(folder)).config["stage_out_channels"]) > 1000


@pytest.mark.parametrize("kind", [EfficientNetImageProcessor, ConvNextImageProcessor])
def test_constants_are_what_the_processor_does(folder: Path, kind: Any) -> None:
    processor = kind()
    shown = json.loads(processor.to_json_string())
    (folder / "preprocessor_config.json").write_text(json.dumps(shown))
    change(folder, num_channels=3)
    facts = read_folder(str(folder)).facts
    levels = torch.randint(0, 256, (3, 24, 24), generator=torch.Generator().manual_seed(0)).byte()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    expected = processor(levels, do_resize=False, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close((levels / 255 - mean) / std, expected, rtol=0, atol=1e-4)


def test_what_no_constants_can_say_is_refused(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(MobileViTImageProcessor().to_json_string())
    with pytest.raises(UsageError, match="has do_flip_channel_order, which no mean and std can stand for"):
        read_folder(str(folder))


@pytest.mark.parametrize(
    ("fields", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False, "image_mean": [102.0], "image_std": [51.0]}, 0.4, 0.2),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, 0.5, 0.5),
        ({"image_mean": 0.3}, 0.3, 0.2),
    ],
)
def test_constants_are_of_pixels_in_the_unit_range(
    folder: Path, fields: dict[str, Any], mean: float, std: float
) -> None:
    change(folder, "preprocessor_config.json", **fields)
    facts = read_folder(str(folder)).facts
    assert [*facts.mean, *facts.std] == pytest.approx([mean, std])


@pytest.mark.parametrize(
    ("fields", "size", "preparation"),
    [
        ({"size": 20}, 20, ""),
        (
            {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
            16,
            "to 20",
        ),
        ({"size": {"shortest_edge": 14}, "crop_pct": 0.875}, 14, "resized to 16"),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, ""),
        ({"do_resize": False}, 16, ""),
    ],
)
def test_the_size_is_what_the_network_is_shown(
    folder: Path, fields: dict[str, Any], size: int, preparation: str
) -> None:
    change(folder, "preprocessor_config.json", **fields)
    facts = read_folder(str(folder)).facts
    assert facts.size == size
    assert preparation in facts.preparation
    assert bool(preparation) == bool(facts.preparation)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auto_map": {"AutoConfig": "mine.Config"}}, "has auto_map: its network is code of its own, which is not run"),
        ({"vision_config": {"auto_map": {}}}, "has auto_map"),
        ({"model_type": "timm_wrapper"}, "use model timm/NAME"),
        ({"model_type": "bert"}, "unknown model_type"),
        ({"model_type": ["vit"]}, "unknown model_type"),
        ({"use_pretrained_backbone": True}, "a part of it lies elsewhere"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is larger than any network needs"),
        ({"hidden_size": 2**24}, "describes a network of .* numbers; at most 2,147,483,648 are built"),
        ({"hidden_size": "many"}, "transformers cannot build it"),
        ({"hidden_act": "none of them"}, "transformers cannot build it"),
        ({"patch_size": 0}, "transformers cannot build it"),
        ({"id2label": ["a"]}, "config.json has a value that cannot be"),
        ({"id2label": {"5": "a"}}, "does not number its classes from 0"),
        ({"num_channels": 3}, "1 numbers for 3 channels"),
        ({"num_channels": 10**9}, "num_channels is 1000000000, and 1 to 1000 are taken"),
        ({"hidden_size": 32}, "is for another network than its config.json"),
    ],
)
def test_other_configurations_are_refused_in_a_line(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder, **fields)
    with pytest.raises(UsageError, match=message) as refused:
        rebuilt(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("count", [3, None, 10**9, -1, "3", True])
def test_classes_without_names_are_counted_as_transformers_does(folder: Path, count: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    counted = {key: value for key, value in content.items() if key not in ("id2label", "label2id")}
    (folder / "config.json").write_text(json.dumps({**counted, "num_labels": count}))
    if count != 3:
        with pytest.raises(UsageError, match="num_labels is .*, and 1 to 1,000,000 are taken"):
            read_folder(str(folder))
        return
    facts = read_folder(str(folder)).facts
    assert (facts.num_classes, facts.class_names) == (3, ())
    rebuilt(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_mean": "grey"}, "preprocessor_config.json has a value that cannot be"),
        ({"size": {"height": 16, "width": 8}}, "not square"),
        ({"rescale_factor": 0}, "ZeroDivisionError"),
        ({"size": {"longest_edge": 9}}, "has a value that cannot be"),
    ],
)
def test_other_preparations_are_refused_in_a_line(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder, "preprocessor_config.json", **fields)
    with pytest.raises(UsageError, match=message):
        read_folder(str(folder))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"has no {name}; save model and image processor there"):
        read_folder(str(folder))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="it has pytorch_model.bin, which may hold code"):
        read_folder(str(folder))


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_damaged_file_is_told(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CorruptError, match="config.json"):
        read_folder(str(folder))


def test_no_kernel_is_fetched_for_a_configuration(folder: Path) -> None:
    change(folder, _attn_implementation="somebody/kernel", attn_implementation="somebody/kernel")
    assert rebuilt(folder).config._attn_implementation == "eager"


def test_what_is_computed_from_a_configuration_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SwinConfig(image_size=64, patch_size=1, embed_dim=8, depths=[1], num_heads=[1], window_size=64).to_dict()
    monkeypatch.setattr("raykd.models.transformers_folder._MAX_VALUES", 2**20)  # of which the weights have a tenth
    with pytest.raises(UsageError, match="describes a network of 16,.* numbers"):
        build_transformers(config, "hf/swin", num_classes=2, channels=3)


def test_weights_must_be_whole(folder: Path) -> None:
    with pytest.raises(UsageError, match="1 mismatched|2 mismatched"):
        rebuilt(folder, classes=4)
