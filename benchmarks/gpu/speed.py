"""Steps of raykd's methods against the steps that published scripts take, on the same networks and batches.

Each way is a part of its own: a name ``CASE/WAY``. Of each: seconds of a step (median of several rounds, the device
waited for at their ends), seconds until the first steps were made, peak memory, operations of convolutions and products
where they can be counted. The report divides by the first way of the case and by the machine's peak.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pool_step
import torch
from dafl import worker as dafl
from dafl.ladder import CASES, LADDER
from dafl.ladder import Variant as DaflWay
from gpu.parts import Parts
from gpu.site import Site
from lsgdfd import worker as lsgdfd
from lsgdfd.cases import RUNGS
from torch.utils.flop_counter import FlopCounterMode

from raykd.config.runtime import Compile, Precision
from raykd.distributed.host import float32_products
from raykd.distributed.world import World

Step = Callable[[], Any]
ROUNDS, ROUND_SECONDS, WARM_UP = 5, 0.4, 5
SMALL_ROUNDS = 2
MOST_SECONDS = 240.0  # of a way, compiling included


class Way(NamedTuple):
    """One way to take a step: how it is built, its precision, and whether it computes eagerly, so can be counted."""

    build: Callable[[], Step]
    precision: Precision
    eager: bool


OURS: tuple[tuple[str, Compile, Precision], ...] = (
    ("eager", "off", "fp32"),
    ("compiled", "on", "fp32"),
    ("graphs", "graphs", "fp32"),
    ("compiled tf32", "on", "tf32"),
    ("compiled bf16", "on", "bf16"),
    ("graphs bf16", "graphs", "bf16"),
)
COMPILED = "graphs bf16"  # is compiled also where steps are only rehearsed, of the smallest case: that takes minutes
FIRST = ("published", "obvious", "eager", "graphs bf16", "compiled bf16", "graphs", "compiled")
"""The order of ways over all cases: what is left is less valuable."""


def speed(parts: Parts, site: Site) -> None:
    """Time all ways of all cases, one kind after the other."""
    order = {name: position for position, name in enumerate(FIRST)}
    for name, way in sorted(ways(site), key=lambda item: order.get(item[0].rpartition("/")[2], len(order))):
        parts.run(name, lambda way=way: timed(way, site), most=MOST_SECONDS)  # type: ignore[misc]


def ways(site: Site) -> Iterator[tuple[str, Way]]:
    """Yield the ways of each case."""
    ours = [row for row in OURS if not site.small or row[1] == "off"]
    least = [row for row in OURS if not site.small or row[1] == "off" or row[0] == COMPILED]
    for case, batch, rows in (("mnist", 512, least), ("cifar10", 1024, ours)):
        yield from dafl_ways(case, 4 if site.small else batch, rows, site)
    members, images = (2, 4) if site.small else (100, 8)
    yield from lsgdfd_ways(members, images, ours, site)
    yield from pool_ways(4 if site.small else 256, ours, site)


def dafl_ways(
    name: str, batch: int, ours: list[tuple[str, Compile, Precision]], site: Site
) -> Iterator[tuple[str, Way]]:
    """Yield DAFL's: MNIST, LeNet-5 to its half; CIFAR-10, ResNet-34 to ResNet-18."""
    case = replace(CASES[name], batch=batch)
    title = f"dafl {name}, batch {batch}"

    def build(variant: DaflWay) -> Callable[[], Step]:
        return lambda: dafl.build(case, variant, site.device)

    yield f"{title}/published", Way(build(LADDER["published"]), "fp32", True)
    yield f"{title}/published tf32", Way(build(replace(LADDER["published"], precision="tf32")), "tf32", False)
    for way, compile, precision in ours:
        variant = replace(LADDER["raykd"], compile=compile, precision=precision)
        yield f"{title}/{way}", Way(build(variant), precision, compile == "off")


def lsgdfd_ways(
    members: int, images: int, ours: list[tuple[str, Compile, Precision]], site: Site
) -> Iterator[tuple[str, Way]]:
    """Yield those of a bank of generators under statistics by class, with a ResNet-18."""
    title = f"lsgdfd bank of {members}, {images} images each"
    for name in ("obvious", "split"):
        rung = RUNGS[name]
        obvious = Way(lambda rung=rung: lsgdfd.build(members, images, rung, site.device), "fp32", True)  # type: ignore[misc]
        yield f"{title}/{name}", obvious
    for way, compile, precision in ours:
        rung = replace(RUNGS["raykd"], compile=compile, precision=precision)
        build = lambda rung=rung: lsgdfd.build(members, images, rung, site.device)  # noqa: E731
        yield f"{title}/{way}", Way(build, precision, compile == "off")


def pool_ways(batch: int, ours: list[tuple[str, Compile, Precision]], site: Site) -> Iterator[tuple[str, Way]]:
    """Yield those of a pool: its two inner steps of one batch, and an update of the student."""

    def obvious(index: int) -> Callable[[], Step]:
        def build() -> Step:
            folder = Path(tempfile.mkdtemp(dir=site.folder))
            made = pool_step.Obvious(batch, folder, site.device)
            return (made.invert, made.learn)[index]

        return build

    def ours_of(index: int, compile: Compile, precision: Precision) -> Callable[[], Step]:
        world = World.alone(site.device, precision)
        return lambda: pool_step.ours(batch, views=0, compile=compile, world=world)[index]

    for index, what in enumerate(("two inner steps", "an update of the student")):
        title = f"pool cifar10, {what}, batch {batch}"
        yield f"{title}/obvious", Way(obvious(index), "fp32", True)
        for way, compile, precision in ours:
            yield f"{title}/{way}", Way(ours_of(index, compile, precision), precision, compile == "off")


def timed(way: Way, site: Site) -> dict[str, Any]:
    """Build a step, warm it up and time it."""
    torch.compiler.reset()  # of one function torch compiles a few kinds only, and then runs it eagerly
    gc.collect()
    if site.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    site.folder.mkdir(parents=True, exist_ok=True)
    with float32_products(way.precision, torch.device(site.device)):
        began = time.perf_counter()
        step = way.build()
        for _ in range(1 if site.small else WARM_UP):
            step()
        site.wait()
        ready = time.perf_counter() - began
        figures: dict[str, Any] = {"ready_seconds": ready, "precision": way.precision, **rounds(step, site)}
        if site.on_gpu:
            figures["peak_bytes"] = torch.cuda.max_memory_allocated()
        if way.eager:
            # The counter's hooks on modules do not bear every gradient that is asked for; then there is no share.
            with suppress(RuntimeError), FlopCounterMode(display=False) as counter:
                step()
                figures["flop"] = counter.get_total_flops()
    return figures


def rounds(step: Step, site: Site) -> dict[str, Any]:
    """Return the median over rounds of the seconds of a step, and how far rounds were from it."""
    start = time.perf_counter()
    step()
    site.wait()
    steps = 1 if site.small else max(1, int(ROUND_SECONDS / max(time.perf_counter() - start, 1e-5)))
    found = []
    for _ in range(SMALL_ROUNDS if site.small else ROUNDS):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        site.wait()
        found.append((time.perf_counter() - start) / steps)
    return {"seconds": median(found), "quickest": min(found), "slowest": max(found), "steps": steps * len(found)}
