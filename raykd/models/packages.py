"""Packages that networks come from and that need not be there: imported only where a recipe names one of theirs."""

import platform
from importlib import import_module
from types import ModuleType

from raykd.errors import MissingPackage


def import_optional(package: str, model: str, extra: str) -> ModuleType:
    """Return a package of one of raykd's extras.

    Args:
        package: its name.
        model: what needs it, for the message.
        extra: what raykd calls the packages it is one of.

    Raises:
        MissingPackage: naming this machine, which may be one of many, and what to install.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingPackage(
            f"{model} needs the package {package}, which cannot be imported on {platform.node()} ({error}): "
            f"pip install 'raykd[{extra}]' there"
        ) from None
