"""Whose code may run. A recipe's ``factory`` is code, and so is whatever its arguments make of it.

What a recipe names that its user has given to raykd is the user's own wish. What the record of a run names is not: the
directory may come from anybody. So a factory is called only if this user has named it: in this process, or before on
this machine, which is remembered as the sum of function, arguments and file:

    $XDG_STATE_HOME/raykd/code    a line each: sum, function, file (default folder: ~/.local/state)

A user without a home, or whose file others could write, remembers nothing.
"""

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import to_json

from raykd.errors import UsageError
from raykd.models.factories import module_file
from raykd.models.in_memory import PREFIX

logger = logging.getLogger(__name__)

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_permitted: set[str] = set()


class Section(Protocol):
    """The part of a recipe that names a network."""

    @property
    def factory(self) -> str | None:
        """The function, ``module:function``; None for a network of raykd's own."""

    @property
    def factory_args(self) -> Mapping[str, Any]:
        """Its arguments."""


class CodeRefused(UsageError):
    """Code that this user has not named was not run."""


def permit(sections: Iterable[Section], *, remember: bool = True) -> None:
    """Let the code of networks run in this process and, if it is to be remembered, in this user's later ones."""
    for section in sections:
        if not is_code(section):
            continue
        key, file = _key_of(section)
        _permitted.add(key)
        if remember and file is not None and key not in _remembered():
            _remember(f"{key} {json.dumps(section.factory)} {json.dumps(file)}\n")


def require_permission(section: Section, owner: str) -> None:
    """Refuse a network whose code nobody has permitted; called before any of it is imported.

    Raises:
        CodeRefused: saying what would run, and both ways on; ``owner`` is who names it, such as ``run NAME``.
    """
    if not is_code(section):
        return
    key, file = _key_of(section)
    if key in _permitted or key in _remembered():
        return
    place = f"the code in {file}" if file else f"code of a module that is not in {Path.cwd()} and not installed"
    raise CodeRefused(
        f"{owner} names factory {section.factory}, {place}, which no recipe of yours has named on this machine: it was "
        "not run. Read it, and if you trust it give --allow-code (in Python allow_code=True); where the run is your "
        "own, `raykd train` its recipe here once more, which only reads a finished run"
    )


def is_code(section: Section) -> bool:
    """Tell whether a network is code, which comes from somewhere: not raykd's own, nor an object of this program."""
    return section.factory is not None and not section.factory.startswith(PREFIX)


def _key_of(section: Section) -> tuple[str, str | None]:
    """Return the sum that stands for what would be called, and the file it is in."""
    assert section.factory is not None, "it is code"
    file = module_file(section.factory)
    file = None if file is None else os.path.realpath(file)
    # As a run's record gives them back: YAML knows dates, and keys that are numbers.
    arguments = json.loads(to_json(dict(section.factory_args)))
    content = json.dumps([section.factory, arguments, file], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest(), file


def _record() -> Path | None:
    """Return the file that remembers, None for a user without a home."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # else it would be of the folder at hand, which may be anybody's
        state = Path("~/.local/state")
    try:
        return state.expanduser() / "raykd" / "code"
    except RuntimeError:
        return None


def _remembered() -> set[str]:
    path = _record()
    with suppress(OSError):
        if path is not None:
            found = path.stat()
            if found.st_uid == os.getuid() and not found.st_mode & _OTHERS_MAY_WRITE:
                return {
                    line.partition(" ")[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
                }
    return set()


def _remember(line: str) -> None:
    path = _record()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, line.encode())  # at once, so that lines of several processes stay apart
        finally:
            os.close(handle)
    except OSError as error:
        logger.debug("%s cannot be written (%s): later commands ask about this code", path, error)
