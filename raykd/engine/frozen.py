"""Frozen sets of generated images that recipes name by the run of their generators: where they lie, who is shown them.

<store>/synthetic/<run id of the generators>-<number of images>/   see raykd.data.synthetic
"""

from pathlib import Path

from torch import nn

from raykd.data.datasets import train_spec
from raykd.data.ledger import OpenedData
from raykd.data.spec import DataSpec
from raykd.engine.evaluate import Exam
from raykd.parallel import World
from raykd.recipe import Recipe, generators_run
from raykd.recipe_sections import BankConfig


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


def referee_exam(
    recipe: Recipe,
    spec: DataSpec,
    world: World,
    teacher: nn.Module | None,
    opened: OpenedData,
    roots: tuple[Path, Path | None],
) -> Exam | None:
    """Return the exam on the referee's images, of agreement alone; ``roots`` are the store's and the data's."""
    if recipe.referee is None:
        return None
    store, data_root = roots
    folder = str(set_folder(recipe.referee, store))
    shown = train_spec(folder, spec, data_root)
    return Exam(opened.open("train", folder, "train", shown), shown, world, teacher, labelled=False)
