"""Statistics by class against a slow float64 loop with plain hooks; files that fit, do not fit, or are damaged."""

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from raykd.artifacts import class_statistics as module
from raykd.artifacts.class_statistics import (
    collect,
    input_metadata,
    load_statistics,
    read_metadata,
    save_statistics,
    used_images,
)
from raykd.data.datasets import Images
from raykd.distributed.world import World
from raykd.errors import CorruptError, SetupError, UsageError
from raykd.methods.base import ClassMoments
from raykd.models import build_model
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

SPEC = DataSpec("made", 3, 1, 32, (0.3,), (0.6,), ("ant", "bee", "cat"))
ABOUT = {
    "teacher_sha256": "0123456789abcdef", "data": "made", "split": "train", "per_class": 5,
    "mean": SPEC.mean, "std": SPEC.std,
}  # fmt: skip


def network(classes: int = 3) -> nn.Module:
    """A LeNet-5 whose norms hold statistics as training leaves them."""
    torch.manual_seed(classes)
    net = build_model("lenet5_bn", num_classes=classes, channels=1, size=32)
    net.train()(torch.randn(8, 1, 32, 32))
    return net.eval()


def wrapped(net: nn.Module) -> MomentTeacher:
    return MomentTeacher(Teacher(net, channels=1, size=32))


