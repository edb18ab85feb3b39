"""All tests of the gate, in four parts side by side: most of them wait for processes, so two cores serve all four.

python -m tests.side_by_side [ARGUMENT OF PYTEST]...
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from raykd.surroundings import wait_passively

TESTS = Path(__file__).parent
PARTS: tuple[tuple[str, ...], ...] = (
    ("runners",),
    ("architecture", "artifacts", "cli", "cluster", "config", "data", "distributed", "engine"),
    ("golden", "search", "accelerator"),
)
"""Rooms by part, which take about the same time; all other tests are the last part."""
NOTHING = 5  # pytest's exit code where it has selected no test


def paths_of(part: int) -> list[str]:
    """Return pytest's arguments that select a part."""
    if part < len(PARTS):
        return [str(TESTS / room) for room in PARTS[part]]
    return [str(TESTS), *(f"--ignore={TESTS / room}" for rooms in PARTS for room in rooms)]


def main(arguments: Sequence[str]) -> int:
    """Run all parts and show one after the other; return 0 if none failed and there was a test at all."""
    wait_passively()  # idle threads of torch would take the cores from the other parts
    pytest = [sys.executable, "-m", "pytest", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(part)) for part in range(len(PARTS))]
        running = []
        for part, output in enumerate(outputs):
            with output.open("wb") as file:
                command = [*pytest, *paths_of(part)]
                running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file))
        try:
            codes = [subprocess.call([*pytest, *paths_of(len(PARTS))], stdin=subprocess.DEVNULL)]
        finally:
            for process, output in zip(running, outputs, strict=True):
                process.wait()
                with output.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
    codes += [process.returncode for process in running]
    return max(map(abs, codes)) if any(code not in (0, NOTHING) for code in codes) else min(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
