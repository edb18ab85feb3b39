"""Networks that a program holds as objects: recipes name them by what they are, and one process knows them by that."""

import copy
import hashlib
import json
import re

import torch
from torch import nn

from raykd.errors import UsageError

PREFIX = "in-memory:"
"""How a recipe's ``factory`` begins that is such a network; no module of Python's is called so."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_NETWORKS: dict[str, nn.Module] = {}


def register(network: nn.Module) -> str:
    """Keep a copy of a network for this process; return the name that recipes have for it.

    The name tells its class, its layers and the shapes of its tensors, not their values, so equal networks of another
    process are called alike.

    Raises:
        UsageError: if it cannot be copied.
    """
    kind = type(network)
    shapes = {key: [list(tensor.shape), str(tensor.dtype)] for key, tensor in network.state_dict().items()}
    content = [kind.__module__, kind.__qualname__, _ADDRESS.sub("", repr(network)), shapes]
    name = PREFIX + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    _NETWORKS[name] = copy_network(network).cpu()
    return name


def build_registered(name: str) -> nn.Module:
    """Return a copy of a network by the name that ``register`` returned.

    Raises:
        UsageError: if this process was given no such network.
    """
    network = _NETWORKS.get(name)
    if network is None:
        raise UsageError(
            f"{name} was a network in the memory of the program that began this run: give it again, as teacher=NETWORK "
            "or student=NETWORK to raykd.train, evaluate, export or load"
        )
    return copy_network(network)


def copy_network(network: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with a network.

    Raises:
        UsageError: if it cannot be copied.
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:  # of the user's own code: it may fail in any way
        raise UsageError(
            f"the {type(network).__name__} cannot be copied ({type(error).__name__}: {error}): give it as "
            "'factory: module:function' with a file of weights"
        ) from error


def same_network(one: nn.Module, other: nn.Module, images: torch.Tensor) -> bool:
    """Tell whether two networks have the same layers, and with the same weights the same answers to ``images``.

    ``one`` is given the weights of the other.
    """
    theirs = other.state_dict()
    own = {key: tensor.shape for key, tensor in one.state_dict().items()}
    if type(one) is not type(other) or own != {key: tensor.shape for key, tensor in theirs.items()}:
        return False
    if _ADDRESS.sub("", repr(one)) != _ADDRESS.sub("", repr(other)):
        return False
    one.load_state_dict(theirs)
    with torch.no_grad():
        answers = [copy_network(network).cpu().eval()(images) for network in (one, other)]
    return all(isinstance(answer, torch.Tensor) for answer in answers) and torch.equal(*answers)
