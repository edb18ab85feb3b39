"""What it costs MosaicKD that the batch normalisation of its players sees a worker's share of the batch.

    python benchmarks/mosaic_norm.py [--workers 2 8] [--seeds 3] [KEY=VALUE ...]

The recipe `mosaickd_mnist` is trained in one process, its generator and discriminator normalising the batch in as many
parts as there would be workers: what that many workers compute, since everything else is averaged over them. One part
is what synchronised normalisation would give. Needs RAYKD_DATA.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from raykd.config.runtime import Runtime
from raykd.distributed.host import prepare_host
from raykd.distributed.world import World
from raykd.engine.build import build
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace

RECIPE = "mosaickd_mnist"
PLAYERS = ("generator", "discriminator")


class InParts(nn.Module):
    """A batch normalisation whose batch comes in equal parts, one after the other."""

    def __init__(self, norm: nn.BatchNorm2d, parts: int) -> None:
        """Keep ``norm``, which must not remember what it sees."""
        super().__init__()
        assert not norm.track_running_stats
        self._norm, self._parts = norm, parts

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each of the parts by itself."""
        return torch.cat([self._norm(part) for part in x.chunk(self._parts)])


def part(network: nn.Module, parts: int) -> None:
    """Replace all batch normalisations of a network; its parameters stay those that are trained."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, InParts(module, parts))


def trained(place: RunContext, pairs: Iterable[str], seed: int, parts: int) -> float:
    """Return the test accuracy in per cent of the student of the last step."""
    recipe = load_recipe(RECIPE, [*pairs, f"seed={seed}"])
    built = build(resolve(recipe), place.world, place.runtime, place.workspace)
    for role in PLAYERS:
        part(built.method.trained[role], parts)
    for step in range(recipe.schedule.steps):
        built.method.step({role: stream.batch(step) for role, stream in built.streams.items()})
    return float(built.evaluator.score(built.method.student)["accuracy/top1"])


def main() -> None:
    """Train, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not os.environ.get("RAYKD_DATA"):
        sys.exit("RAYKD_DATA is not set: it names the folder with mnist and fashion-mnist")
    prepare_host(1)
    with tempfile.TemporaryDirectory() as store:
        workspace = Workspace(Path(os.environ["RAYKD_DATA"]), Path(store))
        place = RunContext(World.alone(), workspace, Runtime(compile="off"), LocalReporter)
        teacher = resolve(load_recipe(RECIPE, options.overrides)).teacher
        assert teacher is not None
        run(teacher, place)
        for parts in (1, *options.workers):
            found = [trained(place, options.overrides, seed, parts) for seed in range(options.seeds)]
            spread = f" +- {statistics.stdev(found):.2f}" if len(found) > 1 else ""
            each = ", ".join(f"{value:.2f}" for value in found)
            name = f"{parts} workers, each by itself" if parts > 1 else "synchronised"
            print(f"{name}: {statistics.mean(found):.2f}{spread} ({each})", flush=True)


if __name__ == "__main__":
    main()