@pytest.fixture(scope="module")
def images() -> Images:
    """Images of three classes in no order, 7 to 12 of each, brighter with the class and towards the end."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 12 + [1] * 7 + [2] * 9)[torch.randperm(28, generator=generator)]
    noise = torch.randint(0, 60, (28, 1, 32, 32), generator=generator)
    pixels = noise + (50 * labels + 3 * torch.arange(28)).view(-1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), labels)


@pytest.fixture
def teacher() -> MomentTeacher:
    return wrapped(network())


def slow(net: nn.Module, images: Images, per_class: int) -> list[tuple[Tensor, Tensor]]:
    """The same in float64, a class at a time."""
    exact = copy.deepcopy(net).double().eval()
    names = [name for name, m in exact.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    for name in names:
        exact.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: seen[name].append(args[0]))
    unit = images.pixels.double() / 255
    for label in range(3):
        chosen = [i for i in range(len(unit)) if images.labels[i] == label][:per_class]
        with torch.no_grad():
            exact(SPEC.normalise(unit[chosen]))
    by_layer = [[x.movedim(1, 0).flatten(1) for x in seen[name]] for name in names]
    return [
        (torch.stack([x.mean(1) for x in rows]), torch.stack([x.var(1, unbiased=False) for x in rows]))
        for rows in by_layer
    ]


def assert_close(found: ClassMoments, expected: list[tuple[Tensor, Tensor]]) -> None:
    assert len(found) == len(expected) > 0
    for pair, exact in zip(found, expected, strict=True):
        for values, reference in zip(pair, exact, strict=True):
            assert values.dtype == torch.float32
            assert torch.allclose(values.double(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_they_are_those_of_the_first_images_of_each_class_in_any_batches(images: Images, batch: int) -> None:
    net = network()
    expected = slow(net, images, 6)
    teacher = wrapped(net)
    sizes: list[int] = []
    teacher.teacher.network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert_close(collect(teacher, images, SPEC, World.alone(), per_class=6, batch=batch), expected)
    assert (sum(sizes), max(sizes)) == (18, min(batch, 18))


class _Recorded(World):
    """One of several workers, whose sums are kept for the last one to add."""

    kept: list[list[Tensor]] = []

    def sum(self, tensor: Tensor) -> Tensor:
        if self.rank:
            self.kept[-1].append(tensor)
            return torch.ones_like(tensor)
        return torch.stack([tensor, *(sums.pop(0) for sums in self.kept)]).sum(0)


def test_workers_share_the_images_of_a_class(images: Images) -> None:
    net = network()
    expected = slow(net, images, 2)
    teacher = wrapped(net)
    for rank in (1, 2):  # the last one is left without an image
        _Recorded.kept.append([])
        collect(teacher, images, SPEC, _Recorded(rank, 3, torch.device("cpu")), per_class=2)
    found = collect(teacher, images, SPEC, _Recorded(0, 3, torch.device("cpu")), per_class=2)
    assert_close(found, expected)


def test_a_class_with_fewer_images_gives_what_it_has(
    teacher: MomentTeacher, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "raykd"):
        found = collect(teacher, images, SPEC, World.alone(), per_class=10)
    assert "fewer than 10 images of 2 of 3 classes: bee (7), cat (9)" in caplog.text
    assert used_images(images, SPEC, 10) == [10, 7, 9]
    assert_close(found, slow(teacher.teacher.network, images, 10))


def test_a_class_without_a_variance_is_refused(teacher: MomentTeacher, images: Images) -> None:
    few = torch.cat([(images.labels != 1).nonzero().flatten(), (images.labels == 1).nonzero().flatten()[:1]])
    with pytest.raises(UsageError, match=r"fewer than 2 images of 1 of 3 classes: bee \(1\)"):
        collect(teacher, Images(images.pixels[few], images.labels[few]), SPEC, World.alone(), per_class=5)
    with pytest.raises(UsageError, match="per_class is 1"):
        collect(teacher, images, SPEC, World.alone(), per_class=1)


def test_activations_that_are_not_finite_are_refused(images: Images) -> None:
    net = network()
    teacher = wrapped(net)
    next(net.parameters()).data[0] = float("nan")
    with pytest.raises(UsageError, match=rf"layer '{teacher.layers[0]}' sees is not finite"):
        collect(teacher, images, SPEC, World.alone(), per_class=5)


def made(teacher: MomentTeacher, classes: int = 3) -> ClassMoments:
    generator = torch.Generator().manual_seed(1)
    shapes = [(classes, width) for width in teacher.widths]
    return [(torch.randn(s, generator=generator), torch.rand(s, generator=generator)) for s in shapes]


@pytest.fixture
def path(tmp_path: Path, teacher: MomentTeacher) -> Path:
    """A file of made statistics in a folder of its own."""
    path = tmp_path / "new" / "statistics.safetensors"
    save_statistics(path, made(teacher), teacher.layers, {**ABOUT, "counts": [5, 5, 5]})
    return path


def test_a_file_gives_back_what_was_saved(path: Path, teacher: MomentTeacher) -> None:
    found = load_statistics(path, teacher, "0123456789abcdef", SPEC)
    for pair, saved in zip(found, made(teacher), strict=True):
        assert all(torch.equal(values, other) for values, other in zip(pair, saved, strict=True))
    layers = {"classes": 3, "layers": teacher.layers, "counts": [5, 5, 5]}
    assert read_metadata(path) == {**ABOUT, "mean": [0.3], "std": [0.6], **layers}
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {f"{name}.{kind}" for name in teacher.layers for kind in ("mean", "var")}
        assert all(isinstance(value, str) for value in file.metadata().values())
    assert load_statistics(path, teacher, None, SPEC), "whose weights are not known is not compared"


def test_a_failed_write_leaves_the_old_file(
    path: Path, teacher: MomentTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(tensors: object, staging: Path, header: object) -> None:
        staging.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(SetupError, match="no space left"):
        save_statistics(path, made(teacher), teacher.layers, ABOUT)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(SetupError, match="could not write"):
        save_statistics(path / "below.safetensors", made(teacher), teacher.layers, ABOUT)


def save(path: Path, teacher: MomentTeacher, classes: int = 3, **about: Any) -> None:
    save_statistics(path, made(teacher, classes), teacher.layers, {**ABOUT, **about})


def test_what_does_not_fit_is_refused(path: Path, teacher: MomentTeacher) -> None:
    with pytest.raises(UsageError, match=r"01234567, this one is fedcba98.*raykd statistics TEACHER --data made --per"):
        load_statistics(path, teacher, "fedcba9876543210", SPEC)
    save(path, teacher, teacher_sha256=None)
    with pytest.raises(UsageError, match="sha256 unknown, this one is fedcba98"):
        load_statistics(path, teacher, "fedcba9876543210", SPEC)
    save(path, teacher, classes=4)
    with pytest.raises(UsageError, match="has 4 classes, data 'made' has 3"):
        load_statistics(path, teacher, None, SPEC)
    save(path, teacher, mean=[0.5])
    with pytest.raises(
        UsageError, match=r"normalised by \[0\.5\] / \[0\.6\] with pad 0 and crop_pct 1\.0, data 'made' is by \[0\.3\]"
    ):
        load_statistics(path, teacher, None, SPEC)
    padded = replace(SPEC, pad=2)
    save(path, teacher, **input_metadata(padded))
    assert load_statistics(path, teacher, None, padded)
    with pytest.raises(UsageError, match=r"with pad 2 .* with pad 0"):
        load_statistics(path, teacher, None, SPEC)


def test_another_network_is_refused(path: Path, teacher: MomentTeacher) -> None:
    other = MomentTeacher(
        Teacher(build_model("cifar_resnet20", num_classes=3, channels=1, size=32), channels=1, size=32)
    )
    with pytest.raises(
        UsageError, match=rf"of {len(teacher.layers)} BatchNorm layers, this one has {len(other.layers)}"
    ):
        load_statistics(path, other, None, SPEC)
    wide = [(torch.zeros(3, 1 + width), torch.ones(3, 1 + width)) for width in teacher.widths]
    save_statistics(path, wide, teacher.layers, ABOUT)
    with pytest.raises(UsageError, match=rf"{teacher.widths[0] + 1} channels for layer '{teacher.layers[0]}'"):
        load_statistics(path, teacher, None, SPEC)


def test_damage_is_named(path: Path, teacher: MomentTeacher) -> None:
    whole = path.read_bytes()
    in_metadata = whole.index(b"0123456789abcdef")
    damaged = [
        whole[:-9],
        b"",
        whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:],
        whole[:in_metadata] + b"9" + whole[in_metadata + 1 :],
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CorruptError, match="damaged"):
            load_statistics(path, teacher, None, SPEC)


def test_other_files_are_no_statistics(path: Path, teacher: MomentTeacher) -> None:
    with pytest.raises(UsageError, match="no statistics file"):
        read_metadata(path.parent / "gone.safetensors")
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file({"x": torch.zeros(1)}, path, {**header, "version": json.dumps(2)})
    with pytest.raises(UsageError, match="another version"):
        load_statistics(path, teacher, None, SPEC)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="something else"):
        load_statistics(path, teacher, None, SPEC)


def test_what_was_measured_before_a_kill_is_gone_on_with_to_the_same_bits(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, progress = network(), tmp_path / ".progress"
    whole = collect(wrapped(net), images, SPEC, World.alone(), per_class=6, batch=4)
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)
    teacher, sizes = wrapped(copy.deepcopy(net)), list[int]()

    def count(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if len(sizes) == 3:
            raise KeyboardInterrupt
        sizes.append(len(args[0]))

    handle = teacher.teacher.network.register_forward_pre_hook(count)
    with pytest.raises(KeyboardInterrupt):
        collect(teacher, images, SPEC, World.alone(), per_class=6, batch=4, progress=progress)
    handle.remove()
    teacher.teacher.network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    found = collect(teacher, images, SPEC, World.alone(), per_class=6, batch=4, progress=progress)
    assert sizes == [4, 4, 4, 4, 2], "three before, the others after"
    assert all(torch.equal(a, b) for pair in zip(found, whole, strict=True) for a, b in zip(*pair, strict=True))
    assert not progress.exists()


def test_progress_of_other_statistics_is_not_gone_on_with(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, progress = wrapped(network()), tmp_path / ".progress"
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    collect(teacher, images, SPEC, World.alone(), per_class=3, progress=progress)
    assert progress.exists()
    other = Images(images.pixels, images.labels.flip(0))
    expected = slow(teacher.teacher.network, other, 3)
    assert_close(collect(teacher, other, SPEC, World.alone(), per_class=3, progress=progress), expected)
