"""Make a classifier of any author run as the engine runs networks: on batches of images in, logits out.

What is tried here is tried on a copy, with images and a random state of its own, so a network and the process are as
before. Hooks carry what has to change: they are no part of the network's tensors, and go along with copies of it.

B images of C channels and S x S pixels, K classes.
"""

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from raykd.errors import UsageError
from raykd.models.factories import first_line
from raykd.models.image_classifier import pick_logits

logger = logging.getLogger(__name__)

RETURN_LOGITS = "return the logits [B, C] as one tensor, or an object that has them as .logits"
BATCH_DEPENDENT = (
    "its answer to an image depends on the images around it, as with BatchNorm without running statistics: give a "
    "network that keeps them (track_running_stats), or figures depend on how images are batched"
)
_PROBES = 4
_TOLERANCE = 1e-3  # of logits of two memory layouts, relative to their largest


class PickOutput:
    """A forward hook that takes the logits out of what a network returns: an index, a key or an attribute."""

    def __init__(self, place: int | str | None) -> None:
        """Remember where they are; None takes a tensor as it is, or the attribute ``logits``."""
        self.place = place

    def __call__(self, network: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return the logits; what cannot be found is left as it is, to be refused with what was returned."""
        return pick_logits(output, self.place)


class ContiguousInput:
    """A forward pre-hook that gives a network its images row by row, whatever layout they come in."""

    def __call__(self, network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments with contiguous images."""
        # Of images of one channel the strides tell channels_last even where they are contiguous.
        return (args[0].contiguous().reshape(-1).view(args[0].shape), *args[1:])


class CopiedInput:
    """A forward pre-hook for a network that writes into its images: it is given a copy."""

    def __call__(self, network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments with a copy of the images."""
        return (args[0].clone(), *args[1:])


def materialise(network: nn.Module, shape: tuple[int, int, int], role: str) -> None:
    """Let lazy layers take their sizes from images [C, S, S]; weights can be loaded only then.

    Raises:
        UsageError: if the network does not take such images.
    """
    if any(isinstance(module, LazyModuleMixin) and module.has_uninitialized_params() for module in network.modules()):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            was_training = network.training
            _run(network.eval(), torch.zeros(2, *shape), role)
            network.train(was_training)


def check_images(network: nn.Module, shape: tuple[int, int, int], role: str) -> None:
    """Refuse images [C, S, S] that a network does not take.

    Raises:
        UsageError: saying why.
    """
    was_training = network.training
    _run(network.eval(), torch.zeros(2, *shape), role)
    network.train(was_training)


def adapt(
    network: nn.Module, shape: tuple[int, int, int], num_classes: int, role: str, output: int | str | None = None
) -> nn.Module:
    """Return a network that takes images of any memory layout and returns logits [B, K], in the faster layout it takes.

    That is channels_last if the network then computes the same, forwards and backwards; else, as where it flattens by
    ``.view``, the network stays contiguous, and this is logged.

    Args:
        network: a classifier; it is changed.
        shape: of an image [C, S, S].
        num_classes: K.
        role: what to call it in an error, "teacher" or "student".
        output: where in what it returns the logits are: an index, a key or an attribute.

    Raises:
        UsageError: if it does not take such images, or returns anything but their logits.
    """
    try:
        network.register_forward_hook(PickOutput(output))
        copy.deepcopy(network)
    except Exception as error:  # a scripted network takes no hooks, and some hold what cannot be copied
        raise UsageError(
            f"the {role} cannot be copied or watched ({type(error).__name__}: {first_line(error)}): give a plain "
            "nn.Module"
        ) from None
    images = torch.randn(_PROBES, *shape, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        shown = images.clone()
        logits = _run(copy.deepcopy(network).eval(), shown, role)
        _check_logits(logits, num_classes, role)
        if role == "student":
            _check_trainable(copy.deepcopy(network), images, num_classes)
        if not torch.equal(shown, images):
            logger.info("the %s writes into the images it is given: it is given copies", role)
            network.register_forward_pre_hook(CopiedInput())
        if depends_on_batch(copy.deepcopy(network).eval(), images):
            logger.warning("the %s: %s", role, BATCH_DEPENDENT)
        obstacle = _obstacle_to_channels_last(network, images, logits)
    if obstacle is None:
        return network.to(memory_format=torch.channels_last)  # the faster layout for convolutions
    logger.info("note: the %s runs in the contiguous memory layout, which it needs; its results are the same", role)
    logger.debug("in channels_last: %s", obstacle)
    network.register_forward_pre_hook(ContiguousInput())
    return network.to(memory_format=torch.contiguous_format)


def depends_on_batch(network: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """Return whether logits [B, K] of images change with the images around them, or cannot be had of one alone."""
    try:
        with torch.no_grad():
            logits = network(images)
            alone = torch.cat([network(image) for image in images.split(1)])
    except Exception:  # of the user's own code, such as BatchNorm without statistics, of one value a channel
        return True
    return alone.shape != logits.shape or not _are_close(alone, logits)


def _obstacle_to_channels_last(network: nn.Module, images: Tensor, expected: Tensor) -> str | None:
    """Return why the network cannot run in channels_last, or None if it computes the same there, gradients too."""
    candidate = copy.deepcopy(network).to(memory_format=torch.channels_last)
    turned = images.to(memory_format=torch.channels_last)
    try:
        for training in (False, True):
            shown = turned.clone(memory_format=torch.preserve_format).requires_grad_()
            # Not the leaf itself, which a network that writes into its images could not write into.
            logits = candidate.train(training)(shown * 1)
            if not training and not _are_close(logits, expected):
                return "it computes other logits there"
            logits.float().sum().backward()
    except Exception as error:  # of the user's own code: it may fail in any way
        return first_line(error)
    return None


def _are_close(logits: Tensor, expected: Tensor) -> bool:
    difference = (logits.detach() - expected).abs().max()
    return not bool(difference > _TOLERANCE * expected.abs().max().clamp(min=1e-6))


def _run(network: nn.Module, images: Tensor, role: str) -> Any:
    try:
        with torch.no_grad():
            return network(images)
    except (Exception, SystemExit) as error:  # of the user's own code: it may fail in any way
        size = " x ".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the {role} does not take images of {size} ({type(error).__name__}: {first_line(error)}); set data.size "
            "or another network"
        ) from None


def _check_trainable(student: nn.Module, images: Tensor, num_classes: int) -> None:
    """Refuse a student that cannot take a step: a forward and a backward pass in training mode."""
    try:
        logits = student.train()(images.clone() * 1)
        _check_logits(logits, num_classes, "student")
        logits.float().sum().backward()
    except UsageError:
        raise
    except Exception as error:  # of the user's own code: it may fail in any way
        raise UsageError(
            f"the student cannot be trained ({type(error).__name__}: {first_line(error)}): its logits in training mode "
            "must be a tensor [B, C] that depends on parameters that require a gradient"
        ) from None


def _check_logits(logits: Any, num_classes: int, role: str) -> None:
    is_number = isinstance(logits, Tensor) and logits.is_floating_point() and not logits.is_meta
    if not is_number or logits.dim() != 2 or len(logits) != _PROBES:
        raise UsageError(
            f"the {role} returns {_describe(logits)} for {_PROBES} images; {RETURN_LOGITS}, or set '{role}.output' to "
            "where they are, as in 0 or logits"
        )
    if logits.shape[1] != num_classes:
        raise UsageError(f"the {role} has {logits.shape[1]} classes, the data has {num_classes}; they must be equal")


def _describe(value: Any) -> str:
    """Say what a network returned, one level deep."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {', '.join(f'{key}: {_short(one)}' for key, one in value.items())}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(map(_short, value))}"
    if dataclasses.is_dataclass(value):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return f"a {type(value).__name__} with {', '.join(f'{name}: {_short(one)}' for name, one in fields)}"
    return f"a {type(value).__name__}"


def _short(value: Any) -> str:
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
