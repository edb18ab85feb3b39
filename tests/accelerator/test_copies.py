"""What is sent to the device in a step goes from pinned memory, is waited for by nobody, and arrives as it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.config.optim import Adam, AdamW, Optimizer, Sgd
from raykd.data.datasets import Images
from raykd.data.streamed import StreamedImages
from raykd.data.streams import TrainStream, evaluation_batches
from raykd.distributed.updater import Updater
from raykd.distributed.world import World
from raykd.spec import Batch
from tests.accelerator.device import Accelerator, accelerator
from tests.accelerator.memory import storage_of
from tests.accelerator.toys import AUGMENT
from tests.data.test_streamed import SPEC as OF_FILES
from tests.data.test_streamed import write
from tests.methods.toy import SPEC, assert_same, made_images

BATCH = 16


@pytest.fixture
def device() -> Iterator[Accelerator]:
    with accelerator() as found:
        yield found


def stream(kind: str, world: World, folder: Path) -> TrainStream:
    if kind == "files":
        share = world.slice(BATCH)
        source = StreamedImages(
            "made", write(folder, count=1200), OF_FILES, buffer=1024, seed=3, global_batch=BATCH, share=share
        )
        return TrainStream(source, OF_FILES, world, BATCH, 3, ("crop", "flip"))
    if kind == "logits":
        logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
        return TrainStream(made_images(), SPEC, world, BATCH, 3, teacher_logits=logits, per_step=2)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1)) if kind == "weighted" else None
    return TrainStream(made_images(), SPEC, world, BATCH, 3, AUGMENT, weights=weights)


def there(batch: Batch) -> list[Tensor]:
    return [tensor for tensor in batch if tensor is not None]


@pytest.mark.parametrize("kind", ["memory", "weighted", "logits", "files"])
def test_a_batch_arrives_without_a_wait(kind: str, tmp_path: Path, device: Accelerator) -> None:
    here, ours = (stream(kind, World.alone(where), tmp_path / where) for where in ("cpu", "cuda"))
    expected = [there(here.batch(step)) for step in range(4)]
    device.syncs.clear()
    batches = [there(ours.batch(step)) for step in range(4)]
    assert device.syncs == []
    assert {tensor.device.type for tensors in batches for tensor in tensors} == {"cuda"}
    assert_same([[tensor.cpu() for tensor in tensors] for tensors in batches], expected)
    assert device.faults == []


def test_an_evaluation_asks_nothing_of_the_device_while_it_is_fed(device: Accelerator) -> None:
    images: Images = made_images()
    batches = evaluation_batches(images, SPEC, World.alone("cuda"), BATCH)
    first = next(batches)
    device.syncs.clear()
    parts = [first, *batches]
    assert device.syncs == []
    assert torch.equal(torch.cat([part.labels for part in parts]).cpu(), images.labels)


def test_images_go_from_pinned_memory(monkeypatch: pytest.MonkeyPatch, device: Accelerator) -> None:
    sent: list[bool] = []
    to = Tensor.to

    def look(self: Tensor, *args: Any, **options: Any) -> Tensor:
        if options.get("non_blocking"):
            sent.append(bool(getattr(storage_of(self), "pinned", False)))
        return to(self, *args, **options)

    monkeypatch.setattr(Tensor, "to", look)
    TrainStream(made_images(), SPEC, World.alone("cuda"), BATCH, 3).batch(0)
    assert sent == [True, True], "pixels and labels"


@pytest.mark.parametrize("config", [Adam(name="adam", lr=0.1), AdamW(name="adamw", lr=0.1), Sgd(name="sgd", lr=0.1)])
def test_an_update_is_refused_on_the_device_and_nobody_waits(config: Optimizer, device: Accelerator) -> None:
    layer = nn.Linear(3, 2).to("cuda")
    updater = Updater(layer.parameters(), config, World.alone("cuda"), 10)
    group = updater._optimizer.param_groups[0]
    assert (group["fused"], group.get("capturable", False)) == (True, False), "one kernel, and no graph is recorded"
    device.syncs.clear()
    updater.minimise(layer(torch.ones(4, 3, device="cuda")).square().sum())
    weights = layer.weight.detach().clone()
    updater.minimise(layer(torch.full((4, 3), torch.inf, device="cuda")).square().sum())
    updater.minimise(layer(torch.ones(4, 3, device="cuda")).square().sum())
    assert device.syncs == []
    assert torch.equal(layer.weight, weights)
    assert (updater.refused.item(), updater.at_fault.item()) == (2, 1)
    state = [value for own in updater.state_dict()["optimizer"].values() for value in own.values()]
    assert {value.device.type for value in state if isinstance(value, Tensor)} == {"cuda"}
    assert device.faults == []
