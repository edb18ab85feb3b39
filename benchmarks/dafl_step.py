"""Time DAFL's step, the published script's against raykd's, and what each change brought.

    python benchmarks/dafl_step.py [--case mnist] [--batch 512] [--threads 1] [--rounds 3] [--json]

Every rung runs in a process of its own (the allocator setting of one cannot be undone for the
next) and the rungs take turns, one step each per round, so that a busy machine slows all alike.
See README.md beside this file for how to read the table.
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

from dafl.ladder import CASES, DEFAULT_RUNGS, LADDER

HERE = Path(__file__).resolve().parent
# glibc reads these before the process has allocated anything; later calls can only do the same.
RESIDENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
# Relative, of the first losses. In bfloat16 the random ResNets of this benchmark are 9 % off.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.2}


class Rung:
    """A worker process that steps when asked."""

    def __init__(self, case: str, name: str, threads: int, batch: int) -> None:
        """Start it and wait until it is warm."""
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key not in RESIDENT}
        environment["PYTHONPATH"] = os.pathsep.join((str(HERE), str(HERE.parent)))
        environment["OMP_NUM_THREADS"] = str(threads)
        if name in LADDER and LADDER[name].resident:
            environment |= RESIDENT
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dafl.worker", case, name, str(threads), str(batch)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()
        self.steps: list[dict[str, Any]] = []

    def step(self) -> None:
        """Take one step and keep what it cost."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.steps.append(self._answer())

    def middle(self, key: str) -> float:
        """Return the median of ``cpu`` or ``wall`` seconds."""
        return float(median(step[key] for step in self.steps))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the worker {self.name!r} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(case: str, names: Sequence[str], threads: int, rounds: int, batch: int) -> dict[str, Any]:
    """Measure one case and return its table."""
    at_once = max(1, (os.cpu_count() or 1) // threads)
    with ThreadPoolExecutor(at_once) as pool:
        rungs = list(pool.map(lambda name: Rung(case, name, threads, batch), (*names, "peak")))
    for _ in range(rounds):
        for rung in rungs:
            rung.step()
    for rung in rungs:
        rung.close()
    *rungs, peak = rungs
    best = {precision: max(step["values"][i] for step in peak.steps) for i, precision in enumerate(TOLERANCE)}
    return {
        "case": case,
        "batch": batch,
        "threads": threads,
        "rounds": rounds,
        "peak_gflops": {precision: rate / 1e9 for precision, rate in best.items()},
        "rungs": rows(rungs, best),
    }


def rows(rungs: Sequence[Rung], best: dict[str, float]) -> list[dict[str, Any]]:
    """Return one row per rung; the factors are medians of the ratios within a round."""
    table = []
    for i, rung in enumerate(rungs):
        variant = LADDER[rung.name]
        pairs = list(zip(rung.ready["first"], rungs[0].ready["first"], strict=True))
        deviation = max(abs(a - b) / max(abs(b), 1e-2) for a, b in pairs)
        table.append(
            {
                "name": rung.name,
                "change": variant.change,
                "cpu_seconds": rung.middle("cpu"),
                "wall_seconds": rung.middle("wall"),
                "speedup_cpu": ratio(rungs[0], rung, "cpu"),
                "speedup_wall": ratio(rungs[0], rung, "wall"),
                "factor_cpu": ratio(rungs[max(i - 1, 0)], rung, "cpu"),
                "gflop": rung.ready["flop"] / 1e9,
                "share_of_peak": rung.ready["flop"] / rung.middle("cpu") / best[variant.precision],
                "memory_gib": rung.steps[-1]["memory"],
                "warm_up_seconds": rung.ready["warm_up"],
                "first_losses_deviation": deviation,
                "same_losses": deviation < TOLERANCE[variant.precision],
            }
        )
    return table


def ratio(slow: Rung, fast: Rung, key: str) -> float:
    """Return how many times faster: the median over rounds of the ratio within the round."""
    return float(median(a[key] / b[key] for a, b in zip(slow.steps, fast.steps, strict=True)))


def markdown(table: dict[str, Any]) -> str:
    """Lay out a table for reading."""
    peaks = table["peak_gflops"]
    lines = [
        f"### {table['case']}: batch {table['batch']}, {table['threads']} thread(s), "
        f"median of {table['rounds']} rounds; peak per core {peaks['fp32']:.0f} GFLOP/s in float32, "
        f"{peaks['bf16']:.0f} in bfloat16",
        "",
        "| step | CPU s | wall s | faster (CPU) | faster (wall) | this change | GFLOP | of peak | GiB | first losses |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table["rungs"]:
        agreement = f"{row['first_losses_deviation']:.0e} off" + ("" if row["same_losses"] else " **differ**")
        lines.append(
            f"| {row['change']} | {row['cpu_seconds']:.3f} | {row['wall_seconds']:.3f} "
            f"| {row['speedup_cpu']:.2f} | {row['speedup_wall']:.2f} | {row['factor_cpu']:.2f} "
            f"| {row['gflop']:.0f} | {row['share_of_peak']:.0%} "
            f"| {row['memory_gib']:.1f} | {agreement} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--rung", choices=LADDER, action="append", help="default: see dafl/ladder.py")
    parser.add_argument("--batch", type=int, help="images of a step (default: see dafl/ladder.py)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="steps timed per rung (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    arguments = parser.parse_args()
    tables = [
        measure(
            case,
            arguments.rung or DEFAULT_RUNGS[case],
            arguments.threads,
            arguments.rounds,
            arguments.batch or CASES[case].batch,
        )
        for case in arguments.case or CASES
    ]
    print(json.dumps(tables, indent=1) if arguments.json else "\n\n".join(map(markdown, tables)))
    if not all(row["same_losses"] for table in tables for row in table["rungs"]):
        sys.exit("the steps do not compute the same losses")


if __name__ == "__main__":
    main()
