"""Steps on the device against the same steps on a CPU; whether a run resumes, repeats, and waits for the device."""

import math
import shutil
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu.draws import draws_on_cpu
from gpu.parts import Parts
from gpu.site import Site
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from raykd.cli.names import packaged_recipes
from raykd.engine.build import build
from raykd.engine.run import run
from raykd.engine.stop import Interrupted
from raykd.engine.synthesis import make_image_sets
from raykd.methods import METHODS
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.run_directory import RunDirectory
from tests.golden.curves import (
    LARGER,
    LATE_TOLERANCE,
    LATE_TOLERANCE_OF_POOL,
    TOLERANCE,
    differences,
    measure,
    path_of,
    read_golden,
)
from tests.golden.shrunk import shrunk

RESUMED = 10  # steps, of which the first half is a run of its own
WARM_UP = 2
REHEARSED = {"dafl": "dafl_digits"}
"""What is run on a CPU, where the gate's own tests compare all of them."""
TOLERATED = f"relative {TOLERANCE:g}, in the second half {LATE_TOLERANCE:g}, of a pool's {LATE_TOLERANCE_OF_POOL:g}"


def one_per_method(site: Site) -> dict[str, str]:
    """Return by method the smallest packaged recipe that has a curve: digits, where there are such."""
    if site.small:
        return REHEARSED
    found: dict[str, str] = {}
    recipes = [name for name in packaged_recipes() if name not in LARGER and path_of(name).is_file()]
    for name in sorted(recipes, key=lambda name: "digits" not in name):
        if len(found) < len(METHODS):
            found.setdefault(load_recipe(name).method.name, name)
    return dict(sorted(found.items()))


def curves(parts: Parts, site: Site) -> None:
    """Compare the first steps of a recipe of each method with the file of the gate, then of all others."""
    first = list(one_per_method(site).values())
    rest = sorted(path.stem for path in path_of("any").parent.glob("*.json") if path.stem not in first)
    for name in first if site.small else [*first, *rest]:
        parts.run(name, lambda name=name: curve(name, site))  # type: ignore[misc]


def curve(name: str, site: Site) -> dict[str, Any]:
    """Compare one curve; teachers and banks of earlier ones are taken again."""
    with draws_on_cpu():
        ours = measure(name, site.folder / "golden", site.device)
    golden = read_golden(name)
    found = differences(ours, golden)
    same_recipe = ours["overrides"] == golden["overrides"]
    return {"agrees": not found and same_recipe, "differs": found, **largest(ours, golden), "tolerance": TOLERATED}


def largest(ours: dict[str, Any], golden: dict[str, Any]) -> dict[str, float]:
    """Return the largest relative deviation of a loss in the first half of the steps, and in the second."""
    early = late = 0.0
    for name in ours["losses"].keys() & golden["losses"].keys():
        pairs = list(zip(ours["losses"][name], golden["losses"][name], strict=False))
        for i, (a, b) in enumerate(pairs):
            off = abs(a - b) / max(abs(b), 1e-12)
            early, late = (max(early, off), late) if 2 * i < len(pairs) else (early, max(late, off))
    return {"early": early, "late": late}


def resume(parts: Parts, site: Site) -> None:
    """Run each method whole, in two halves, and whole again."""
    for method, name in one_per_method(site).items():
        parts.run(method, lambda name=name: resumed(name, site))  # type: ignore[misc]


def resumed(name: str, site: Site) -> dict[str, Any]:
    """Compare a run of 2N steps with one that was stopped after N and went on, and with a second one."""
    with shrunk(RESUMED, site.folder / "resume", site.device) as (place, load):
        experiment = resolve(load(name, [f"schedule.report_every={RESUMED // 2}"]))
        directory = place.workspace.run(experiment.run_id)
        results = []
        for stops in (False, True, False):
            shutil.rmtree(directory.path, ignore_errors=True)
            if stops:
                with suppress(Interrupted):
                    run(experiment, replace(place, until=RESUMED // 2))
            run(experiment, place)
            results.append(outcome(directory, experiment))
    whole, halves, again = results
    return {"recipe": name, "resumed": difference(whole, halves), "repeated": difference(whole, again)}


def outcome(directory: RunDirectory, experiment: Experiment) -> dict[str, Any]:
    """Return what must not depend on how a run went: the losses that it reported and its student's weights."""
    rows = [{key: value for key, value in row.items() if key.startswith("loss/")} for row in directory.rows()]
    has_student = experiment.recipe.student is not None
    return {"losses": rows, "student": load_file(directory.student) if has_student else {}}


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return whether two outcomes are equal bit by bit, and the largest relative differences if not."""
    pairs = [(a[k], b.get(k, math.nan)) for a, b in zip(one["losses"], other["losses"], strict=True) for k in a]
    losses = max((abs(a - b) / max(abs(a), 1e-12) for a, b in pairs), default=0.0)
    weights = max(
        (float((a - other["student"][key]).abs().max()) for key, a in one["student"].items() if a.numel()), default=0.0
    )
    return {"equal": losses == 0 and weights == 0, "losses": losses, "weights": weights}


class _Asked(TorchDispatchMode):
    """Counts what would make the host wait for a device: reading a number, or a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).partition(".")[2].partition(".")[0] or str(func)
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2"):
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def syncs(parts: Parts, site: Site) -> None:
    """Count how often a step of each method makes the host wait for the device, and where."""
    for method, name in one_per_method(site).items():
        parts.run(method, lambda name=name: waits(name, site))  # type: ignore[misc]


def waits(name: str, site: Site) -> dict[str, Any]:
    """Count the waits of one step behind the warm-up; by CUDA's debug mode, elsewhere by what would be one."""
    with shrunk(RESUMED, site.folder / "syncs", site.device) as (place, load):
        experiment = resolve(load(name))
        for source in (experiment.teacher, experiment.bank):
            if source is not None:
                run(source, place)
        make_image_sets(experiment, place.world, place.workspace)
        built = build(experiment, place.world, place.runtime, place.workspace)
        for step in range(WARM_UP):
            built.method.step({role: stream.batch(step) for role, stream in built.streams.items()})
        batches = {role: stream.batch(WARM_UP) for role, stream in built.streams.items()}
        counted = on_cuda(built.method.step, batches) if site.on_gpu else on_cpu(built.method.step, batches)
    return {"recipe": name, "waits": sum(counted.values()), "where": dict(counted)}


def on_cuda(step: Any, batches: Any) -> Counter[str]:
    """Return the waits of a step by the line that causes them, as CUDA's debug mode tells."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = [w for w in found if "synchroniz" in str(w.message)]
    return Counter(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in lines)


def on_cpu(step: Any, batches: Any) -> Counter[str]:
    """Return, by the operation, what would be waits on a device."""
    asked = _Asked()
    with asked:
        step(batches)
    return asked.count
