"""Compare what a plan foretells of a step with what a real one takes, in a fresh process of the planned size.

    python benchmarks/plan_accuracy.py [RECIPE [KEY=VALUE ...]] [--wave 8] [--steps 5] [--threads 1] [--json]

The plan's two small trials foretell; nothing of the planned size is tried before. Without a recipe: a wave of
generators in ImageNet's true shape (1000 classes, 128 pixels, latent 512, ResNet-50), two images of each. Where the
recipe's teacher weights are not there, random ones stand in: that changes no shape. Processor seconds are the ones to
compare where other processes disturb the clock.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from raykd.config.runtime import Runtime
from raykd.engine.build import build_spec, find_weights_file
from raykd.errors import UsageError
from raykd.models import build_model
from raykd.planning.predict import Prediction, TrialSite, measure, predict
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.store.checkpoint import save_weights
from raykd.store.workspace import Workspace

DEFAULT = ["lsgdfd_imagenet_bank", "schedule.global_batch=2000"]


def with_weights(recipe: Recipe, workspace: Workspace, folder: Path) -> Recipe:
    """Return the recipe with random teacher weights in ``folder`` where its own file is missing."""
    teacher = recipe.teacher
    if teacher is None or teacher.weights is None or teacher.model is None:
        return recipe
    try:
        find_weights_file(teacher.weights, workspace)
    except UsageError:
        spec = build_spec(recipe.data, workspace)
        network = build_model(teacher.model, num_classes=spec.num_classes, channels=spec.channels, size=spec.size)
        path = folder / "random.safetensors"
        save_weights(network.state_dict(), path)
        return recipe.model_copy(update={"teacher": teacher.model_copy(update={"weights": str(path)})})
    return recipe


def compare(predicted: Prediction, found: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return foretold, measured and the error in per cent of time and memory."""
    peak = max(found["built"], found["steps_peak"], found["report_peak"])
    pairs = {
        "seconds per step": (predicted.at("seconds"), found["seconds"]),
        "processor seconds per step": (predicted.at("cpu_seconds"), found["cpu_seconds"]),
        "peak memory, GiB": (predicted.peak() / 2**30, peak / 2**30),
    }
    return {
        name: {"foretold": value, "measured": real, "error_percent": 100 * (value / real - 1)}
        for name, (value, real) in pairs.items()
    }


def main() -> None:
    """Parse, foretell, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", nargs="*", default=DEFAULT, metavar="RECIPE [KEY=VALUE ...]")
    parser.add_argument("--wave", type=int, default=8, help="members at once, where classes are dealt (default 8)")
    parser.add_argument("--steps", type=int, default=5, help="timed in each trial (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    data = os.environ.get("RAYKD_DATA")
    workspace = Workspace(Path(data) if data else None, Path("runs").absolute())
    site, runtime = TrialSite(workspace), Runtime(wave=arguments.wave, threads=arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        recipe = with_weights(load_recipe(arguments.recipe[0], arguments.recipe[1:]), workspace, Path(folder))
        predicted = predict(resolve(recipe), runtime, site, store, memory=None, direct=False, steps=arguments.steps)
        found = measure(predicted.experiment, runtime, site, store, arguments.steps)
    table = compare(predicted, found)
    tried = " and ".join(map(str, sorted(predicted.trials)))
    title = f"{recipe.name}: {predicted.axis.planned} {predicted.axis.counts}, foretold from {tried}; {found['device']}"
    if arguments.json:
        print(json.dumps({"title": title, **table}))
        return
    print(title, "", "| | foretold | measured | error |", "|---|---|---|---|", sep="\n")
    for name, row in table.items():
        print(f"| {name} | {row['foretold']:.3f} | {row['measured']:.3f} | {row['error_percent']:+.1f} % |")


if __name__ == "__main__":
    main()
