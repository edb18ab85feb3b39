"""Workers: a group of one over NCCL, and two processes on one device over gloo, of which one is left after a resize.

NCCL refuses two ranks on one device. The second part of this module is the program that torchrun starts.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu.digits import lend_digits
from gpu.parts import Parts
from gpu.site import Site

STEPS = 20
RECIPE = "supervised_digits_lenet5"  # its network has no BatchNorm: two workers compute what one does
OVERRIDES = (f"schedule.steps={STEPS}", f"schedule.report_every={STEPS // 2}")
TOLERANCE = 1e-3  # relative, of the losses: sums in another order


def workers(parts: Parts, site: Site) -> None:
    """Run both."""
    parts.run("a group of one", lambda: group_of_one(site))
    parts.run("two workers, then one", lambda: resized(site))


def group_of_one(site: Site) -> dict[str, Any]:
    """Start one worker, which uses every collective that raykd has, and trains."""
    backend = "nccl" if site.on_gpu else "gloo"
    return {"backend": backend, **started(1, backend, "all", site, site.folder / "one")}


def resized(site: Site) -> dict[str, Any]:
    """Train half of a run by two workers and the rest by one; compare with one worker's run."""
    changed, whole = site.folder / "resized", site.folder / "unchanged"
    half = started(2, "gloo", "half", site, changed)
    rest = started(1, "gloo", "all", site, changed)
    alone = started(1, "gloo", "all", site, whole)
    pairs = list(zip(rest["losses"], alone["losses"], strict=True))
    off = [abs(a - b) / abs(b) for a, b in pairs]
    went_on = half["step"] == rest["went_on_from"] == STEPS // 2
    found = {"stopped_at": half["step"], "workers": half["workers"], "losses": pairs, "off": off}
    return {**found, "agrees": went_on and max(off) < TOLERANCE}


def started(count: int, backend: str, until: str, site: Site, store: Path) -> dict[str, Any]:
    """Start workers by torchrun and return what rank 0 says.

    Raises:
        RuntimeError: with the last lines of their output, if they fail.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
        "-m", "gpu.workers", backend, site.device, until, str(store),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not said:
        raise RuntimeError(f"{count} worker(s) over {backend} failed: {' '.join(done.stderr.splitlines()[-4:])}")
    found: dict[str, Any] = json.loads(said[-1])
    return found


def collectives(device: torch.device) -> list[str]:
    """Use each collective of ``raykd.distributed.world`` in a group of any size; return their names."""
    size, rows = dist.get_world_size(), torch.ones(4 * dist.get_world_size(), 2, device=device)
    dist.all_reduce(rows)
    gathered = [torch.empty_like(rows) for _ in range(size)]
    dist.all_gather(gathered, rows)
    assert all(part.equal(rows) for part in gathered)
    received = torch.empty_like(rows)
    dist.all_to_all_single(received, rows, [4] * size, [4] * size)
    assert received.equal(rows)
    dist.broadcast(rows, src=0)
    box = [{"step": 3}]
    dist.broadcast_object_list(box, src=0, device=device)
    values: list[Any] = [None] * size
    dist.all_gather_object(values, box[0])
    assert values == [{"step": 3}] * size
    return ["all_reduce", "all_gather", "all_to_all_single", "broadcast", "broadcast_object_list", "all_gather_object"]


def work(backend: str, device_name: str, until: str, store: Path) -> None:
    """Be one worker: join, use the collectives, train; rank 0 says what came of it."""
    from raykd.config.runtime import Runtime
    from raykd.distributed.world import World
    from raykd.engine.reporter import LocalReporter
    from raykd.engine.run import RunContext, run
    from raykd.engine.stop import Interrupted
    from raykd.recipe.experiment import resolve
    from raykd.recipe.recipe import load_recipe
    from raykd.store.checkpoint import step_of
    from raykd.store.workspace import Workspace

    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    # all_to_all of tensors on a GPU is not gloo's.
    used = collectives(device if backend == "nccl" else torch.device("cpu"))
    world = World(dist.get_rank(), dist.get_world_size(), device)
    workspace = Workspace(None, store)
    experiment = resolve(load_recipe(RECIPE, list(OVERRIDES)))
    stop = STEPS // 2 if until == "half" else None
    place = RunContext(
        world, workspace, Runtime(compile="off"), lambda d: LocalReporter(d, lambda: False, world), until=stop
    )
    directory = workspace.run(experiment.run_id)
    newest = place.make_reporter(directory).resume_from()
    with suppress(Interrupted):
        run(experiment, place)
    if world.rank == 0:
        rows = directory.rows()
        found = {
            "workers": world.size,
            "went_on_from": step_of(newest) if newest else 0,
            "step": rows[-1]["step"],
            "losses": [row["loss/cross_entropy"] for row in rows],
            "collectives": used,
        }
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    lend_digits(Path(__file__).parent)
    work(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
