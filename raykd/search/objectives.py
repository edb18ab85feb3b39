"""What a search may want of a student, and how a run measures it: never on the test split."""

from typing import Literal

from raykd.errors import UsageError
from raykd.methods import METHODS
from raykd.recipe.recipe import Recipe

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "agreement": "maximize",
    "accuracy": "maximize",
    "parameters": "minimize",
    "latency": "minimize",
    "gpu_hours": "minimize",
}
"""Name and direction; in per cent, per cent, a count, milliseconds, hours."""


def default_objective(recipe: Recipe) -> str:
    """Return what a search wants where the space does not say: no real image picks a data-free hyper-parameter."""
    synthetic = recipe.referee is not None or recipe.bank is not None
    return "accuracy" if "train" in METHODS[recipe.method.name].streams and not synthetic else "agreement"


def reported_as(objective: str, recipe: Recipe) -> str | None:
    """Return the name under which a run of the recipe reports an objective; None for one that is told at its end.

    The test split is never one of them. What is measured on real images takes a part that is held out of the training.

    Raises:
        UsageError: if such a run does not measure it.
    """
    method = METHODS[recipe.method.name]
    if objective == "accuracy":
        if "train" not in method.streams:
            raise UsageError(
                f"objective 'accuracy' is measured on labelled images held out of the training, and method "
                f"{recipe.method.name!r} opens none: take agreement"
            )
        return "holdout/accuracy/top1"
    if "student" not in method.roles:
        raise UsageError(f"method {recipe.method.name!r} trains no student, of which {objective!r} could be told")
    if objective != "agreement":
        return None
    if "teacher" not in method.roles:
        raise UsageError(
            f"objective 'agreement' is that with a teacher, and method {recipe.method.name!r} has none: take accuracy"
        )
    if recipe.referee is not None:
        return "referee/agreement"
    return "blind/agreement" if method.makes_images else "holdout/agreement"
