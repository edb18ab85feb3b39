"""One rung in a process of its own: a line on stdin is a step, a JSON line on stdout its cost.

Arguments: case, rung (or "peak"), threads, images of a step.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from dafl.ladder import CASES, LADDER, Case, Variant
from dafl.published import SIZE, PublishedStep, build_networks
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raykd.config.optim import Optimizer
from raykd.distributed.host import prepare_host
from raykd.distributed.world import World
from raykd.engine.compiling import choose_compiler
from raykd.methods.base import MethodContext
from raykd.methods.dafl import Dafl, DaflConfig
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

Step = Callable[[], list[Tensor]]

COUNTED_BATCH = 8
PEAK_SIZE = 2048


def method_step(case: Case, variant: Variant, device: str = "cpu") -> Step:
    """Return the step of raykd's method on the same networks, noise and settings."""
    teacher, student = build_networks(case)
    onehot, entropy, activation = case.weights
    config = DaflConfig.model_validate(
        {
            "name": "dafl",
            "latent_dim": case.latent_dim,
            "onehot_weight": onehot,
            "entropy_weight": entropy,
            "activation_weight": activation,
            "output_range": "standardised",  # as the published generator
            "generator_optim": {"name": "adam", "lr": case.generator_lr},
        }
    )
    zeros, ones = (0.0,) * case.channels, (1.0,) * case.channels
    world = World.alone(device, variant.precision)
    context = MethodContext(
        spec=DataSpec("random", 10, case.channels, SIZE, zeros, ones),
        world=world,
        networks={
            "student": student.to(device).to(memory_format=torch.channels_last),
            "teacher": Teacher(teacher, channels=case.channels, size=SIZE).to(device),
        },
        student_optim=TypeAdapter(Optimizer).validate_python(case.student_optim),
        steps=1000,
        global_batch=case.batch,
        seed=0,
        compiler=choose_compiler(variant.compile, world.device, 0),
    )
    torch.manual_seed(1)
    method = Dafl(config, context)
    names = ("loss/onehot", "loss/entropy", "loss/activation", "loss/kd")

    def step() -> list[Tensor]:
        metrics = method.step({})
        return [metrics[name] for name in names]

    return step


def build(case: Case, variant: Variant, device: str = "cpu") -> Step:
    """Return the step of any rung."""
    return method_step(case, variant, device) if variant.method else PublishedStep(case, variant, device)


def counted_flop(case: Case, variant: Variant) -> float:
    """Return the floating-point operations of the rung's convolutions and products, per step."""
    step = build(replace(case, batch=COUNTED_BATCH), replace(variant, compile="off"))
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops() * case.batch / COUNTED_BATCH)


def peak_step() -> Step:
    """Return the best of a few float32 and bfloat16 products, in operations per CPU second."""
    a, b = torch.randn(2, PEAK_SIZE, PEAK_SIZE)
    pairs = [(a, b), (a.bfloat16(), b.bfloat16())]

    def rate(left: Tensor, right: Tensor) -> float:
        start = time.process_time()
        torch.mm(left, right)
        return 2 * PEAK_SIZE**3 / (time.process_time() - start)

    return lambda: [torch.tensor(max(rate(*pair) for _ in range(3))) for pair in pairs]


def memory() -> float:
    """Return the largest resident size so far in GiB (Linux counts KiB, macOS bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def main() -> None:
    """Warm up, say so with the first losses, then step on demand."""
    rung, threads = sys.argv[2], int(sys.argv[3])
    case = replace(CASES[sys.argv[1]], batch=int(sys.argv[4]))
    torch.set_num_threads(threads)
    variant = LADDER.get(rung)
    if variant is None or variant.onednn:
        prepare_host(threads)
    step = peak_step() if variant is None else build(case, variant)
    start = time.perf_counter()
    first = [float(value.detach()) for value in step()]
    ready = {
        "first": first,
        "warm_up": time.perf_counter() - start,
        "flop": counted_flop(case, variant) if variant else 0.0,
    }
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        values = step()
        cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(
            json.dumps({**cost, "memory": memory(), "values": [float(value.detach()) for value in values]}), flush=True
        )


if __name__ == "__main__":
    main()
