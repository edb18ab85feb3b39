"""Time the inner step of LS-GDFD, many generators under per-class moments: the obvious way against raykd's.

    python benchmarks/lsgdfd_step.py [--members 10 100] [--images 8] [--rung obvious raykd] [--rounds 3] [--json]

Every rung runs in a process of its own (the allocator setting of one cannot be undone for the next) and the rungs take
turns, one step each per round, so that a busy machine slows all alike. They are all in memory at once, 100 generators
in about 17 GiB: choose rungs with --rung where that is too much. See README.md beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from lsgdfd.cases import RUNGS, images_per_member

HERE = Path(__file__).resolve().parent
# glibc reads these before the process has allocated anything; later calls can only do the same.
RESIDENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
# Relative, of the first losses; bfloat16 has three digits, which a random ResNet does not improve.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.2}


class Process:
    """A worker that steps when asked."""

    def __init__(self, members: int, name: str, threads: int, images: int) -> None:
        """Start it and wait until it is warm."""
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key not in RESIDENT}
        environment["PYTHONPATH"] = os.pathsep.join((str(HERE), str(HERE.parent)))
        environment["OMP_NUM_THREADS"] = str(threads)
        if name not in RUNGS or RUNGS[name].ours:
            environment |= RESIDENT
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lsgdfd.worker", str(members), name, str(threads), str(images)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()
        self.steps: list[dict[str, Any]] = []

    def step(self) -> None:
        """Take one step and keep what it cost."""
        self.steps.append(self._ask("step"))

    def flop(self) -> float:
        """Return the floating-point operations of a step."""
        count: float = self._ask("flop")["flop"]
        return count

    def middle(self, key: str) -> float:
        """Return the median of ``cpu`` or ``wall`` seconds."""
        return float(median(step[key] for step in self.steps))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, request: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the worker {self.name!r} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(members: int, names: Sequence[str], threads: int, rounds: int, images: int) -> dict[str, Any]:
    """Measure one number of generators and return its table."""
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // threads)) as pool:
        processes = list(pool.map(lambda name: Process(members, name, threads, images), (*names, "peak")))
    for _ in range(rounds):
        for process in processes:
            process.step()
    *rungs, peak = processes  # ratios are to the first
    best = {precision: max(step["values"][i] for step in peak.steps) for i, precision in enumerate(TOLERANCE)}
    table = {
        "members": members,
        "images_per_member": images,
        "threads": threads,
        "rounds": rounds,
        "peak_gflops": {precision: rate / 1e9 for precision, rate in best.items()},
        "rungs": [row(process, rungs[0], best) for process in rungs],
    }
    for process in processes:
        process.close()
    return table


def row(process: Process, first: Process, best: dict[str, float]) -> dict[str, Any]:
    """Return one row; the factors are medians of the ratios within a round."""
    rung, flop = RUNGS[process.name], process.flop()
    pairs = list(zip(process.ready["first"], first.ready["first"], strict=True))
    deviation = max(abs(a - b) / max(abs(b), 1e-2) for a, b in pairs)
    rounds = list(zip(first.steps, process.steps, strict=True))
    return {
        "name": process.name,
        "title": rung.title,
        "cpu_seconds": process.middle("cpu"),
        "wall_seconds": process.middle("wall"),
        "speedup_cpu": median(slow["cpu"] / fast["cpu"] for slow, fast in rounds),
        "speedup_wall": median(slow["wall"] / fast["wall"] for slow, fast in rounds),
        "gflop": flop / 1e9,
        "share_of_peak": flop / process.middle("cpu") / best[rung.precision],
        "memory_gib": process.steps[-1]["memory"],
        "warm_up_seconds": process.ready["warm_up"],
        "first_losses_deviation": deviation,
        "same_losses": deviation < TOLERANCE[rung.precision],
    }


def markdown(table: dict[str, Any]) -> str:
    """Lay out a table for reading."""
    peaks = table["peak_gflops"]
    lines = [
        f"### {table['members']} generators of {table['images_per_member']} image(s): {table['threads']} thread(s), "
        f"median of {table['rounds']} rounds; peak per core {peaks['fp32']:.0f} GFLOP/s in float32, "
        f"{peaks['bf16']:.0f} in bfloat16",
        "",
        "| step | CPU s | wall s | faster (CPU) | faster (wall) | GFLOP | of peak | GiB | first losses |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in table["rungs"]:
        agreement = f"{entry['first_losses_deviation']:.0e} off" + ("" if entry["same_losses"] else " **differ**")
        lines.append(
            f"| {entry['title']} | {entry['cpu_seconds']:.3f} | {entry['wall_seconds']:.3f} "
            f"| {entry['speedup_cpu']:.2f} | {entry['speedup_wall']:.2f} | {entry['gflop']:.0f} "
            f"| {entry['share_of_peak']:.0%} | {entry['memory_gib']:.1f} | {agreement} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--members", type=int, nargs="+", default=[10], help="generators (default 10)")
    parser.add_argument("--images", type=int, help="of each generator in a step (default about 80 in all)")
    parser.add_argument("--rung", choices=RUNGS, nargs="+", default=list(RUNGS), help="default all")
    parser.add_argument("--rounds", type=int, default=3, help="steps timed per rung (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    arguments = parser.parse_args()
    tables = [
        measure(
            members,
            arguments.rung,
            arguments.threads,
            arguments.rounds,
            arguments.images or images_per_member(members),
        )
        for members in arguments.members
    ]
    print(json.dumps(tables, indent=1) if arguments.json else "\n\n".join(map(markdown, tables)))
    if not all(entry["same_losses"] for table in tables for entry in table["rungs"]):
        sys.exit("the steps do not compute the same losses")


if __name__ == "__main__":
    main()
