"""Weights and architectures from outside: what is read, what is refused, what never runs."""

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from raykd.errors import CorruptError, UsageError
from raykd.models import build_model
from raykd.models.weights import load_weights


def lenet(num_classes: int = 10, channels: int = 1, name: str = "lenet5_bn") -> nn.Module:
    return build_model(name, num_classes=num_classes, channels=channels, size=32)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    for key, value in one.state_dict().items():
        assert torch.equal(value, expected[key]), key


def trained() -> nn.Module:
    """A network whose every tensor, BatchNorm buffers included, differs from a fresh one."""
    network = lenet()
    network(torch.randn(4, 1, 32, 32))
    return network


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_safetensors_are_read(tmp_path: Path) -> None:
    source, target = trained(), lenet()
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert_same(target, source)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_torch_files_are_read(tmp_path: Path, wrapper: str | None, prefix: str, zipped: bool) -> None:
    source, target = trained(), lenet()
    state: dict[str, object] = {**prefixed(source.state_dict(), prefix)}
    content = {wrapper: state, "epoch": 3} if wrapper else state
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    load_weights(target, tmp_path / "w.pt")
    assert_same(target, source)


def test_a_network_with_a_child_called_module_keeps_its_keys(tmp_path: Path) -> None:
    source = nn.ModuleDict({"module": nn.Linear(2, 3)})
    target = nn.ModuleDict({"module": nn.Linear(2, 3)})
    safetensors.torch.save_file(prefixed(source.state_dict(), "module."), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert_same(target, source)


def test_old_files_without_batch_counters_are_read(tmp_path: Path) -> None:
    source, target = trained(), lenet()
    state = {k: v for k, v in source.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert {
        key: bool(torch.equal(value, source.state_dict()[key]))
        for key, value in target.state_dict().items()
        if "num_batches_tracked" not in key
    } == dict.fromkeys(state, True)


def test_published_checkpoint_is_read(tmp_path: Path) -> None:
    network = build_model("cifar_resnet20", num_classes=10, channels=3, size=32)
    if data := os.environ.get("RAYKD_DATA"):
        path = Path(data) / "teachers" / "cifar10_resnet20.safetensors"
    else:
        path = tmp_path / "cifar10_resnet20.safetensors"
        state = {k: v + 1 for k, v in network.state_dict().items() if "num_batches" not in k}
        safetensors.torch.save_file(state, path)
    load_weights(network, path)
    stored = safetensors.torch.load_file(path)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in stored.items())


def test_numbers_that_overflow_in_the_networks_precision_are_refused_by_name(tmp_path: Path) -> None:
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in lenet().state_dict().items()
    }
    path, last = tmp_path / "w.safetensors", list(state)[-1]
    state[last][0] = 3e38
    safetensors.torch.save_file(state, path)
    load_weights(lenet(), path)
    state[last][0] = -4e38
    safetensors.torch.save_file(state, path)
    with pytest.raises(
        UsageError, match=rf"{last} holds torch.float64 beyond the range of the network's torch.float32"
    ):
        load_weights(lenet(), path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("by_torch", [True, False])
def test_pickled_code_is_refused_and_never_run(tmp_path: Path, by_torch: bool, protocol: int) -> None:
    path, sign = tmp_path / "w.pt", tmp_path / "exploded"
    bomb = {"state_dict": Bomb(sign)}
    if by_torch:
        torch.save(bomb, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(bomb, protocol=protocol))
    with pytest.raises(UsageError, match="pickled Python objects.*model.state_dict"):
        load_weights(lenet(), path)
    assert not sign.exists()
    pickle.loads(pickle.dumps(bomb))
    assert sign.exists()  # the bomb was live


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_refused_with_the_way_to_convert_it(tmp_path: Path, zipped: bool) -> None:
    torch.save(lenet(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match="safetensors.torch.save_file"):
        load_weights(lenet(), tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("keep", [0, 1, 7, 0.3, 0.9])
def test_truncated_files_are_called_damaged(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(lenet().state_dict(), path)
    else:
        torch.save(lenet().state_dict(), path, _use_new_zipfile_serialization=suffix == ".pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CorruptError, match="damaged"):
        load_weights(lenet(), path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_of_something_else_is_called_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_text("<!DOCTYPE html><html>not found</html>" * 50)
    with pytest.raises(CorruptError, match="damaged"):
        load_weights(lenet(), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights file .*absent.pt"):
        load_weights(lenet(), tmp_path / "absent.pt")


def test_mismatches_say_what_differs_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(trained().state_dict(), path)

    def refused(network: nn.Module) -> str:
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(UsageError) as caught:
            load_weights(network, path)
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[key])
        return str(caught.value)

    assert "is for 10 classes, the model was built for 7" in refused(lenet(num_classes=7))
    assert "features.0.weight: [6, 1, 5, 5] in the file, [6, 3, 5, 5]" in refused(lenet(channels=3))
    other = refused(lenet(name="lenet5"))
    assert "another architecture: 5 missing (features.0.bias, features.3.weight, features.3.bias, ...)" in other
    assert "unexpected (features.1.weight, features.1.bias, features.1.running_mean, ...)" in other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds a dict, not a state dict"),
        ({"epoch": 3, "loss": 0.5}, "no tensors \\(epoch, loss\\)"),
    ],
)
def test_files_without_weights_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=message):
        load_weights(lenet(), tmp_path / "w.pt")
