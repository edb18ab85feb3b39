"""CIFAR-10 without its images, as a user types it: `raykd train fast_cifar10_resnet20` with a schedule for the minutes.

The schedule's rates end with its last step, so a run that is cut off says little: how many steps fit is measured by a
few of them, eager and as graphs, and the quicker way takes the run.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu.parts import Parts
from gpu.site import Site

RECIPE = "fast_cifar10_resnet20"
WAYS = ("off", "graphs")  # of compiling
TRIED = 12  # steps, of which the second half is timed
TRIAL = ("method.warmup_calls=2",)  # calls of the warm-up cost less than others
SMALL = (
    "method.inner_steps=1", "method.student_steps=1", "method.warmup_calls=1", "method.generator_maps=[8, 8, 8]",
    "data.test=false",
)  # fmt: skip
SMALL_TRIED = 4
REPORTS = 10
START_SECONDS = 30.0  # of the run, for start-up, compiling and the last judgement
MOST_TRIAL = 120.0


def five_minutes(parts: Parts, site: Site) -> None:
    """Train for five minutes."""
    train_for(5.0, parts, site)


def ten_minutes(parts: Parts, site: Site) -> None:
    """Train for ten minutes."""
    train_for(10.0, parts, site)


def train_for(minutes: float, parts: Parts, site: Site) -> None:
    """Find out how many steps fit into the minutes, and train with as many."""
    tried = SMALL_TRIED if site.small else TRIED
    ways = WAYS[:1] if site.small else WAYS
    trials = {way: parts.run(f"pace {way}", lambda way=way: trial(way, tried, site), most=MOST_TRIAL) for way in ways}  # type: ignore[misc]
    paces = {way: found["steps_per_second"] for way, found in trials.items() if found is not None}
    if not paces:
        return
    way = max(paces, key=paces.__getitem__)
    seconds = 60 * minutes - START_SECONDS
    steps = 2 * tried if site.small else max(REPORTS, int(seconds * paces[way]) // REPORTS * REPORTS)
    parts.run("train", lambda: whole(way, steps, site), most=60 * minutes + 120)


def command(way: str, steps: int, reports: int, store: Path, site: Site) -> list[str]:
    """Return the command, with the cluster file that it names."""
    store.mkdir(parents=True, exist_ok=True)
    cluster = store / f"{way}.yaml"
    cluster.write_text(f'workers: 0\nprecision: bf16\ncompile: "{way}"\n')  # off without quotes is a word of YAML
    words = ["train", RECIPE, f"schedule.steps={steps}", f"schedule.report_every={steps // reports}"]
    small = [*SMALL, "schedule.global_batch=8"] if site.small else []
    return [*words, *small, "--cluster", str(cluster), "--out", str(store / "runs"), "--json"]


def call(words: list[str]) -> dict[str, Any]:
    """Run `raykd` and return the JSON object that is its last line.

    Raises:
        RuntimeError: with the last lines of its output, if it fails.
    """
    done = subprocess.run([sys.executable, "-m", "raykd", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(['raykd', *words])}: {' '.join(done.stderr.splitlines()[-3:])}")
    found: dict[str, Any] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    return found


def trial(way: str, steps: int, site: Site) -> dict[str, Any]:
    """Return the pace of a few steps behind their first half, in which things are compiled and the pool is filled."""
    words = [*command(way, steps, 2, site.folder / f"pace_{way}", site), *([] if site.small else TRIAL)]
    first, last = rows_of(call(words), site.folder / f"pace_{way}")[-2:]
    seconds = elapsed(last) - elapsed(first)
    return {"steps_per_second": (last["step"] - first["step"]) / seconds, "first_half_seconds": elapsed(first)}


def whole(way: str, steps: int, site: Site) -> dict[str, Any]:
    """Train, and return accuracies by the minute, with the result."""
    store = site.folder / f"train_{steps}"
    words = command(way, steps, 2 if site.small else REPORTS, store, site)
    began = time.monotonic()
    result = call(words)
    minutes = (time.monotonic() - began) / 60
    curve = [
        {"step": row["step"], "minute": elapsed(row) / 60, **{k: v for k, v in row.items() if is_shown(k)}}
        for row in rows_of(result, store)
    ]
    shown = {key: result.get(key) for key in ("run", "selected", "blind", "last", "best", "phases", "images")}
    how = "--precision bf16" if way == "off" else f"--cluster {way}.yaml"
    typed = f"raykd train {RECIPE} schedule.steps={steps} {how}"
    return {"command": typed, "compile": way, "steps": steps, "minutes": minutes, "by_report": curve, **shown}


def rows_of(result: dict[str, Any], store: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's reports."""
    text = (store / "runs" / result["run"] / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def elapsed(row: dict[str, Any]) -> float:
    """Return the seconds from the start of the training to a report."""
    return float(row["step"]) / float(row["steps_per_second"])


def is_shown(name: str) -> bool:
    """Tell whether a figure of a report belongs to the curve."""
    return name in ("accuracy/top1", "agreement", "blind/agreement")
