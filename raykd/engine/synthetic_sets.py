"""Frozen sets of generated images, named in a recipe by their generators' run: to train on, or to be judged on.

<store>/synthetic/<run id of the generators>-<number of images>/   see raykd.artifacts.synthetic_set
"""

from torch import nn

from raykd.data.datasets import train_spec
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator
from raykd.recipe.experiment import Experiment
from raykd.spec import DataSpec
from raykd.store.workspace import Workspace


def on_stored_sets(experiment: Experiment, workspace: Workspace) -> Experiment:
    """Return a run whose sets are kept in the store, those of its bank's images too, on the folders where they lie."""
    images, recipe = experiment.training_set, experiment.recipe
    data = workspace.located(recipe.data)
    if images is None:
        return experiment.with_recipe(recipe.model_copy(update={"data": data}))
    data = data.model_copy(update={"train": str(workspace.store / images.name)})
    return experiment.with_recipe(recipe.model_copy(update={"bank": None, "data": data}))


def referee_evaluator(
    experiment: Experiment,
    spec: DataSpec,
    world: World,
    teacher: nn.Module | None,
    opened: OpenedData,
    workspace: Workspace,
) -> Evaluator | None:
    """Return the evaluator on the referee's images, of agreement alone; None where the recipe has no referee."""
    images = experiment.referee_set
    if images is None:
        return None
    folder = str(workspace.store / images.name)
    input_spec = train_spec(folder, spec, workspace.data)
    return Evaluator(opened.open("train", folder, "train", input_spec), input_spec, world, teacher, labelled=False)
