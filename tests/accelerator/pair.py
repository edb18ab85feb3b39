"""One of two workers on devices of their own, as torchrun would start it: trains, and tells what was found.

Their tensors go over gloo, since they are the processor's; that NCCL would take them is what the device checks.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.accelerator.pair FOLDER
"""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import run
from raykd.recipe.experiment import resolve
from tests.accelerator.device import accelerator
from tests.accelerator.test_runs import SHORT, small
from tests.accelerator.toys import advance, made

METHODS = ("kd", "dafl_remembering", "lsgdfd_global", "lsgdfd_single", "pool_inversion_contrast", "pixel_inversion")
RECIPES = ("lsgdfd_digits",)
EXCHANGE = Runtime(compile="off", teacher_logits="live", bank="exchange")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    place = World.current()  # of processors: joins both
    found: dict[str, Any] = {}
    with accelerator(2) as device:
        world = World(place.rank, place.size, torch.device("cuda", place.rank))
        torch.cuda.set_device(world.device)
        for name in METHODS:
            method = made(name, world)
            found[name] = [sorted(row) for row in advance(method, 2)]
            if method.makes_images:
                method.sample(4, 1)
        for name in RECIPES:
            with small(folder, "cuda") as (context, load):
                reporter = partial(LocalReporter, world=world)
                together = replace(context, world=world, runtime=EXCHANGE, make_reporter=reporter)
                found[name] = run(resolve(load(name, SHORT)), together).run
        refused = []
        for tensor in (torch.ones(1), torch.ones(1, device=f"cuda:{1 - world.rank}")):
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                refused.append(str(error).partition(" (")[0].partition(" of {")[0])
        found["refused"], found["faults"] = refused, device.faults
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
