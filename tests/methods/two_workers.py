"""One of several gloo workers, as torchrun would start it: inverts a teacher, plays a game, and saves what it got.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.methods.two_workers FOLDER
"""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from raykd.config.optim import Sgd
from raykd.data.image_pool import PoolPart
from raykd.distributed.updater import Updater
from raykd.distributed.world import World
from raykd.engine.bank_figures import bank_figures, judge_images
from raykd.methods.base import BankMethod
from raykd.methods.inversion import by_row
from raykd.methods.pool_inversion import PoolInversion, PoolInversionConfig
from tests.methods.patterns import (
    ADAM,
    CLASSES,
    EACH,
    double_precision,
    lsgdfd,
    pattern_setting,
    patterned,
    teacher_of_patterns,
)
from tests.methods.toy import BATCH, SPEC, made_batches, made_method, made_setting

STEPS, ROWS = 4, 6
POOL: dict[str, Any] = {"name": "pool_inversion", "latent_dim": 6, "generator_maps": (4, 4), "warmup_calls": 0}


def whole_bank(world: World, moments: str) -> dict[str, Any]:
    """The members of this worker, trained by the running statistics, and the last metrics."""
    method = lsgdfd(pattern_setting(world=world, steps=STEPS), statistics="global", moments=moments, jitter=1)
    for _ in range(STEPS):
        metrics = method.step({})
    return {"members": method.products(), "metrics": {name: world.mean(value) for name, value in metrics.items()}}


def replica(world: World, statistics: str) -> dict[str, Any]:
    """The parameters of the one generator after some steps, and the moments term of the first."""
    context = pattern_setting(world=world, steps=STEPS)
    method = made_method("lsgdfd_single", context, statistics=statistics, generator_optim=ADAM)
    assert isinstance(method, BankMethod)
    first = method.step({})
    for _ in range(STEPS - 1):
        method.step({})
    parameters = dict(method.trained["generator"].named_parameters())
    return {"parameters": parameters, "first": first["loss/moments"], "products": list(method.products())}


def figures(world: World, name: str, **fields: Any) -> dict[str, Tensor]:
    """What a report says of a bank's generators after a step."""
    method = made_method(name, pattern_setting(world=world, steps=STEPS), **fields)
    method.step({})
    figures = bank_figures(method, method.context.networks["teacher"])
    return {name: torch.tensor(value) for name, value in figures.items()}


def figures_of_one(world: World) -> dict[str, float]:
    """The figures where only the first worker has images."""
    images, labels = patterned(EACH, 5), torch.arange(CLASSES).repeat_interleave(EACH)
    return judge_images([(images, labels)] if world.rank == 0 else [], teacher_of_patterns(), SPEC, world)


def seen() -> tuple[Tensor, Tensor]:
    """What two layers see: one row of images (2, ROWS, layer's channels, pixels) per class."""
    generator = torch.Generator().manual_seed(8)
    shapes = ((2, ROWS, 3, 5), (2, ROWS, 4, 2))
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return first, second


def rows_of_all(world: World) -> dict[str, Any]:
    """The moments of each row over the images of all workers, and the gradient of a loss of them by the own images."""
    mine = [layer[:, world.slice(ROWS)].clone().requires_grad_() for layer in seen()]
    own = [(x.mean((1, 3)), x.var((1, 3), correction=0)) for x in mine]
    merged = by_row(own, world.mean)
    loss = sum(((mean - 0.3).norm() + (var - 2.0).norm() for mean, var in merged), torch.zeros(()))
    # Averaged over workers, as an updater does.
    gradients = [g / world.size for g in torch.autograd.grad(loss, mine)]
    return {"moments": [[m.detach(), v.detach()] for m, v in merged], "gradients": gradients}


def smallest_capacity(world: World) -> int:
    """The members of a wave where the workers have unequal memory."""
    with patch("raykd.methods.members.free_device_memory", lambda device: 10**12 if world.rank else 0):
        return lsgdfd(pattern_setting(world=world)).images_per_step // EACH


