"""Steps of ImageNet's shapes with networks of random weights: their time and memory, and what a plan foretells.

A plan's small trials foretell; then the planned size itself is run. Hours of whole recipes follow from its step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gpu.parts import Parts
from gpu.site import Site
from plan_accuracy import compare, with_weights

from raykd.config.runtime import Runtime
from raykd.planning.predict import TrialSite, measure, predict
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace

STEPS, SMALL_STEPS = 10, 1


@dataclass(frozen=True)
class Case:
    """A recipe at its true shape; ``small`` is added on a CPU. ``wave`` generators are trained at once."""

    title: str
    recipe: str
    overrides: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    wave: int | None = None
    small_wave: int | None = None


_TINY = ("data.size=32", "schedule.global_batch=8")
CASES = (
    Case("a CDA job of 100 classes at 224 from ResNet-18", "cda_imagenet_images", small=_TINY),
    Case(
        "a CDA job of 100 classes at 224 from ResNet-50",
        "cda_imagenet_images",
        ("teacher.model=torchvision/resnet50",),
        _TINY,
    ),
    Case(
        "a wave of 32 generators at 128 pixels under ResNet-50",
        "lsgdfd_imagenet_bank",
        small=("data.size=32", "schedule.global_batch=2000", "method.generator.width=8"),
        wave=32,
        small_wave=4,
    ),
    Case(
        "a student ResNet-18 at 224 from ResNet-18, batch 256",
        "cda_imagenet_resnet18",
        ("schedule.global_batch=256",),
        _TINY,
    ),
    Case(
        "a student ResNet-50 at 224 from ResNet-18, batch 256",
        "cda_imagenet_resnet18",
        ("schedule.global_batch=256", "student.model=torchvision/resnet50"),
        _TINY,
    ),
)


def imagenet(parts: Parts, site: Site) -> None:
    """Foretell and measure each case, on a CPU small ones."""
    for case, precision in listed(site):
        parts.run(f"{case.title}, {precision}", lambda case=case, p=precision: foretold(case, p, site))  # type: ignore[misc]


def listed(site: Site) -> Iterator[tuple[Case, str]]:
    """Yield the cases in bfloat16, then in float32; to rehearse, that of a bank and one of a student."""
    for precision in ("bf16",) if site.small else ("bf16", "fp32"):
        for case in CASES[2:4] if site.small else CASES:
            yield case, precision


def foretold(case: Case, precision: str, site: Site) -> dict[str, Any]:
    """Return what a plan foretells of a step, what it takes, and the hours of the whole recipe at that pace."""
    folder = site.folder / "imagenet"
    folder.mkdir(parents=True, exist_ok=True)
    wave, steps = (case.small_wave, SMALL_STEPS) if site.small else (case.wave, STEPS)
    overrides = [*case.overrides, *(case.small if site.small else ())]
    workspace = Workspace(site.data, folder / "runs")
    recipe = with_weights(load_recipe(case.recipe, overrides), workspace, folder)
    store = folder / f"{case.recipe}-{len(list(folder.iterdir()))}"
    trials = TrialSite(workspace)
    runtime = Runtime.model_validate({"precision": precision, "wave": wave, "compile": "off"})
    predicted = predict(resolve(recipe), runtime, trials, store, memory=None, direct=False, steps=steps)
    found = measure(predicted.experiment, runtime, trials, store, steps)
    axis, seconds = predicted.axis, found["seconds"]
    images = axis.shares["images_per_worker"]
    # At its own batch the recipe takes as many images in as many more hours.
    larger = load_recipe(case.recipe).schedule.global_batch / recipe.schedule.global_batch
    return {
        "recipe": shown(case, overrides),
        "images": images,
        "images_per_second": images / seconds,
        "hours": larger * seconds * recipe.schedule.steps * len(axis.stages) / 3600,
        "steps": recipe.schedule.steps * len(axis.stages),
        "device": found["device"],
        "against_plan": compare(predicted, found),
    }


def shown(case: Case, overrides: list[str]) -> str:
    """Return recipe and overrides as they are typed."""
    return " ".join([case.recipe, *overrides])
