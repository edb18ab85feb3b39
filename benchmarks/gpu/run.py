"""Measure raykd on a GPU within a budget of minutes, the most valuable things first.

    python run.py --minutes 15 --out DIR [--device cuda] [--only NAME ...] [--skip NAME ...]

Every step is a process of its own with its part of the time: one that crashes or hangs takes nothing but itself. What
it has found is in DIR/NAME.json as soon as it is there, part by part. The same command goes on: parts that are in DIR
are not run again (remove DIR/NAME.json to have them anew). With --device cpu everything is small, to rehearse.

This file needs Python alone. Beside ``kit.json`` it uses the kit's wheels, in a checkout what is installed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KIT = (HERE / "kit.json").is_file()
CODE = HERE / "code" if KIT else HERE.parents[1]
"""The folder with ``benchmarks`` and ``tests``."""
sys.path.insert(0, str(CODE / "benchmarks"))

from gpu.parts import read, write  # noqa: E402
from gpu.plan import STEPS, allowance, chosen  # noqa: E402

GRACE = 20.0  # seconds that a step has beyond its time to end the part it is at
LAST_LINES = 15  # of a step's output, kept with its result where it fails


def unpack(wheels: Path, target: Path) -> list[str]:
    """Unpack the wheels that this Python can use into ``target``; return the names of the others."""
    others = []
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for wheel in sorted(wheels.glob("*.whl")):
        python, _, platform = wheel.stem.split("-")[-3:]
        fits = version in python.split(".") and sysconfig.get_platform().startswith("linux")
        if not (fits or (python.startswith("py") and platform == "any")):
            others.append(wheel.name)
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    return others


def environment(device: str, scratch: Path) -> dict[str, str]:
    """Return the variables of the steps: raykd from the kit or the checkout, data from the kit, no charts."""
    found = dict(os.environ)
    paths = [str(CODE / "benchmarks"), str(CODE)]
    if KIT:
        site = scratch / "site"
        if not site.is_dir():
            left = unpack(HERE / "wheels", site)
            if left:
                print(f"not for this Python, so what is installed is taken: {', '.join(left)}", flush=True)
        paths.insert(0, str(site))
        found["RAYKD_DATA"] = str(HERE / "data")
    found["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    found |= {"RAYKD_REPORT": "0", "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
    found.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


class Runner:
    """Runs steps one after the other, each in a process of its own."""

    def __init__(self, out: Path, device: str, variables: Mapping[str, str], scratch: Path, grace: float = GRACE):
        """Results go to ``out``; what steps make besides goes to ``scratch``."""
        self._out, self._device, self._variables, self._scratch = out, device, dict(variables), scratch
        self._grace = grace

    def run(self, name: str, seconds: float) -> str:
        """Run a step for at most so many seconds, again after a crash that one of its parts made; return its state."""
        end, file = time.monotonic() + seconds, self._out / f"{name}.json"
        while True:
            before = len(read(file).get("parts", {}))
            left = end - time.monotonic()
            ended = self._attempt(name, left, file)
            content = read(file)
            if ended == 0 and content.get("state") in ("done", "incomplete"):
                return str(content["state"])
            if ended is None:
                # Whatever was at work may only have been slow: it is not at fault.
                return self._settle(file, name, "out of time", at_work=None)
            progressed = len(content.get("parts", {})) > before or content.get("at_work") is not None
            if not progressed or end - time.monotonic() < 1:
                return self._settle(file, name, "failed", code=ended)

    def _attempt(self, name: str, seconds: float, file: Path) -> int | None:
        """Return the exit code of the step's process; None if it was ended because its time was over."""
        log = self._out / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        folder = self._scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        with log.open("a") as output:
            process = subprocess.Popen(
                self.command(name, seconds, file, folder),
                env=self._variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                return process.wait(timeout=max(0.0, seconds) + self._grace)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with suppress(ProcessLookupError):  # itself, and what it has started
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def command(self, name: str, seconds: float, file: Path, folder: Path) -> Sequence[str]:
        """Return the command of a step's process."""
        words = ["-m", "gpu.step", name, self._device, f"{seconds:.1f}", str(file), str(folder)]
        return [sys.executable, *words]

    def _settle(self, file: Path, name: str, state: str, **facts: Any) -> str:
        """Write the state of a step that did not write it itself, with the end of its output."""
        log = self._out / "logs" / f"{name}.txt"
        last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        write(file, {**read(file), "step": name, "device": self._device, "state": state, "output": last, **facts})
        return state


def run_all(runner: Runner, names: Sequence[str], out: Path, seconds: float, small: bool) -> dict[str, str]:
    """Run steps within a budget, then, while time is left, those that were not complete; return their states."""
    end = time.monotonic() + seconds
    states = {name: str(read(out / f"{name}.json").get("state", "not run")) for name in names}
    for turn in (1, 2):
        for position, name in enumerate(names):
            wanted = {"not run", "running", "incomplete", "out of time", "failed"}
            if turn == 2:
                wanted = {"incomplete", "out of time"}
            left = end - time.monotonic()
            if states[name] not in wanted or left < 1:
                continue
            later = [other for other in names[position + 1 :] if states[other] in wanted]
            part = allowance(name, later, left, small)
            if not part:
                needed = f"it needs {STEPS[name].least:g} minutes and {left / 60:.1f} are left"
                print(f"{name}: not begun, {needed}", flush=True)
                continue
            print(f"{name}: {STEPS[name].shows} (at most {part:.0f} s of {left:.0f})", flush=True)
            began = time.monotonic()
            states[name] = runner.run(name, part)
            print(f"{name}: {states[name]} after {time.monotonic() - began:.0f} s", flush=True)
    return states


def main() -> None:
    """Parse, run, say where the results are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True, help="in all")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: everything small, to rehearse")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=[], metavar="NAME", help=", ".join(STEPS))
    parser.add_argument("--skip", nargs="+", choices=STEPS, default=[], metavar="NAME")
    parser.add_argument("--scratch", type=Path, help="folder for runs and unpacked wheels; default: a temporary one")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    scratch = (arguments.scratch or Path(tempfile.mkdtemp(prefix="raykd-gpu-"))).absolute()
    variables = environment(arguments.device, scratch)
    if "RAYKD_DATA" not in variables:
        sys.exit("RAYKD_DATA is not set: it names the folder with cifar10 and teachers (a kit brings its own)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a step's processes end too
    names = chosen(arguments.only, arguments.skip)
    runner = Runner(out, arguments.device, variables, scratch)
    try:
        states = run_all(runner, names, out, 60 * arguments.minutes, arguments.device == "cpu")
    finally:
        if arguments.scratch is None:
            shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(states))
    print(f"{out}: bring this folder back; `make gpu-report RESULTS={out.name}` makes a page of it")


if __name__ == "__main__":
    main()
