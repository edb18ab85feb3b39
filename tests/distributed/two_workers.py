"""One of several gloo workers, as torchrun would start it: works through some steps and saves what it got.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.distributed.two_workers FOLDER
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd import losses
from raykd.config.optim import Sgd
from raykd.distributed.updater import Updater
from raykd.distributed.world import World
from raykd.generators import GeneratorBank, GeneratorConfig
from raykd.methods.bank_kd import BankKd, BankKdConfig
from raykd.methods.base import MethodContext
from raykd.models import build_model
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

BATCH, STEPS, CLASSES = 16, 4, 10
SHARDS = ((0, 4, 9), (1, 2, 3, 5, 6, 7, 8))
"""The classes each of two workers has generators for."""
OPTIMIZER = Sgd(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3)


def network(seed: int, name: str = "lenet5_half") -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, num_classes=CLASSES, channels=1, size=32)


def batches() -> list[Tensor]:
    """The global batch of each step."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(BATCH, 1, 32, 32, generator=generator) for _ in range(STEPS)]


def divergence(student: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        teacher_logits = network(0)(images)
    return losses.kd_divergence(student(images), teacher_logits, 4.0)


def distilled(world: World, name: str = "lenet5_half") -> nn.Module:
    """A student after some steps on this worker's rows."""
    student = network(1, name)
    updater = Updater(student.parameters(), OPTIMIZER, world, STEPS)
    for images in batches():
        updater.minimise(divergence(student, images[world.slice(BATCH)]))
    return student


def distilled_by_ddp(world: World, name: str) -> nn.Module:
    """The same with torch's own DistributedDataParallel and optimizer."""
    student = network(1, name)
    wrapped = nn.parallel.DistributedDataParallel(student, broadcast_buffers=False)
    optimizer = OPTIMIZER.build(student.parameters())
    for images in batches():
        optimizer.zero_grad()
        divergence(wrapped, images[world.slice(BATCH)]).backward()
        optimizer.step()
    return student


def balanced(world: World) -> nn.Module:
    """A network that learns to spread its predictions: a loss of the mean over the *global* batch."""
    student = network(2)
    updater = Updater(student.parameters(), OPTIMIZER, world, STEPS)
    for images in batches():
        logits = 10 * student(images[world.slice(BATCH)])
        updater.minimise(losses.information_entropy(logits, world.mean))
    return student


def synchronised(world: World) -> nn.Module:
    """A network that every worker has initialised in its own way."""
    student = network(10 + world.rank, "lenet5_bn").to(memory_format=torch.channels_last)
    world.synchronise(student)
    return student


def bank(classes: Sequence[int]) -> GeneratorBank:
    """These members of one and the same bank."""
    config = GeneratorConfig(latent_dim=6, width=8)
    whole = GeneratorBank(range(CLASSES), config, channels=1, size=32)
    whole.initialise(3)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        whole(torch.randn(CLASSES, 4, config.latent_dim, generator=generator))
    part = GeneratorBank(classes, config, channels=1, size=32)
    for label in classes:
        part.load_member(label, whole.member_state(label))
    return part.eval().requires_grad_(False)


def distilled_from_bank(world: World, classes: Sequence[int]) -> dict[str, Any]:
    """The images a student saw, its weights after that, and a sheet of samples."""
    teacher = Teacher(network(0), channels=1, size=32)
    images: list[Tensor] = []
    teacher.register_forward_pre_hook(lambda _, args: images.append(args[0]))
    context = MethodContext(
        spec=DataSpec("made", CLASSES, 1, 32, (0.0,), (1.0,)),
        world=world,
        networks={"student": network(1), "teacher": teacher, "bank": bank(classes)},
        student_optim=OPTIMIZER,
        steps=STEPS,
        global_batch=BATCH,
        seed=0,
        compiler=lambda module: module,
    )
    method = BankKd(BankKdConfig(name="bank_kd"), context)
    for _ in range(STEPS):
        method.step({})
    return {"images": torch.stack(images), "weights": method.student.state_dict(), "sheet": method.sample(23, 5)}


def exchanged(world: World) -> Tensor:
    """Worker r sends s + 1 rows to worker s; a row tells sender, receiver and its own number."""
    rows = [[world.rank, to, number] for to in range(world.size) for number in range(to + 1)]
    send = [to + 1 for to in range(world.size)]
    return world.exchange(torch.tensor(rows, dtype=torch.float32), send, [world.rank + 1] * world.size)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = World.current()
    torch.save(
        {
            "place": (world.rank, world.size),
            "rows": world.randn(BATCH, 3, seed=7, step=2),
            "distilled": distilled(world).state_dict(),
            "normalised": distilled(world, "lenet5_bn").state_dict(),
            "ddp": distilled_by_ddp(world, "lenet5_bn").state_dict(),
            "balanced": balanced(world).state_dict(),
            "synchronised": synchronised(world).state_dict(),
            "sum": world.sum(torch.tensor([1.0, world.rank])),
            "gathered": world.gather(torch.tensor([float(world.rank)])),
            "exchanged": exchanged(world),
            "bank_copy": distilled_from_bank(world, range(CLASSES)),
            "bank_exchange": distilled_from_bank(world, SHARDS[world.rank]),
            "bank_bfloat16": distilled_from_bank(replace(world, precision="bf16"), SHARDS[world.rank]),
            "heard": world.broadcast({"from": world.rank}),
        },
        folder / f"{world.rank}.pt",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
