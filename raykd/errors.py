"""Errors that a user can cause or must act on; each carries the exit code of the command line.

Messages say what was got, what is allowed and what to do. Anything else that is raised is a bug.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

_SECRETS = (
    (re.compile(r"//\S*@"), "//...@"),  # a name, and perhaps a password, before the host of an address
    (re.compile(r"(://[^\s?]*)\?[^\s'\"]*"), r"\1?..."),  # its options
)


class RaykdError(Exception):
    """Base of every error shown to a user as one line; ``exit_code`` is what the shell sees."""

    exit_code = 1


class RunFailed(RaykdError):
    """The run itself failed (non-finite loss, a worker that kept dying): exit code 1."""


class WorkerFailed(RunFailed):
    """Another worker failed in a way that nobody foresaw; that worker raises the exception itself."""


class UsageError(RaykdError, ValueError):
    """A wrong name, key, value or combination: exit code 2."""

    exit_code = 2


class MissingData(UsageError):
    """Images, or a choice of them, that are not where they are looked for; other runs may have theirs."""


class ForeignFormat(MissingData):
    """Images that are there, and must be converted first."""


class InProgress(UsageError):
    """A run that another process is at; it can be waited for."""


class SetupError(RaykdError):
    """The environment lacks something (Ray, a package, a device): exit code 3."""

    exit_code = 3


class MissingPackage(SetupError):
    """An optional package that a network comes from is not installed here."""


class CorruptError(RaykdError):
    """Data or a checkpoint is damaged or incomplete: exit code 4."""

    exit_code = 4


def error_to_dict(error: RaykdError) -> dict[str, Any]:
    """Return an error as plain data, to be raised in another process."""
    return {"error": type(error).__name__, "message": str(error)}


def error_from_dict(failure: Mapping[str, Any]) -> RaykdError:
    """Rebuild the error that ``error_to_dict`` described, in its own class if this process has imported that."""
    classes = {each.__name__: each for each in _with_subclasses(RaykdError)}
    error_class = classes.get(failure["error"], RaykdError)
    # Not through __init__, whose arguments are the class's own affair; the message is complete.
    return error_class.__new__(error_class, failure["message"])


def _with_subclasses(error_class: type[RaykdError]) -> list[type[RaykdError]]:
    return [error_class, *(each for child in error_class.__subclasses__() for each in _with_subclasses(child))]


def masked(text: str) -> str:
    """Return a text to be shown, without what may be secret in the addresses in it."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # but tabs and ends of lines; no half a pair
_MAX_LISTED, _NEAREST = 30, 8  # names in a message
MAX_SHOWN = 200
"""Characters of a value that a message repeats."""


def printable(text: str) -> str:
    """Return a text from outside as it may reach a terminal or a file.

    Control characters, and bytes of a name that are no text, are written out.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str) -> str:
    """Return a text from outside as a line of its own: as ``printable``, and ends of lines are written out too."""
    return printable(text).replace("\n", "\\x0a")


def shortened(value: object) -> str:
    """Return a value as a message shows it: its beginning, if it is long, without secrets."""
    text = masked(repr(value))
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def did_you_mean(got: str, allowed: Iterable[str], inside: str = "") -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``allowed``, all ``inside`` a section; or an empty string."""
    matches = get_close_matches(got, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {inside + matches[0]!r}?" if matches else ""


def unknown(kind: str, got: str, allowed: Iterable[str]) -> UsageError:
    """Build the error for a name that is not in a table, with its list; of a long one with the nearest names."""
    names = sorted(allowed)
    hint = did_you_mean(got, names) if len(got) <= MAX_SHOWN else ""  # comparing takes as long as both are, squared
    listed = names
    if len(names) > _MAX_LISTED:
        listed = get_close_matches(got[:MAX_SHOWN], names, n=_NEAREST, cutoff=0.0)
    more = f", and {len(names) - len(listed)} more" if len(listed) < len(names) else ""
    return UsageError(f"unknown {kind} {shortened(got)}{hint} (known: {', '.join(listed)}{more})")
