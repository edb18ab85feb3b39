"""One rung in a process of its own: a line on stdin is a step, a JSON line on stdout its cost.

Arguments: members, rung (or "peak"), threads.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from members.rungs import ALL, CASES, CHANNELS, LATENT_DIM, SIZE, Case, Variant
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raykd.config.optim import Adam
from raykd.distributed.host import prepare_host
from raykd.distributed.updater import Updater
from raykd.distributed.world import World
from raykd.generators import GeneratorBank, GeneratorConfig
from tests.generators.plain import PlainLsgdfd, as_member

Step = Callable[[], float]

LEARNING_RATE = 1e-3
COUNTED_MEMBERS = 2
PEAK_SIZE = 2048


def make_bank(case: Case, variant: Variant) -> GeneratorBank:
    """Return the bank that all rungs start from."""
    config = GeneratorConfig(latent_dim=LATENT_DIM, width=case.width)
    bank = GeneratorBank(range(case.members), config, channels=CHANNELS, size=SIZE, chunk_images=variant.chunk_images)
    bank.initialise(0)
    return bank


def batch(case: Case, step: int) -> tuple[Tensor, Tensor]:
    """Return the latents and the images that the generators are to make of them."""
    source = torch.Generator().manual_seed(step)
    z = torch.randn(case.members, case.images, LATENT_DIM, generator=source)
    return z, torch.randn(case.members, case.images, CHANNELS, SIZE, SIZE, generator=source)


def bank_step(case: Case, variant: Variant) -> Step:
    """Return the step of a bank; like the loop's, it returns the mean square of its images."""
    world = World.alone(precision=variant.precision)
    bank = make_bank(case, variant)
    updater = Updater(bank.parameters(), Adam(name="adam", lr=LEARNING_RATE), world, 1)
    generate = torch.compile(bank, dynamic=False) if variant.compiled else bank
    steps = iter(range(10**9))

    def step() -> float:
        z, wanted = batch(case, next(steps))
        with world.autocast():
            images = generate(z)
        loss = (images - wanted.flatten(0, 1)).square().sum()
        updater.minimise(loss)
        return float(images.detach().square().mean())

    return step


def loop_step(case: Case) -> Step:
    """Return the step of as many modules."""
    bank = make_bank(case, ALL["loop"])
    modules = [PlainLsgdfd(LATENT_DIM, CHANNELS, SIZE, case.width) for _ in range(case.members)]
    with torch.no_grad():
        for cls, module in enumerate(modules):
            state = bank.member_state(cls)
            for name, tensor in as_member(module).items():
                tensor.copy_(state[name])
    del bank
    optimizers = [torch.optim.Adam(module.parameters(), lr=LEARNING_RATE) for module in modules]
    steps = iter(range(10**9))

    def step() -> float:
        z, wanted = batch(case, next(steps))
        total = 0.0
        for module, optimizer, latents, target in zip(modules, optimizers, z, wanted, strict=True):
            optimizer.zero_grad()
            images = module(latents)
            (images - target).square().sum().backward()
            optimizer.step()
            total += float(images.detach().square().mean())
        return total / len(modules)

    return step


def optimizer_step(case: Case, variant: Variant) -> Step:
    """Return the step of the optimizer alone, of equal parameters and gradients."""
    bank = make_bank(case, variant)
    gradients = [torch.full_like(parameter, 1e-3) for parameter in bank.parameters()]
    if variant.stacked:
        updater = Updater(bank.parameters(), Adam(name="adam", lr=LEARNING_RATE), World.alone(), 1)
        last = next(bank.parameters())

        def step() -> float:
            updater.step(gradients)
            return float(last.detach().flatten()[-1])

        return step
    groups = [[torch.nn.Parameter(p[row].detach().clone()) for p in bank.parameters()] for row in range(case.members)]
    for row, group in enumerate(groups):
        for parameter, gradient in zip(group, gradients, strict=True):
            parameter.grad = gradient[row]
    optimizers = [torch.optim.Adam(group, lr=LEARNING_RATE) for group in groups]
    del bank

    def steps() -> float:
        for optimizer in optimizers:
            optimizer.step()
        return float(groups[-1][0].detach().flatten()[-1])

    return steps


def build(case: Case, variant: Variant) -> Step:
    """Return the step of any rung."""
    if variant.optimizer:
        return optimizer_step(case, variant)
    return bank_step(case, variant) if variant.stacked else loop_step(case)


def counted_flop(case: Case, variant: Variant) -> float:
    """Return the floating-point operations of the rung's convolutions and products, per step."""
    step = build(replace(case, members=COUNTED_MEMBERS), replace(variant, compiled=False))
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops() * case.members / COUNTED_MEMBERS)


def peak_rates() -> list[float]:
    """Return the best of a few float32 and bfloat16 products, in operations per CPU second."""
    a, b = torch.randn(2, PEAK_SIZE, PEAK_SIZE)

    def rate(left: Tensor, right: Tensor) -> float:
        start = time.process_time()
        torch.mm(left, right)
        return 2 * PEAK_SIZE**3 / (time.process_time() - start)

    return [max(rate(*pair) for _ in range(3)) for pair in ((a, b), (a.bfloat16(), b.bfloat16()))]


def memory() -> float:
    """Return the largest resident size so far in GiB (Linux counts KiB, macOS bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def main() -> None:
    """Warm up, say so with the first result, then step on demand."""
    case, rung, threads = CASES[int(sys.argv[1])], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    if rung == "peak":
        prepare_host(threads)
        print(json.dumps({}), flush=True)
        for _ in sys.stdin:
            print(json.dumps({"rates": peak_rates()}), flush=True)
        return
    variant = ALL[rung]
    if variant.host:
        prepare_host(threads)
    step = build(case, variant)
    start = time.perf_counter()
    ready = {"first": step(), "warm_up": time.perf_counter() - start}
    step()  # Adam's moments and the allocator's reserve exist from here on
    ready["flop"] = counted_flop(case, variant)
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "memory": memory()}
        print(json.dumps(cost), flush=True)


if __name__ == "__main__":
    main()
