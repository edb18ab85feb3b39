"""The source of a built-in network by itself: one file of Python that needs torch alone.

It is put together from the modules of this package that define the network, as they stand: what these import of raykd
is written into it before them. Nothing of a run's own text is in it but as Python's literals.
"""

import ast
import inspect
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import raykd
from raykd.models import find_builder
from raykd.models import image_classifier as wrapper
from raykd.models.published import TIMM, TORCHVISION
from raykd.spec import DataSpec

_PACKAGE, _ERRORS = "raykd.", "raykd.errors"
_ERROR_CLASS = '''class UsageError(ValueError):
    """A network that cannot be built in such a size."""
'''


class _Part(NamedTuple):
    """What of a module stands in the file: what it imports from elsewhere, and the rest."""

    imports: frozenset[str]
    text: str


def network_source(model: str, spec: DataSpec) -> str:
    """Return a module whose ``build()`` returns a built-in model, untrained, as an ``ImageClassifier``.

    Args:
        model: a name that ``build_model`` knows.
        spec: what the network expects and answers.

    Raises:
        UsageError: if there is no such model.
    """
    sizes = {"num_classes": spec.num_classes, "channels": spec.channels, "size": spec.size}
    parts: list[_Part]
    if model.startswith(TORCHVISION):
        from raykd.models.torchvision_zoo import torchvision_arguments

        arguments = torchvision_arguments(model.removeprefix(TORCHVISION), spec.num_classes, spec.size)
        imports, parts = {"from torchvision.models import get_model"}, []
        call = f"get_model({_arguments((), arguments)})"
    elif model.startswith(TIMM):
        from raykd.models.timm_zoo import timm_arguments

        arguments = timm_arguments(model.removeprefix(TIMM), **sizes)
        imports, parts = {"from timm import create_model"}, []
        call = f"create_model({_arguments((), arguments)})"
    else:
        found = find_builder(model)
        built = found if isinstance(found, partial) else partial(found)
        function, args, keywords = built.func, built.args, {**sizes, **built.keywords}
        imports, parts = set(), _parts_of(import_module(function.__module__))
        call = f"{function.__name__}({_arguments(args, keywords)})"
    header = f"# The network {model!r}, written by raykd {raykd.__version__} from its own source (Apache-2.0)."
    return _whole(header, imports, parts, call, spec)


def factory_source(
    module: str, function: str, arguments: dict[str, Any], spec: DataSpec, output: int | str | None
) -> str:
    """Return a module whose ``build()`` calls a user's function, whose own module must be there to be imported.

    Args:
        module: its name.
        function: in it.
        arguments: plain values.
        spec: what the network expects and answers.
        output: where the logits are in what the network returns.
    """
    imports = {"from importlib import import_module"}
    call = f"getattr(import_module({module!r}), {function!r})({_arguments((), arguments)})"
    header = f"# Written by raykd {raykd.__version__}. It imports {module!r}, which is not part of it."
    return _whole(header, imports, [], call, spec, output)


def _whole(
    header: str, imports: set[str], parts: list[_Part], call: str, spec: DataSpec, output: int | str | None = None
) -> str:
    parts = [*parts, *_parts_of(wrapper)]
    lines = sorted(imports.union(*(part.imports for part in parts)), key=lambda line: (line.startswith("from"), line))
    errors = [_ERROR_CLASS] if any("UsageError" in part.text for part in parts) else []
    place = "" if output is None else f", output={output!r}"
    build = f'''def build() -> ImageClassifier:
    """Build the network, whose weights are still to be loaded into its ``network``."""
    network = {call}
    return ImageClassifier(network, mean={spec.mean!r}, std={spec.std!r}, pad={spec.pad!r}{place})
'''
    return "\n".join([header, "", *lines]) + "\n\n\n" + "\n\n".join([*errors, *(part.text for part in parts), build])


def _arguments(args: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    positional = [one.__name__ if isinstance(one, type) else repr(one) for one in args]
    if all(name.isidentifier() for name in keywords):
        return ", ".join([*positional, *(f"{name}={value!r}" for name, value in keywords.items())])
    return ", ".join([*positional, f"**{keywords!r}"])


def _parts_of(module: ModuleType) -> list[_Part]:
    """Return modules of this package that a module needs, itself last: each with what it imports from elsewhere."""
    source = inspect.getsource(module)
    lines, begin = source.splitlines(), 0
    before: list[_Part] = []
    imports: set[str] = set()
    kept: list[str] = []
    for node in ast.parse(source).body:
        assert node.end_lineno is not None, "it was parsed"
        text = lines[begin : node.end_lineno]  # with the comments before it
        begin = node.end_lineno
        if isinstance(node, ast.Import | ast.ImportFrom):
            name = node.module if isinstance(node, ast.ImportFrom) else None
            if name is not None and name.startswith(_PACKAGE):
                if name != _ERRORS:
                    before += [part for part in _parts_of(import_module(name)) if part not in before]
            else:
                imports.add(ast.unparse(node))
        elif isinstance(node, ast.Expr) and not kept:
            title = ast.literal_eval(node.value).partition("\n")[0]
            kept += [f"# {title}"]
        else:
            kept += text
    return [*before, _Part(frozenset(imports), "\n".join(kept).strip() + "\n")]
