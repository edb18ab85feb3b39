"""Frozen sets of generated images that recipes name by the run of their generators: where they lie, who is shown them.

<store>/synthetic/<run id of the generators>-<number of images>/   see raykd.artifacts.synthetic_set
"""

from pathlib import Path

from torch import nn

from raykd.data.datasets import train_spec
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator
from raykd.recipe.recipe import Recipe, generators_run
from raykd.recipe.sections import BankConfig
from raykd.spec import DataSpec


def set_folder(generators: BankConfig, store: Path) -> Path:
    """Return where the set of these generators lies; recipes that name the same share it."""
    source = generators_run(generators)
    return store / "synthetic" / f"{source.run_id if source else generators.run}-{generators.images}"


def on_frozen_set(recipe: Recipe, store: Path) -> Recipe:
    """Return a recipe that trains on its bank's images as one that trains on the folder where they lie."""
    if recipe.bank is None or recipe.bank.images is None:
        return recipe
    folder = str(set_folder(recipe.bank, store))
    return recipe.model_copy(update={"bank": None, "data": recipe.data.model_copy(update={"train": folder})})


def referee_evaluator(
    recipe: Recipe,
    spec: DataSpec,
    world: World,
    teacher: nn.Module | None,
    opened: OpenedData,
    workspace: tuple[Path, Path | None],
) -> Evaluator | None:
    """Return the exam on the referee's images, of agreement alone; ``workspace`` are the store's and the data's."""
    if recipe.referee is None:
        return None
    store, data_root = workspace
    folder = str(set_folder(recipe.referee, store))
    shown = train_spec(folder, spec, data_root)
    return Evaluator(opened.open("train", folder, "train", shown), shown, world, teacher, labelled=False)
