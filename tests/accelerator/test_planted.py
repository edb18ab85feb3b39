"""Tensors left on the wrong device, one at a time, in functions of the package: each is found.

Without these a device that refuses nothing would pass all other tests of this folder.
"""

import copy
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from raykd.data import augment, streams
from raykd.data.image_pool import ImagePool
from raykd.distributed.updater import Updater
from raykd.distributed.world import World
from raykd.engine import blind_pool, evaluator
from raykd.engine.run import run
from raykd.methods import generating
from raykd.methods.contrast import Contrast
from raykd.methods.latents import Labels
from raykd.methods.moment_memory import MomentMemory
from raykd.methods.replay import ImageRing
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from raykd.recipe.experiment import resolve
from tests.accelerator.device import accelerator
from tests.accelerator.test_runs import SHORT, small, trained
from tests.accelerator.toys import advance, made

WRONG_DEVICE = r"same device, but found at least two devices, cpu and cuda:0"


class Plant(NamedTuple):
    """A function of the package, what takes its place, and what is run then."""

    owner: Any
    name: str
    planted: Callable[[Any], Callable[..., Any]]
    scenario: Callable[[Path], None]


def stepped(variant: str) -> Callable[[Path], None]:
    def scenario(store: Path) -> None:
        advance(made(variant, World.alone("cuda")), 3)

    return scenario


def resumed(variant: str) -> Callable[[Path], None]:
    def scenario(store: Path) -> None:
        method, file = made(variant, World.alone("cuda")), io.BytesIO()
        advance(method, 3)
        torch.save(method.state_dict(), file)
        again = made(variant, World.alone("cuda"))
        state = torch.load(io.BytesIO(file.getvalue()), weights_only=True, map_location="cpu")
        if variant.startswith("pool"):
            again.pool = method.pool  # type: ignore[attr-defined]
        again.load_state_dict(state)
        advance(again, 1)

    return scenario


def trains(store: Path) -> None:
    """Train a whole run, the teacher of which is there."""
    with small(store, "cuda") as (context, load):
        run(resolve(load("dafl_digits", SHORT)), context)


def on_host(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return what a function returns, brought to the host."""
    return lambda *args, **options: original(*args, **options).cpu()


def buffers_left(original: Any) -> Callable[..., Any]:
    def apply(self: Teacher, move: Any, recurse: bool = True) -> Teacher:
        torch.nn.Module._apply(self, move, recurse)
        for buffer in self.buffers():
            buffer.data = buffer.data.cpu()
        return self

    return apply


def targets_left(original: Any) -> Callable[..., Any]:
    return lambda self: [(mean.cpu(), variance) for mean, variance in original(self)]


def state_left(original: Any) -> Callable[..., Any]:
    def load(self: Updater, state: dict[str, Any]) -> None:
        original(self, state)
        for values in self._optimizer.state.values():
            values.update({name: tensor.cpu() for name, tensor in values.items() if isinstance(tensor, Tensor)})

    return load


def memory_left(original: Any) -> Callable[..., Any]:
    def load(self: MomentMemory, state: Any) -> None:
        self._average = [(mean, variance) for mean, variance in state]

    return load


def features_left(original: Any) -> Callable[..., Any]:
    def load(self: Contrast, state: dict[str, Any]) -> None:
        self._memory = state["features"]

    return load


def rows_left(original: Any) -> Callable[..., Any]:
    def init(self: ImageRing, *args: Any) -> None:
        original(self, *args)
        self._rows = self._rows.cpu()

    return init


def images_left(original: Any) -> Callable[..., Any]:
    def fetch(*args: Any) -> Any:
        drawn = original(*args)
        return drawn._replace(images=drawn.images.cpu())

    return fetch


def labels_left(original: Any) -> Callable[..., Any]:
    return lambda self, tensor: tensor if tensor.dtype == torch.int64 else original(self, tensor)


def answers_left(original: Any) -> Callable[..., Any]:
    def init(self: evaluator.Evaluator, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        if self.labels is not None:
            self.labels = self.labels.cpu()

    return init


def flips_left(original: Any) -> Callable[..., Any]:
    return lambda images, which: torch.where(which.view(-1, 1, 1, 1), images.flip(-1), images)


PLANTS = {
    "buffers of the teacher": Plant(Teacher, "_apply", buffers_left, stepped("dafl")),
    "moments to be matched": Plant(MomentTeacher, "running", targets_left, stepped("adversarial_moments")),
    "latents": Plant(World, "randn_whole", on_host, stepped("dafl")),
    "labels of a batch": Plant(streams._NetworkInput, "move", labels_left, stepped("kd")),
    "labels of images to be made": Plant(Labels, "draw", on_host, stepped("pool_inversion")),
    "which images are mirrored": Plant(augment, "mirrored", flips_left, stepped("kd")),
    "moving average of a generator": Plant(copy, "deepcopy", on_host, stepped("dafl_remembering")),
    "rows that are replayed": Plant(ImageRing, "__init__", rows_left, stepped("dafl_remembering")),
    "images drawn from a pool": Plant(ImagePool, "_fetch", images_left, stepped("pool_inversion")),
    "state of an optimizer": Plant(Updater, "load_state_dict", state_left, resumed("dafl")),
    "moments remembered": Plant(MomentMemory, "load_state_dict", memory_left, resumed("pool_inversion")),
    "features remembered": Plant(Contrast, "load_state_dict", features_left, resumed("pool_inversion_contrast")),
    "weights of classes": Plant(blind_pool, "class_credit", on_host, trains),
    "bins of confidence": Plant(evaluator, "_bins_of", on_host, trains),
    "labels of the test split": Plant(evaluator.Evaluator, "__init__", answers_left, trains),
    "samples that are shown": Plant(generating, "held_out_images", on_host, trains),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a teacher is trained."""
    root = tmp_path_factory.mktemp("teacher")
    trained(root, "supervised_digits_lenet5", "cpu")
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_left_behind_is_found(name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = PLANTS[name]
    shutil.copytree(store, tmp_path / "store")
    with accelerator() as device:
        monkeypatch.setattr(plant.owner, plant.name, plant.planted(getattr(plant.owner, plant.name)))
        with pytest.raises(Exception, match=WRONG_DEVICE):
            plant.scenario(tmp_path / "store")
        assert device.faults


@pytest.mark.parametrize("scenario", {plant.scenario for plant in PLANTS.values() if plant.scenario is trains})
def test_what_is_run_has_no_fault_of_its_own(scenario: Callable[[Path], None], store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    with accelerator() as device:
        scenario(tmp_path / "store")
    assert device.faults == []


def test_pinned_memory_that_is_used_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that every loader of its own has had: the next batch is written over the one on its way."""
    staging: dict[Any, Tensor] = {}

    def move(self: Any, tensor: Tensor) -> Tensor:
        if tensor.shape not in staging:
            staging[tensor.shape] = torch.empty_like(tensor).pin_memory()
        return staging[tensor.shape].copy_(tensor).to(self._device, non_blocking=True)

    monkeypatch.setattr(streams._NetworkInput, "move", move)
    with accelerator() as device:
        stepped("mosaickd")(Path())  # takes two batches a step
    assert [fault.partition(",")[0] for fault in device.faults[:1]] == [
        "pinned memory was written before its copy to the device"
    ]