ADVERSARIAL: dict[str, Any] = {
    "disagreement": "masked_kl",
    "moment_weight": 0.5,
    "onehot_weight": 1.0,
    "balance_weight": 5.0,
    "attention_weight": 3.0,
    "self_paced": {"start": 0.5},
    "clip_norm": 1.0,
    "ema_generator": 0.8,
    "replay": {"images": 20, "fraction": 0.4},
}


def game(world: World, name: str, **fields: Any) -> dict[str, Any]:
    """All players of a game after some steps, without the BatchNorms, which see a worker's own images."""
    method = made_method(name, made_setting(world=world, dropout=0.0), **fields)
    for player in method.trained.values():
        for name, module in list(player.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                parent, _, last = name.rpartition(".")
                setattr(player.get_submodule(parent), last, nn.Identity())
        player.double()
    for role, updater in list(method.updaters.items()):
        method.updaters[role] = Updater(method.trained[role].parameters(), Sgd(name="sgd", lr=0.01), world, STEPS)
        method.updaters[role].clip_norm = updater.clip_norm
    for step in range(STEPS):
        batches = made_batches(method, step)
        doubled = {role: batch._replace(images=batch.images.double()) for role, batch in batches.items()}
        with patch.object(Tensor, "float", Tensor.double):  # sums in float32 would differ by their order
            method.step(doubled)
    state = {role: player.state_dict() for role, player in method.trained.items()}
    kept = method.state_dict().get("replay")
    return state if kept is None else {**state, "replay": {"low": kept["low"], "pixels": kept["pixels"].double()}}


def pooled(world: World, views: int) -> dict[str, Any]:
    """What a worker draws from a pool that is given, its part of that, and the student after some updates from it."""
    context = made_setting(world=world, dropout=0.0)
    setattr(context.networks["student"].get_submodule("body"), "1", nn.Identity())  # BatchNorm sees own images
    method = PoolInversion(PoolInversionConfig(**POOL, views=views), context)
    generator = torch.Generator().manual_seed(5)
    own = world.slice(BATCH)
    for batch in range(STEPS):
        images = SPEC.normalise(torch.randint(256, (BATCH, 1, 8, 8), generator=generator) / 255)
        logits = torch.randn(BATCH, views, CLASSES, generator=generator)[own] if views else None
        method.pool.append(images[own], torch.arange(BATCH)[own] % CLASSES + batch, logits)
    part = method.new_images()
    assert part is not None
    draws = [method.pool.draw(ROWS * 2, step) for step in range(STEPS)]
    for update in range(STEPS):
        method.update_student(update)
    return {
        "drawn": [torch.cat(values) for values in zip(*(draw[: 2 + bool(views)] for draw in draws), strict=True)],
        "held out": method.sample(7, seed=2),
        "part": [values for values in part if values is not None],
        "student": method.student.state_dict(),
    }


def taken_over(world: World, parts: list[list[Tensor]]) -> Tensor:
    """What a worker draws from a pool that as many, or fewer, or more have filled."""
    method = PoolInversion(PoolInversionConfig(**POOL), made_setting(world=world))
    method.pool.load((PoolPart(*part) for part in parts), {"batches": STEPS, "seed": 0})
    return method.pool.draw(ROWS * 2, 3).images


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = World.current()
    pool = {f"pool of {views} views": pooled(world, views) for views in (0, 2)}
    pool["taken over"] = {"images": taken_over(world, [pooled(World.alone(), 0)["part"]])}
    with double_precision():
        result = {
            "place": (world.rank, world.size, CLASSES),
            "distance": whole_bank(world, "distance"),
            "divergence": whole_bank(world, "divergence"),
            "global": replica(world, "global"),
            "class": replica(world, "class"),
            "figures of a bank": figures(world, "lsgdfd", statistics="class"),
            "figures of a conditional generator": figures(world, "lsgdfd_single", conditional=True),
            "figures of a generator": figures(world, "lsgdfd_single", conditional=False),
            "figures of one": figures_of_one(world),
            "rows": rows_of_all(world),
            "capacity": smallest_capacity(world),
            "mosaickd": game(world, "mosaickd"),
            "adversarial": game(world, "adversarial", **ADVERSARIAL),
            **pool,
        }
    torch.save(result, folder / f"{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
