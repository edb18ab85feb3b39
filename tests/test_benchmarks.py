"""What `make bench` runs, and that each script runs, with its smallest arguments; nothing is measured here."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from raykd.data import parquet
from tests.architecture.imports import ROOT

OF_DATA = {"mosaic_norm.py", "streaming.py"}
NUMBER = r"[\d.,]+"
FAST = {  # one of each kind: ways to take a step, runs of workers, images from files
    "cached_logits.py": ("--teacher lenet5 --steps 1 --rounds 1", rf"lenet5_half, 256 \| {NUMBER} \| {NUMBER} \| "),
    "mosaic_norm.py": (
        "--workers 2 --seeds 1 schedule.steps=1 schedule.global_batch=8 method.generator_width=16 "
        "'teacher.overrides={schedule.steps: 2, schedule.report_every: 2}'",
        rf"2 workers, each by itself: {NUMBER} \({NUMBER}\)",
    ),
    "streaming.py": ("--data mnist --buffer 2048 --rounds 1", rf"streamed: {NUMBER} images/s, {NUMBER} CPU-us"),
}
SLOW = {
    "bank.py": ("--members 10 --rung loop eager --rounds 1", rf"bank, eager \| {NUMBER} \| {NUMBER} \| "),
    "blind_judge.py": (
        "--steps 1 --out . schedule.global_batch=8 method.generator_width=8 "
        "'teacher.overrides={schedule.steps: 2, schedule.report_every: 2}'",
        rf"Spearman \| \|( -?({NUMBER}|nan) \|){{5}}",
    ),
    "class_skew.py": ("--steps 2 --seeds 1", rf"on own classes: +{NUMBER} % right, +{NUMBER} ms per step"),
    "imagenet_loading.py": ("--images 16 --batch 8 --rounds 1", rf"raykd, train \| {NUMBER} \| "),
    "dafl_step.py": (
        "--case mnist --batch 8 --rung published --rung raykd --rounds 1",
        rf"raykd's method, eager \| {NUMBER} \| {NUMBER} \| ",
    ),
    "idle_threads.py": ("--seconds 0.2 --rounds 1 --load 1 --trials 1", rf"alone \| {NUMBER} \| {NUMBER} \| {NUMBER}"),
    "lsgdfd_step.py": (
        "--members 2 --images 4 --rung obvious raykd --rounds 1",
        rf"raykd's method, eager \| {NUMBER} \| {NUMBER} \| ",
    ),
    "pool_step.py": ("--batch 8 --rounds 1", rf"invert \| eager \| {NUMBER} \| {NUMBER} \|"),
    "ranks.py": ("--workers 1,4 --phase student --images 2", rf"student \| 4 \| {NUMBER} \| {NUMBER} \| 2 \| "),
    "scaling.py": ("--workers 1 --rounds 1 --steps 1", rf"exchange \| 1 \| {NUMBER} \| 1.00 \| "),
    "plan_accuracy.py": ("supervised_digits_lenet5 --steps 1", rf"peak memory, GiB \| {NUMBER} \| {NUMBER} \| "),
}
ON_RAY = {
    "pruning.py": (
        "smallest --trials 2 --out . schedule.steps=2 schedule.report_every=1",
        rf"asha \| 2 \| \d \| \d \| {NUMBER} \| \S+ {NUMBER}, trial \d \| {NUMBER} \|",
    ),
    "ray_vs_torchrun.py": ("--rounds 1 --steps 6", rf"ray / torchrun  {NUMBER}"),
    "search_overhead.py": ("--trials 2 --rounds 1", rf"searched +{NUMBER} s a trial"),
    "thousand.py": ("--folder . --classes 8 --steps 1 --wave 1", r"8 members, .+ all steps done: True"),
}
SMALLEST = {**FAST, **SLOW, **ON_RAY}
"""Of each script the arguments that make it small, and a figure that it prints."""


def marks(script: str) -> list[pytest.MarkDecorator]:
    slow = [pytest.mark.slow if script in FAST else pytest.mark.endurance]
    return [*slow, pytest.mark.ray] if script in ON_RAY else slow


def said(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if name not in ("RAYKD_DATA", "MAKEFLAGS")}
    return subprocess.run(command, cwd=ROOT, env={**others, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("environment", [{}, {"RAYKD_DATA": "data"}])
def test_what_runs_needs_no_argument_and_has_its_data(environment: dict[str, str]) -> None:
    (loop,) = [line for line in said("make", "-n", "bench", **environment).stdout.splitlines() if "for script" in line]
    wanted = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"pruning.py"}
    listed = loop.partition(" in ")[2].partition(";")[0].split()
    assert {name.rpartition("/")[2] for name in listed} == wanted - (set() if environment else OF_DATA)


@pytest.mark.parametrize("script", sorted(OF_DATA))
def test_without_data_a_line_says_so(script: str) -> None:
    done = said(sys.executable, f"benchmarks/{script}")
    assert done.returncode == 1
    assert done.stderr.startswith("RAYKD_DATA is not set: it names the folder with ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few made-up images under the names of real sets."""
    root = tmp_path_factory.mktemp("data")
    shape = {"shape": "[28, 28, 1]", "encoding": parquet.RAW, "classes": json.dumps(list("0123456789"))}
    for name in ("mnist", "fashion-mnist"):
        for split, count in (("train", 4096), ("test", 64)):
            pixels = np.random.default_rng(0).integers(0, 256, (count, 28 * 28), dtype=np.uint8)
            records = [(image.tobytes(), row % 10) for row, image in enumerate(pixels)]
            parquet.write(root / name, split, records, {"name": name, "split": split, "count": str(count), **shape})
    return root


@pytest.fixture
def space(tmp_path: Path) -> None:
    """A search space in the working directory that ends poor trials, of runs that are over at once."""
    content = {
        "recipe": "kd_digits",
        "overrides": {"teacher.overrides": {"schedule.steps": 2, "schedule.report_every": 2}},
        "scheduler": {"name": "asha", "grace": 1},
        "space": {"method.temperature": {"uniform": [1, 4]}},
    }
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "smallest.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.usefixtures("space")
@pytest.mark.parametrize("script", [pytest.param(script, marks=marks(script)) for script in SMALLEST])
def test_a_script_runs_and_prints_its_figures(tmp_path: Path, data: Path, script: str) -> None:
    arguments, figure = SMALLEST[script]
    environment = {**os.environ, "RAYKD_DATA": str(data), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *shlex.split(arguments)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(figure, done.stdout), done.stdout


def test_no_script_is_left_out() -> None:
    assert SMALLEST.keys() == {path.name for path in (ROOT / "benchmarks").glob("*.py")}
