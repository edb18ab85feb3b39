"""A teacher of all classes of a set for data that are some of these, such as ImageNet-100 of ImageNet."""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from raykd.errors import UsageError
from raykd.recipe.sections import NetworkConfig, TeacherConfig
from raykd.spec import ClassSubset, DataSpec

logger = logging.getLogger(__name__)


def build_for_subset(
    config: NetworkConfig | TeacherConfig,
    spec: DataSpec,
    subset: ClassSubset,
    build: Callable[[NetworkConfig | TeacherConfig, DataSpec], nn.Module],
) -> nn.Module:
    """Build a teacher whose weights may be those for all classes of the set of which the data are a part.

    Of such weights those rows of the last layer are taken that answer for the data's classes, so that its
    probabilities are those of an image that is known to be of one of these.

    Args:
        config: of the teacher, with its weights.
        spec: of the data.
        subset: which classes these are.
        build: makes the network of a config for data of a spec.

    Raises:
        UsageError: if the weights are for another number of classes than both.
    """
    own = replace(spec, part_of=None)
    try:
        return build(config, own)
    except UsageError as error:
        try:
            whole = build(config, replace(own, num_classes=subset.classes, class_names=()))
        except UsageError:
            raise error from None
    network = build(config.model_copy(update={"weights": None}), own)
    labels, expected, state = torch.tensor(subset.labels), network.state_dict(), whole.state_dict()
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape and len(tensor) == subset.classes:
            state[name] = tensor[labels]
    network.load_state_dict(state)
    logger.info("of the teacher's %d classes, the %d of data %r are taken", subset.classes, len(labels), spec.name)
    return network
