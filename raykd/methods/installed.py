"""Methods of other packages, found by the entry points of this name that an installed package declares.

    [project.entry-points."raykd.methods"]
    my_method = "my_package.my_method:MyMethod"

A package is imported when a recipe names its method, not before. Of a name that raykd has itself, raykd's counts.
"""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import get_args

from raykd.config.base import Config
from raykd.errors import SetupError, unknown
from raykd.methods.base import Method

GROUP = "raykd.methods"


class MethodTable(dict[str, type[Method]]):
    """Methods by name: those of raykd, and those of installed packages as soon as they are asked for."""

    def names(self) -> list[str]:
        """Return the names of all methods there are, raykd's first; imports none."""
        return list(dict.fromkeys([*self, *sorted(entry.name for entry in entry_points(group=GROUP))]))

    def __missing__(self, name: str) -> type[Method]:
        """Import the method of that name.

        Raises:
            UsageError: if no package has one.
            SetupError: if several have, or what the package has cannot be used.
        """
        found = list(entry_points(group=GROUP, name=name))
        if not found:
            raise unknown("method", name, self.names())
        if len(found) > 1:
            raise SetupError(f"method {name!r} is in several packages, {_listed(found)}: uninstall all but one")
        self[name] = method = _load(found[0])
        return method


def _load(entry: EntryPoint) -> type[Method]:
    origin = f"method {entry.name!r} of package {_listed([entry])} ({entry.value})"
    try:
        method = entry.load()
    except Exception as error:  # the package's own code: whatever it raises is its fault
        first = (str(error).splitlines() or [""])[0]
        raise SetupError(
            f"{origin} cannot be imported ({type(error).__name__}: {first}); mend or uninstall the package"
        ) from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise SetupError(f"{origin} is no subclass of raykd.methods.Method; mend the package")
    config = getattr(method, "config", None)
    if not (isinstance(config, type) and issubclass(config, Config)):
        raise SetupError(f"{origin} has no 'config', a subclass of raykd.config.base.Config; mend the package")
    field = config.model_fields.get("name")
    names = get_args(field.annotation) if field else ()
    if names != (entry.name,):
        got = f"is {', '.join(map(repr, names))}" if names else "is missing"
        raise SetupError(
            f"{origin}: the 'name' of its {config.__name__} {got} and must be Literal[{entry.name!r}]; mend the package"
        )
    return method


def _listed(entries: Iterable[EntryPoint]) -> str:
    return ", ".join(sorted(entry.dist.name if entry.dist else entry.module for entry in entries))
