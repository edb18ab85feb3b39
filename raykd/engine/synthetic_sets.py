"""Frozen sets of generated images, named in a recipe by their generators' run, to train on.

<store>/synthetic/<run id of the generators>-<number of images>/   see raykd.artifacts.synthetic_set
"""

from raykd.recipe.experiment import Experiment
from raykd.store.workspace import Workspace


def on_stored_sets(experiment: Experiment, workspace: Workspace) -> Experiment:
    """Return a run whose sets are kept in the store, those of its bank's images too, on the folders where they lie."""
    images, recipe = experiment.training_set, experiment.recipe
    data = workspace.located(recipe.data)
    if images is None:
        return experiment.with_recipe(recipe.model_copy(update={"data": data}))
    data = data.model_copy(update={"train": str(workspace.store / images.name)})
    return experiment.with_recipe(recipe.model_copy(update={"bank": None, "data": data}))
