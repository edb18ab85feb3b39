"""The objectives of a search, and the metrics by which a run measures them: never on the test split."""

from collections.abc import Mapping
from typing import Literal

from raykd.errors import UsageError
from raykd.methods import METHODS
from raykd.recipe.recipe import Recipe
from raykd.results import why_not_judged

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "agreement": "maximize",
    "accuracy": "maximize",
    "parameters": "minimize",
    "latency": "minimize",
    "gpu_hours": "minimize",
}
"""Name and direction; in per cent, per cent, a count, milliseconds, hours."""


def default_objective(recipe: Recipe) -> str:
    """Return the objective of a space that names none.

    It is agreement for data-free recipes: no real image may choose their hyper-parameters.
    """
    synthetic = recipe.referee is not None or recipe.bank is not None
    return "accuracy" if "train" in METHODS[recipe.method.name].streams and not synthetic else "agreement"


def metric_name(objective: str, recipe: Recipe) -> str | None:
    """Return the metric by which a run of the recipe reports an objective; None if it is measured once, at the end.

    No metric is of the test split. Those of real images are of a part that is held out of the training.

    Raises:
        UsageError: if such a run does not measure the objective.
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


def read_metric(metric: str, row: Mapping[str, float]) -> float:
    """Return a metric of a report's row that has it; 0, the worst, for a blind agreement that is not to be judged."""
    return 0.0 if metric == "blind/agreement" and why_not_judged(row) else row[metric]
