"""Weights as other people's programs save them: wrappers, prefixes, averages, other names, other formats."""

import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from raykd.errors import CorruptError, UsageError
from raykd.files import sha256_of
from raykd.models import build_model, find_model
from raykd.models.weights import load_weights
from raykd.models.weights_file import sum_of_weights
from tests.models.test_weights import assert_same, lenet, prefixed, trained

State = dict[str, Tensor]


def saved(folder: Path, content: Any, name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


WRAPPERS = ("weights", "params", "net", "model", "state", "ema", "state_dict", "model_state_dict")


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "state.model", "checkpoint.ema.weights"])
def test_wrappers_are_found_whatever_lies_beside(tmp_path: Path, wrapper: str) -> None:
    source, target = trained(), lenet()
    content: Any = source.state_dict()
    for name in reversed(wrapper.split(".")):
        content = {"epoch": 3, name: content, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    load_weights(target, saved(tmp_path, content))
    assert_same(target, source)


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "module.model.", "model._orig_mod.", "encoder_q."])
def test_prefixes_are_undone(tmp_path: Path, prefix: str) -> None:
    source, target = trained(), lenet()
    load_weights(target, saved(tmp_path, {"state_dict": prefixed(source.state_dict(), prefix)}))
    assert_same(target, source)


def test_prefixes_may_differ_within_a_file(tmp_path: Path) -> None:
    source, target = trained(), lenet()
    mixed = {
        ("backbone." if key.startswith("features") else "module.") + key: value
        for key, value in source.state_dict().items()
    }
    load_weights(target, saved(tmp_path, mixed))
    assert_same(target, source)


def test_a_network_that_wraps_another_takes_its_weights(tmp_path: Path) -> None:
    source = trained()
    wrapping = nn.ModuleDict({"net": lenet()})
    load_weights(wrapping, saved(tmp_path, source.state_dict()))
    assert_same(wrapping["net"], source)


def test_counters_beside_weights_are_left_out_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source, target = trained(), lenet()
    companions = {"n_averaged": torch.tensor(5), "features.0.total_ops": torch.zeros(1), "epoch": 7}
    load_weights(target, saved(tmp_path, {**source.state_dict(), **companions}))
    assert_same(target, source)
    assert "left out, since no network has them: epoch, n_averaged, features.0.total_ops" in caplog.text


def test_averaged_weights_are_named_and_chosen_by_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    raw, averaged = trained(), trained()
    path = saved(tmp_path, {"model_ema": averaged.state_dict(), "model": raw.state_dict(), "epoch": 1})
    target = lenet()
    load_weights(target, path)
    assert_same(target, raw)
    assert "set 'entry: model_ema' to take the averaged ones" in caplog.text
    load_weights(target, path, entry="model_ema")
    assert_same(target, averaged)
    with pytest.raises(UsageError, match="has no entry 'ema' of weights; it has model_ema, model"):
        load_weights(target, path, entry="ema")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken_in_that_of_the_network(tmp_path: Path, dtype: torch.dtype) -> None:
    source, target = trained(), lenet()
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in source.state_dict().items()}
    load_weights(target, saved(tmp_path, state))
    for key, value in target.state_dict().items():
        assert value.dtype == source.state_dict()[key].dtype
        assert torch.allclose(value.double(), state[key].double())


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    source, target = trained(), lenet()
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in source.state_dict().items()})
    load_weights(target, tmp_path / "w.npz")
    assert_same(target, source)
    np.savez(tmp_path / "code.npz", code=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UsageError, match="holds pickled Python objects"):
        load_weights(target, tmp_path / "code.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "w.npz").read_bytes()[:300])
    with pytest.raises(CorruptError, match=r"cut.npz is damaged or no .npz file"):
        load_weights(target, tmp_path / "cut.npz")


def sharded(folder: Path, state: State) -> Path:
    keys = list(state)
    index = {key: f"model-0000{1 + 2 * number // len(keys)}-of-00002.safetensors" for number, key in enumerate(keys)}
    for name in set(index.values()):
        safetensors.torch.save_file({key: state[key] for key in keys if index[key] == name}, folder / name)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    source, target = trained(), lenet()
    path = sharded(tmp_path, source.state_dict())
    load_weights(target, path)
    assert_same(target, source)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match="names model-00002-of-00002.safetensors, which is not beside it"):
        load_weights(target, path)
    path.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(UsageError, match="may name .safetensors files beside it only"):
        load_weights(target, path)
    path.write_text("[1]")
    with pytest.raises(CorruptError, match="no index of safetensors files"):
        load_weights(target, path)


def test_a_tensor_is_that_of_the_shard_that_the_index_names(tmp_path: Path) -> None:
    source, target = trained(), lenet()
    path = sharded(tmp_path, source.state_dict())
    shards = json.loads(path.read_text())["weight_map"]
    key = min(shards)
    other = tmp_path / next(name for name in shards.values() if name != shards[key])
    others = safetensors.torch.load_file(other)
    safetensors.torch.save_file({**others, key: source.state_dict()[key] + 1}, other)
    load_weights(target, path)
    assert_same(target, source)
    safetensors.torch.save_file(others, other)
    path.write_text(json.dumps({"weight_map": {**shards, key: other.name}}))
    with pytest.raises(CorruptError, match=f"names {key} in {other.name}, which has no such tensor"):
        load_weights(target, path)


