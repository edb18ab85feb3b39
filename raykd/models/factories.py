"""Architectures from a user's module: code, which runs only where ``raykd.models.permission`` has it permitted."""

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from raykd.errors import UsageError, did_you_mean
from raykd.models import in_memory
from raykd.surroundings import find_module, folder_searched

logger = logging.getLogger(__name__)


def load_factory(target: str, arguments: Mapping[str, Any] | None = None, **sizes: Any) -> nn.Module:
    """Call the function (or class) ``target``, written ``module:function``, and return its network.

    The module is the installed one, else that of the current directory; from which file it came is logged. What a
    module of that directory imports may lie beside it, and installed packages come before. ``in-memory:NAME`` is a
    network that this process was given as an object (see ``raykd.models.in_memory``).

    Args:
        target: the function.
        arguments: what to call it with.
        sizes: given beside them where the function has parameters of these names.

    Raises:
        UsageError: no such module or function, arguments it does not take, an error in it, or another result.
    """
    if target.startswith(in_memory.PREFIX):
        return in_memory.build_registered(target)
    module_name, attribute = split_target(target)
    with folder_searched(str(Path.cwd()), module_name):
        function = _find(module_name, attribute)
        given = {**_parameters_among(function, sizes), **(arguments or {})}
        _check_call(function, given, target)
        try:
            network = function(**given)
        except (Exception, SystemExit) as error:  # the user's own code: it may fail in any way
            raise UsageError(f"factory {target} failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"factory {target} returned a {type(network).__name__}; it must return an nn.Module")
    return network


def call_arguments(target: str, arguments: Mapping[str, Any] | None = None, **sizes: Any) -> dict[str, Any]:
    """Return what ``load_factory`` calls the function with; its module is imported.

    Raises:
        UsageError: no such module or function.
    """
    module_name, attribute = split_target(target)
    with folder_searched(str(Path.cwd()), module_name):
        return {**_parameters_among(_find(module_name, attribute), sizes), **(arguments or {})}


def split_target(target: str) -> tuple[str, str]:
    """Return module and function of ``module:function``.

    Raises:
        UsageError: if it is anything else.
    """
    module_name, _, attribute = target.partition(":")
    if not (module_name and attribute):
        raise UsageError(f"factory must be 'module:function', got {target!r}")
    return module_name, attribute


def module_file(target: str) -> str | None:
    """Return the file that ``load_factory`` would take the module of ``target`` from; nothing is imported for that.

    None if there is no such module, or it is no file.
    """
    return find_module(split_target(target)[0], str(Path.cwd()))


def first_line(error: BaseException) -> str:
    """Return the first line of what the user's own code says of an error, cut to a line's length."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "without a word")[:300]


def _check_call(function: Callable[..., object], given: Mapping[str, Any], target: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a builtin, which may have none
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        raise UsageError(
            f"factory {target} cannot be called with {dict(given)}: {error}; set 'factory_args' to its arguments, as "
            f"in {{num_classes: 10}}; it is {split_target(target)[1]}{signature}"
        ) from error


def _parameters_among(function: Callable[..., object], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that the function has a parameter of this name for."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return {}
    named = {name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return {name: value for name, value in values.items() if name in named}


def _no_module(module_name: str) -> UsageError:
    """Return the error for a module that is not there; of a file's path say how its module is written."""
    dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
    hint = f"did you mean {dotted!r}? Else " if dotted and dotted != module_name else ""
    return UsageError(
        f"no module {module_name!r} for the factory, neither on sys.path nor in {Path.cwd()}; {hint}"
        "install it or start from the directory that holds it"
    )


def _find(module_name: str, attribute: str) -> Callable[..., object]:
    if module_name.startswith("."):  # to Python relative to a package, of which there is none
        raise _no_module(module_name)
    importlib.invalidate_caches()
    was_loaded = module_name in sys.modules
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise UsageError(f"factory module {module_name!r} needs {missing!r}: {error}") from error
        raise _no_module(module_name) from error
    except (Exception, SystemExit) as error:  # the user's own code: it may fail in any way
        raise UsageError(
            f"importing factory module {module_name!r} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    file = getattr(module, "__file__", None)
    if not was_loaded:
        logger.info("factory module %s: loaded from %s", module_name, file)
    candidate = getattr(module, attribute, None)
    if not callable(candidate):
        hint = did_you_mean(attribute, [name for name in vars(module) if not name.startswith("_")])
        raise UsageError(f"module {module_name!r} ({file}) has no function {attribute!r}{hint}")
    function: Callable[..., object] = candidate
    return function
