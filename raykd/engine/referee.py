"""The referee: images of several runs' generators, on which all students of a search are judged and none learns.

Any one run may have failed. So the images of all are pooled, those of a run that shows few classes are left out, and
the score is a mean over the classes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from raykd.data.datasets import Images, train_spec
from raykd.data.ledger import OpenedData
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.engine.blind_pool import balanced_score, class_credit
from raykd.errors import RunFailed
from raykd.models.logits import compute_logits
from raykd.recipe.experiment import Experiment
from raykd.results import COVERAGE, why_not_judged
from raykd.spec import DataSpec
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_BATCH = 500


@dataclass(frozen=True)
class Source:
    """A run's images, how they are normalised, the teacher's logits of this worker's share, what is against them."""

    run: str
    images: Images
    spec: DataSpec
    teacher_logits: Tensor
    fault: str | None


class Referee:
    """Scores any student on the pooled images of sources; those with a fault are left out where others have none."""

    def __init__(self, sources: Sequence[Source], world: World) -> None:
        """Take one source or more."""
        self._faults = [f"{one.run}: {one.fault}" for one in sources if one.fault]
        used = [one for one in sources if not one.fault]
        self._fails = not used
        self._sets = [(one.images, one.spec) for one in used or sources]
        self._teacher_logits = torch.cat([one.teacher_logits for one in used or sources])
        self._world = world

    def check(self) -> None:
        """Tell what was left out.

        Raises:
            RunFailed: if all of it should have been.
        """
        told = "; ".join(self._faults)
        if self._fails:
            raise RunFailed(
                f"the referee's images are not to be judged by ({told}): train its generators longer, or name others, "
                "as in 'referee=[{recipe: R, seed: 1, images: 1000}]'"
            )
        if told and self._world.rank == 0:
            logger.warning("left out of the referee's images: %s", told)

    def score(self, student: nn.Module) -> dict[str, float]:
        """Return agreement and KL of a student, see ``balanced_score``; every worker must call it."""
        return balanced_score(_answers(student, self._sets, self._world), self._teacher_logits, self._world)


def open_referee(
    experiment: Experiment,
    spec: DataSpec,
    world: World,
    teacher: nn.Module | None,
    opened: OpenedData,
    workspace: Workspace,
) -> Referee | None:
    """Return the referee of a run; None where the recipe has none. Every worker must call it."""
    sources = []
    for one in dict.fromkeys(experiment.referee_sets):
        assert teacher is not None, "validated by the recipe"
        folder = str(workspace.store / one.name)
        input_spec = train_spec(folder, spec, workspace.data)
        images = opened.open("train", folder, "train", input_spec)
        logits = _answers(teacher, [(images, input_spec)], world)
        shown = world.sum(class_credit(logits.argmax(1), spec.num_classes, world).sum()).item()
        fault = why_not_judged({COVERAGE: 100 * shown})
        sources.append(Source(one.run, images, input_spec, logits, fault))
    return Referee(sources, world) if sources else None


def _answers(network: nn.Module, sets: Sequence[tuple[Images, DataSpec]], world: World) -> Tensor:
    batches = (evaluation_batches(images, spec, world, _BATCH) for images, spec in sets)
    return compute_logits(network, (batch.images for batch in chain.from_iterable(batches)), world)