def test_the_sum_of_shards_is_of_all_that_is_read(tmp_path: Path) -> None:
    path = sharded(tmp_path, trained().state_dict())
    sums = {sum_of_weights(path)}
    for shard in sorted(tmp_path.glob("*.safetensors")):
        tensors = safetensors.torch.load_file(shard)
        safetensors.torch.save_file({key: tensor + 1 for key, tensor in tensors.items()}, shard)
        sums.add(sum_of_weights(path))
    path.write_text(path.read_text() + " ")
    sums.add(sum_of_weights(path))
    assert len(sums) == 2 + len(list(tmp_path.glob("*.safetensors")))
    assert sum_of_weights(shard) == sha256_of(shard)
    shard.unlink()
    with pytest.raises(UsageError, match="which is not beside it"):
        sum_of_weights(path)


def wide_resnet_of_others(key: str, blocks: int = 2) -> str:
    match = re.fullmatch(r"groups\.(\d+)\.(.+)", key)
    if match is None:
        return key.replace("bn.", "bn1.").replace("linear.", "fc.")
    stage, block = divmod(int(match[1]), blocks)
    return f"block{stage + 1}.layer.{block}.{match[2].replace('shortcut', 'convShortcut')}"


@pytest.mark.parametrize(
    ("model", "rename"),
    [
        ("wrn_16_2", wide_resnet_of_others),
        ("wrn_28_1", lambda key: re.sub(r"^block", "layer", wide_resnet_of_others(key, 4)).replace("fc.", "linear.")),
        ("resnet18", lambda key: key.replace("shortcut.", "downsample.").replace("linear.", "fc.")),
        ("cifar_resnet8", lambda key: key.replace("linear.", "fc.")),
        ("vgg11", lambda key: key.replace("linear.", "classifier.")),
    ],
)
def test_published_layouts_of_names_are_known(
    tmp_path: Path, model: str, rename: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source, target = (build_model(model, num_classes=10, channels=3, size=32) for _ in range(2))
    renamed = {f"module.{rename(key)}": value.contiguous() for key, value in source.state_dict().items()}
    safetensors.torch.save_file(renamed, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert_same(target, source)
    assert "its names are those of" in caplog.text


def test_tensors_may_be_paired_by_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source, target = trained(), lenet()
    state = {f"part{number}": value for number, value in enumerate(source.state_dict().values()) if value.dim()}
    path = saved(tmp_path, state)
    with pytest.raises(UsageError, match="same shapes in the same order: if it is this network, set 'map_keys: order'"):
        load_weights(target, path)
    load_weights(target, path, map_keys="order")
    images = torch.randn(3, 1, 32, 32)
    assert torch.equal(target.eval()(images), source.eval()(images))
    assert "are paired by their order" in caplog.text
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="sorts its tensors by name, so their order says nothing"):
        load_weights(target, tmp_path / "w.safetensors", map_keys="order")
    swapped = dict(reversed(state.items()))
    with pytest.raises(UsageError, match="has other shapes in this order"):
        load_weights(target, saved(tmp_path, swapped), map_keys="order")
    state.popitem()
    with pytest.raises(UsageError, match="no order pairs them"):
        load_weights(target, saved(tmp_path, state), map_keys="order")


def test_the_model_that_a_file_fits_is_named(tmp_path: Path) -> None:
    for name in ("cifar_resnet20", "wrn_28_1", "lenet5_bn", "hinton800"):
        channels = 1 if name.startswith(("lenet", "hinton")) else 3
        state = build_model(name, num_classes=7, channels=channels, size=32).state_dict()
        assert find_model([tuple(tensor.shape) for key, tensor in state.items() if "num_batches" not in key]) == name
    assert find_model([(3, 5)]) is None
    path = saved(tmp_path, build_model("cifar_resnet20", num_classes=10, channels=3, size=32).state_dict())
    with pytest.raises(UsageError, match="'model: cifar_resnet20' has tensors of these shapes"):
        load_weights(build_model("resnet18", num_classes=10, channels=3, size=32), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.int8), "holds torch.int8, and the network's are floats"),
        (lambda value: value.to(torch.complex64), "holds torch.complex64"),
        (lambda value: value.to_sparse(), "is sparse; save it as plain numbers"),
        (lambda value: value.to("meta"), r"is empty \(meta\)"),
    ],
)
def test_tensors_of_another_kind_are_refused(tmp_path: Path, change: Callable[[Tensor], Tensor], message: str) -> None:
    state = {key: change(value) if value.dim() else value for key, value in trained().state_dict().items()}
    with pytest.raises(UsageError, match=message):
        load_weights(lenet(), saved(tmp_path, state))


def test_an_entry_may_be_another_one(tmp_path: Path) -> None:
    state = trained().state_dict()
    path, target = saved(tmp_path, {"model": state, "ema": state}), lenet()
    load_weights(target, path, entry="ema")
    assert all(torch.equal(target.state_dict()[key], value) for key, value in state.items())


def test_hostile_files_take_no_time(tmp_path: Path) -> None:
    state = trained().state_dict()
    knot: dict[str, Any] = {"z": torch.ones(1)}
    knot.update({f"k{number}": knot for number in range(30)})
    many = {f"layer{1 + number % 2}.{number}.w": torch.ones(1) for number in range(5000)}
    for content in (
        knot,
        many,
        {**state, "module." * 50_000 + "x": torch.ones(1)},
        {**state, f"layer1.{'9' * 5000}.w": torch.ones(1)},
    ):
        began = time.monotonic()
        with pytest.raises(UsageError):
            load_weights(lenet(), saved(tmp_path, content))
        assert time.monotonic() - began < 20
    with pytest.raises(UsageError, match="no weights file"):
        load_weights(lenet(), tmp_path / ("a" * 300))
