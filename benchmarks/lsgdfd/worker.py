"""One rung in a process of its own: a line on stdin is a step, a JSON line on stdout its cost.

Arguments: generators, rung (or "peak"), threads, images of each generator.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from dafl.worker import memory, peak_step
from lsgdfd.cases import (
    CHANNELS,
    L2_WEIGHT,
    LATENT_DIM,
    LR,
    MOMENT_WEIGHT,
    RUNGS,
    SEED,
    SIZE,
    TEACHER,
    TV_WEIGHT,
    WIDTH,
    Rung,
)
from lsgdfd.obvious import ObviousStep
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raykd.config.runtime import Runtime
from raykd.distributed.host import prepare_host
from raykd.distributed.world import World
from raykd.engine.compiling import choose_compiler
from raykd.methods.base import ClassMoments, MethodContext
from raykd.methods.lsgdfd import Lsgdfd, LsgdfdConfig
from raykd.models import build_model
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

TERMS = ("loss/class", "loss/moments", "loss/total_variation", "loss/l2")


def build_teacher(members: int) -> tuple[nn.Module, ClassMoments]:
    """Return the same random teacher every time, and random moments of each class."""
    torch.manual_seed(0)
    teacher = build_model(TEACHER, num_classes=members, channels=CHANNELS, size=SIZE)
    widths = [m.num_features for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    return teacher, [(0.1 * torch.randn(members, c), 0.5 + torch.rand(members, c)) for c in widths]


def method_step(members: int, images: int, rung: Rung, device: str = "cpu") -> Callable[[], list[Tensor]]:
    """Return the step of raykd's method on the same networks, noise and settings."""
    teacher, wanted = build_teacher(members)
    config = LsgdfdConfig.model_validate(
        {
            "name": "lsgdfd",
            "statistics": "class",
            "generator": {"latent_dim": LATENT_DIM, "width": WIDTH},
            "output_range": "standardised",  # as the obvious generator
            "moment_weight": MOMENT_WEIGHT,
            "tv_weight": TV_WEIGHT,
            "l2_weight": L2_WEIGHT,
            "jitter": 0,
            "generator_optim": {"name": "adam", "lr": LR},
        }
    )
    zeros, ones = (0.0,) * CHANNELS, (1.0,) * CHANNELS
    world = World.alone(device, rung.precision)
    context = MethodContext(
        spec=DataSpec("random", members, CHANNELS, SIZE, zeros, ones),
        world=world,
        networks={"teacher": Teacher(teacher, channels=CHANNELS, size=SIZE).to(device)},
        student_optim=None,
        steps=100_000,
        global_batch=members * images,
        seed=SEED,
        compiler=choose_compiler(rung.compile, world.device, 0),
        runtime=Runtime(wave=members),
        statistics=wanted,
    )
    method = Lsgdfd(config, context)

    def step() -> list[Tensor]:
        metrics = method.step({})
        return [metrics[name] for name in TERMS]

    return step


def build(members: int, images: int, rung: Rung, device: str = "cpu") -> Callable[[], list[Tensor]]:
    """Return the step of any rung."""
    if rung.ours:
        return method_step(members, images, rung, device)
    return ObviousStep(members, images, *build_teacher(members), rung.split, device)


def counted_flop(members: int, images: int, rung: Rung) -> float:
    """Return the floating-point operations of a step's convolutions and products; compiling does not change them."""
    step = build(members, images, replace(rung, compile="off", precision="fp32"))
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def main() -> None:
    """Warm up, say so with the first losses, then step on demand."""
    members, name, threads, images = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    rung = RUNGS.get(name)
    if rung is None or rung.ours:
        prepare_host(threads)
    step = peak_step() if rung is None else build(members, images, rung)
    start = time.perf_counter()
    first = [float(value.detach()) for value in step()]
    warm_up = time.perf_counter() - start
    print(json.dumps({"first": first, "warm_up": warm_up}), flush=True)
    for line in sys.stdin:
        if line.strip() == "flop":  # the last request
            del step  # a second one beside it would double the memory
            print(json.dumps({"flop": counted_flop(members, images, rung) if rung else 0.0}), flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        values = step()
        cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "memory": memory()}
        print(json.dumps({**cost, "values": [float(value.detach()) for value in values]}), flush=True)


if __name__ == "__main__":
    main()
