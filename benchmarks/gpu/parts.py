"""The result file of a step: parts, each saved as soon as it is there, so that a crash takes the one at work alone.

    {"state": "running", "parts": {NAME: {...} or {"error": ...}}, "left_out": [NAME, ...], "at_work": NAME or null}

A part that is in the file is not run again; one that was at work when the process ended is an error of that part.
"""

import faulthandler
import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ERROR_LINES = 12  # of a traceback, its last


class Parts:
    """Runs the parts of a step until its time is over.

    Attributes:
        found: what each part found, by its name.
        left_out: names of parts that no time was left for.
    """

    def __init__(self, file: Path, seconds: float, facts: Mapping[str, Any]) -> None:
        """Go on with ``file``; ``facts`` stand beside the parts. No part begins after so many ``seconds``."""
        before = read(file)
        self.found: dict[str, Any] = before.get("parts", {})
        self.left_out: list[str] = []
        self._file, self._facts, self._end = file, dict(facts), time.monotonic() + seconds
        if before.get("at_work") is not None:
            self.found[before["at_work"]] = {"error": "the process ended in this part: it crashed, or hung"}
        self._save(None)

    @property
    def seconds_left(self) -> float:
        """Return the seconds until no part begins any more."""
        return self._end - time.monotonic()

    def run(self, name: str, action: Callable[[], dict[str, Any]], *, most: float = 300.0) -> dict[str, Any] | None:
        """Run a part that the file has not, and return what it found; None for an error, or without time.

        After ``most`` seconds it counts as hanging, and the process ends with the stacks of all threads on stderr.
        """
        if name in self.found:
            return None if "error" in self.found[name] else dict(self.found[name])
        if self.seconds_left <= 0:
            self.left_out.append(name)
            return None
        self._save(name)
        began = time.monotonic()
        faulthandler.dump_traceback_later(most, exit=True)
        try:
            found = {**action(), "part_seconds": round(time.monotonic() - began, 2)}
        except Exception as error:  # whatever it is, the other parts are run
            last = traceback.format_exc().splitlines()[-ERROR_LINES:]
            found = {"error": f"{type(error).__name__}: {str(error)[:500]}", "traceback": last}
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.found[name] = found
        self._save(None)
        return None if "error" in found else found

    def close(self) -> None:
        """Say in the file whether all parts were run."""
        self._facts["state"] = "incomplete" if self.left_out else "done"
        self._save(None)

    def _save(self, at_work: str | None) -> None:
        content = {
            "state": "running",
            **self._facts,
            "parts": self.found,
            "left_out": self.left_out,
            "at_work": at_work,
        }
        write(self._file, content)


def read(file: Path) -> dict[str, Any]:
    """Return what a result file says; nothing where there is none, or half of one."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write a result file in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, file)
