"""All tests of the gate, in two halves side by side: what waits for Ray leaves a core to the other.

python -m tests.side_by_side [ARGUMENT OF PYTEST]...
"""

import shutil
import subprocess
import sys
import tempfile

NOTHING = 5  # pytest's exit code where it has selected no test


def main(arguments: list[str]) -> int:
    """Run both and show one after the other; return 0 if neither failed and there was a test at all."""
    pytest = [sys.executable, "-m", "pytest", *arguments]
    with tempfile.TemporaryFile() as said:
        on_ray = subprocess.Popen([*pytest, "--half=ray"], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            codes = [subprocess.call([*pytest, "--half=rest"], stdin=subprocess.DEVNULL)]
        finally:
            on_ray.wait()
            said.seek(0)
            shutil.copyfileobj(said, sys.stdout.buffer)
    codes.append(on_ray.returncode)
    return max(map(abs, codes)) if any(code not in (0, NOTHING) for code in codes) else min(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
