"""Errors that a user can cause or must act on; each carries the exit code of the command line.

Messages say what was got, what is allowed and what to do. Anything else that is raised is a bug.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_SECRETS = (
    (re.compile(r"//\S*@"), "//...@"),  # a name, and perhaps a password, before the host of an address
    (re.compile(r"(://[^\s?]*)\?[^\s'\"]*"), r"\1?..."),  # its options
)


class RaykdError(Exception):
    """Base of every error shown to a user as one line; ``exit_code`` is what the shell sees."""

    exit_code = 1


class RunFailed(RaykdError):
    """The run itself failed (non-finite loss, a worker that kept dying): exit code 1."""


class UsageError(RaykdError, ValueError):
    """A wrong name, key, value or combination: exit code 2."""

    exit_code = 2


class MissingData(UsageError):
    """Images, or a choice of them, that are not where they are looked for; other runs may have theirs."""


class InProgress(UsageError):
    """A run that another process is at; it can be waited for."""


class SetupError(RaykdError):
    """The environment lacks something (Ray, a package, a device): exit code 3."""

    exit_code = 3


class CorruptError(RaykdError):
    """Data or a checkpoint is damaged or incomplete: exit code 4."""

    exit_code = 4


def masked(text: str) -> str:
    """Return a text to be shown, without what may be secret in the addresses in it."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def did_you_mean(got: str, allowed: Iterable[str], inside: str = "") -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``allowed``, all ``inside`` a section; or an empty string."""
    matches = get_close_matches(got, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {inside + matches[0]!r}?" if matches else ""


def unknown(kind: str, got: str, allowed: Iterable[str]) -> UsageError:
    """Build the error for a name that is not in a table, with the nearest match and the whole list."""
    names = sorted(allowed)
    hint = did_you_mean(got, names)
    return UsageError(f"unknown {kind} {got!r}{hint} (known: {', '.join(names)})")
