"""Time forward, backward and Adam of many generators: a loop over modules against one bank.

    python benchmarks/bank.py [--members 10 100 250] [--rung loop eager] [--rounds 3] [--threads 1] [--json]

Every rung runs in a process of its own (the allocator setting of one cannot be undone for the next) and takes turns
with the loop, step by step, so that a busy machine slows both alike; only these two are in memory at a time.
See README.md beside this file for how to read the tables.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from members.rungs import ALL, CASES, OPTIMIZER_RUNGS, RUNGS, Variant

HERE = Path(__file__).resolve().parent
# glibc reads these before the process has allocated anything; later calls can only do the same.
RESIDENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
# Relative, of the mean square of the first images.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


class Rung:
    """A worker process that steps when asked."""

    def __init__(self, members: int, name: str, threads: int) -> None:
        """Start it and wait until it is warm."""
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key not in RESIDENT}
        environment["PYTHONPATH"] = os.pathsep.join((str(HERE), str(HERE.parent)))
        environment["OMP_NUM_THREADS"] = str(threads)
        if name in ALL and ALL[name].host:
            environment |= RESIDENT
        self._process = subprocess.Popen(
            [sys.executable, "-m", "members.worker", str(members), name, str(threads)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()

    def step(self) -> dict[str, Any]:
        """Take one step and return what it cost."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

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


def measure(members: int, rungs: Mapping[str, Variant], threads: int, rounds: int) -> dict[str, Any]:
    """Measure one case and return its table."""
    names = list(rungs)
    first, peak = Rung(members, names[0], threads), Rung(members, "peak", threads)
    rates: list[list[float]] = []
    taken: list[dict[str, Any]] = []
    for name in names:
        rung = first if name == names[0] else Rung(members, name, threads)
        pairs = []
        for _ in range(rounds):
            slow = first.step()
            pairs.append((slow, slow if rung is first else rung.step()))
            rates.append(peak.step()["rates"])
        if rung is not first:
            rung.close()
        taken.append({"name": name, "ready": rung.ready, "pairs": pairs})
    first.close()
    peak.close()
    best = {precision: max(rate[i] for rate in rates) for i, precision in enumerate(TOLERANCE)}
    return {
        "members": members,
        "threads": threads,
        "rounds": rounds,
        "peak_gflops": {precision: rate / 1e9 for precision, rate in best.items()},
        "rungs": [row(members, entry, first.ready, best) for entry in taken],
    }


def row(members: int, entry: dict[str, Any], first: dict[str, Any], best: dict[str, float]) -> dict[str, Any]:
    """Return one row; the factors are medians of the ratios within a round."""
    variant, ready, case = ALL[entry["name"]], entry["ready"], CASES[members]
    cpu, wall = (median(fast[key] for _, fast in entry["pairs"]) for key in ("cpu", "wall"))
    deviation = abs(ready["first"] / first["first"] - 1)
    return {
        "name": entry["name"],
        "about": variant.about,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "images_per_cpu_second": None if variant.optimizer else case.members * case.images / cpu,
        "faster_cpu": median(slow["cpu"] / fast["cpu"] for slow, fast in entry["pairs"]),
        "faster_wall": median(slow["wall"] / fast["wall"] for slow, fast in entry["pairs"]),
        "gflop": ready["flop"] / 1e9,
        "share_of_peak_executed": ready["flop"] / cpu / best[variant.precision],
        "share_of_peak_as_published": first["flop"] / cpu / best[variant.precision],
        "memory_gib": max(fast["memory"] for _, fast in entry["pairs"]),
        "warm_up_seconds": ready["warm_up"],
        "first_images_deviation": deviation,
        "same_images": deviation < TOLERANCE[variant.precision],
    }


def markdown(table: dict[str, Any]) -> str:
    """Lay out a table for reading."""
    case, peaks = CASES[table["members"]], table["peak_gflops"]
    lines = [
        f"### {case.members} members, {case.images} images each, width {case.width}: {table['threads']} thread(s), "
        f"median of {table['rounds']} rounds; peak per core {peaks['fp32']:.0f} GFLOP/s in float32, "
        f"{peaks['bf16']:.0f} in bfloat16",
        "",
    ]
    if table["rungs"][0]["images_per_cpu_second"] is None:
        lines += ["| optimizer alone | CPU ms | faster (CPU) | faster (wall) | GiB |", "|---|---|---|---|---|"]
        return "\n".join(
            lines
            + [
                f"| {row['about']} | {1e3 * row['cpu_seconds']:.1f} | {row['faster_cpu']:.2f} "
                f"| {row['faster_wall']:.2f} | {row['memory_gib']:.1f} |"
                for row in table["rungs"]
            ]
        )
    lines += [
        "| step | CPU s | images/s | faster (CPU) | faster (wall) | GFLOP | of peak, executed | of peak, as published "
        "| GiB | first images |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table["rungs"]:
        agreement = f"{row['first_images_deviation']:.0e} off" + ("" if row["same_images"] else " **differs**")
        lines.append(
            f"| {row['about']} | {row['cpu_seconds']:.3f} | {row['images_per_cpu_second']:.0f} "
            f"| {row['faster_cpu']:.2f} | {row['faster_wall']:.2f} | {row['gflop']:.0f} "
            f"| {row['share_of_peak_executed']:.0%} | {row['share_of_peak_as_published']:.0%} "
            f"| {row['memory_gib']:.1f} | {agreement} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--members", type=int, choices=CASES, nargs="+", default=list(CASES), help="default: all")
    parser.add_argument("--rung", choices=ALL, nargs="+", default=list(ALL), help="default: all")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="steps timed per rung (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    arguments = parser.parse_args()
    tables = []
    for members in arguments.members:
        for rungs in (RUNGS, OPTIMIZER_RUNGS):
            chosen = {name: variant for name, variant in rungs.items() if name in arguments.rung}
            if not chosen:
                continue
            tables.append(measure(members, chosen, arguments.threads, arguments.rounds))
            if not arguments.json:
                print(markdown(tables[-1]), end="\n\n", flush=True)
    if arguments.json:
        print(json.dumps(tables, indent=1))
    if not all(row["same_images"] for table in tables for row in table["rungs"]):
        sys.exit("the steps do not make the same images")


if __name__ == "__main__":
    main()
