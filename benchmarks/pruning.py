"""What ending poor trials early saves: one space with and without a scheduler, the same proposals, at the same time.

    RAYKD_DATA=FOLDER python benchmarks/pruning.py dafl_mnist --trials 16 schedule.steps=300 schedule.report_every=50

Proposals are random, so trial N tries the same values in both searches, which have one trial at a time each. Runs that
trials build on are trained beforehand and shared.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import yaml

from raykd.search.space_file import space_files

ONE = {"address": "local", "workers": 1, "cpus_per_worker": 2, "threads": 1, "compile": "off"}


def main() -> None:
    """Print trials started, pruned and finished, the seconds of training, and the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/pruning"))
    asked = parser.parse_intermixed_args()
    raw = yaml.safe_load(space_files()[asked.space].read_text())
    raw["sampler"] = {"name": "random"}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "one.yaml").write_text(yaml.safe_dump(ONE))
    searches = {raw["scheduler"]["name"]: raw, "none": {**raw, "scheduler": {"name": "none"}}}
    first = {**raw, "trials": 1, "points": [], "space": dict(list(raw["space"].items())[:1])}
    prepared = _started(asked, "prepared", first, 1)
    prepared.communicate()
    if prepared.returncode:
        sys.exit(prepared.returncode)
    processes = {name: _started(asked, name, space, asked.trials) for name, space in searches.items()}
    print("| scheduler | started | pruned | finished | seconds of trials | best, trial | its test top-1 |")
    print("|---|---|---|---|---|---|---|")
    for name, process in processes.items():
        told, _ = process.communicate()
        print(_row(name, json.loads(told.splitlines()[-1])))


def _started(asked: argparse.Namespace, name: str, space: dict[str, Any], trials: int) -> "subprocess.Popen[str]":
    """Start a search in a store of its own, with what the preparation has trained."""
    path, store = asked.out / f"{name}.yaml", asked.out / name
    path.write_text(yaml.safe_dump(space, sort_keys=False))
    store.mkdir(exist_ok=True)
    for run in (asked.out / "prepared").glob("*-s[0-9]*"):
        link = store / run.name
        if name != "prepared" and not link.exists():
            link.symlink_to(run.absolute())
    command = [sys.executable, "-m", "raykd", "tune", str(path), *asked.overrides, "--trials", str(trials)]
    return subprocess.Popen(
        [*command, "--cluster", str(asked.out / "one.yaml"), "--out", str(store), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )


def _row(name: str, report: dict[str, Any]) -> str:
    study = optuna.load_study(study_name=report["study"], storage=f"sqlite:///{report['directory']}/study.db")
    ended = [
        (t.datetime_complete - t.datetime_start).total_seconds()
        for t in study.trials
        if t.datetime_start and t.datetime_complete
    ]
    counts, best = report["trials"], report["best"][0]
    (objective, value), test = next(iter(best["values"].items())), best["test/accuracy/top1"]
    return (
        f"| {name} | {len(ended)} | {counts['pruned']} | {counts['complete']} | {sum(ended):.0f} | "
        f"{objective} {value:.1f}, trial {best['trial']} | {test:.1f} |"
    )


if __name__ == "__main__":
    main()
