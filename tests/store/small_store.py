"""A store with one of everything, each of a few steps: runs, a bank, a set, logits, a search; and its commands."""

import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from click.testing import CliRunner

from raykd.cli.app import app
from raykd.cluster.config import load_cluster
from raykd.engine.stop import Interrupted
from raykd.files import sha256_of
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.runners.local import run_here
from raykd.store.workspace import Workspace

SMALL = {"steps": 4, "report_every": 2, "global_batch": 20}
TEACHER = {"recipe": "supervised_digits_lenet5_bn", "overrides": {f"schedule.{key}": n for key, n in SMALL.items()}}
OPTIM = {"name": "adam", "lr": 1e-3}
RECIPES: dict[str, dict[str, Any]] = {
    "student": {
        "data": "digits",
        "teacher": TEACHER,
        "student": {"model": "lenet5_half"},
        "method": {"name": "dafl", "latent_dim": 8, "generator_width": 8, "generator_optim": OPTIM},
        "student_optim": OPTIM,
        "schedule": {"steps": 6, "report_every": 2, "global_batch": 20},
    },
    "kd": {"extends": "kd_digits", "teacher": TEACHER, "schedule": {**SMALL, "steps": 2}},
    "kept": {
        "extends": "kd_digits",
        "teacher": {"model": "lenet5_bn", "weights": "teacher.safetensors"},
        "method": {"name": "noise"},
        "schedule": {**SMALL, "steps": 2},
    },
    "bank": {
        "extends": "lsgdfd_digits_bank",
        "teacher": TEACHER,
        "method": {"generator": {"latent_dim": 8, "width": 8}, "settle_passes": 1},
        "schedule": SMALL,
    },
    "pool": {
        "extends": "fast_digits",
        "teacher": TEACHER,
        "method": {"latent_dim": 8, "generator_maps": [8, 8], "inner_steps": 1, "warmup_calls": 1, "student_steps": 2},
        "schedule": {"steps": 6, "report_every": 2, "global_batch": 20},
    },
    "kd_of_pool": {
        "extends": "kd_digits",
        "teacher": TEACHER,
        "bank": {"recipe": "pool.yaml", "images": 40},
        "schedule": {**SMALL, "steps": 2},
    },
    "heir": {
        "extends": "lsgdfd_digits",
        "teacher": TEACHER,
        "bank": {"recipe": "bank.yaml"},
        "schedule": {**SMALL, "steps": 2},
    },
    "on_set": {
        "extends": "kd_digits",
        "teacher": TEACHER,
        "data": {"name": "digits", "train": "data/made"},
        "schedule": {**SMALL, "steps": 2},
    },
}
SPACE = {"recipe": "kd.yaml", "trials": 3, "space": {"method.alpha": {"uniform": [0.1, 1.0]}}}
HERE = {"workers": 0, "compile": "off", "wave": 5}
IMAGES = "30"

PLACES = {
    "finished": "runs/student-*-s0",
    "stopped": "runs/student-*-s1",
    "teacher": "runs/supervised_*-s0",
    "bank": "runs/bank-*-s0",
    "half a bank": "runs/bank-*-s1",
    "pool": "runs/pool-*-s0",
    "half a pool": "runs/pool-*-s1",
    "kept": "runs/kept-*-s0",
    "weights": "runs/weights",
    "set": "data/made",
    "logits": "runs/logits",
    "search": "runs/searches/space-*",
}
VERBS: dict[str, tuple[str, ...]] = {
    "evaluate the finished": ("evaluate", "{finished}"),
    "inspect the finished": ("inspect", "{finished}"),
    "read the finished": ("train", "student.yaml"),
    "draw from the finished": ("synthesize", "{finished}", "--images", IMAGES, "--out", "data/new"),
    "evaluate the stopped": ("evaluate", "{stopped}"),
    "resume": ("train", "student.yaml", "seed=1"),
    "distil": ("train", "kd.yaml", "seed=5"),
    "make a bank": ("train", "bank.yaml", "seed=5", "--cluster", "here.yaml"),
    "read the bank": ("train", "bank.yaml", "--cluster", "here.yaml"),
    "draw from the bank": ("synthesize", "{bank}", "--images", IMAGES, "--out", "data/new"),
    "distil from the bank": ("train", "heir.yaml"),
    "resume the bank": ("train", "bank.yaml", "seed=1", "--cluster", "here.yaml"),
    "draw from the pool": ("synthesize", "{pool}", "--images", IMAGES, "--out", "data/new"),
    "distil from the pool": ("train", "kd_of_pool.yaml"),
    "resume the pool": ("train", "pool.yaml", "seed=1"),
    "evaluate without the teacher's file": ("evaluate", "{kept}"),
    "look at the set": ("synthesize", "{bank}", "--images", IMAGES, "--out", "data/made"),
    "distil on the set": ("train", "on_set.yaml"),
    "search": ("tune", "space.yaml"),
}
WRITTEN = (
    "runs/*/student.safetensors",
    "runs/*/bank/class_*.safetensors",
    "runs/*/pool/images-*.parquet",
    "data/*/train-*.parquet",
)
"""Files that a command may write and that must come out the same, bit for bit."""
_CLOCKS = {"seconds", "phases", "gpu_hours", "updated", "images_per_second", "steps_per_second"}
_VOLATILE = {*_CLOCKS, "written", "directory"}


@dataclass
class Outcome:
    """What a command did."""

    code: int
    told: str
    result: dict[str, Any]
    sums: dict[str, str]
    """Of the files that must come out the same, bit for bit."""
    changed: set[str]
    """Those that the command has written."""

    @property
    def traced(self) -> bool:
        """Tell whether it ended in a fault of raykd's."""
        return "This is a fault of raykd" in self.told or "Traceback" in self.told or self.code == 1

    @property
    def errors(self) -> list[str]:
        """Return the lines that say why it ended."""
        lines = self.told.splitlines()
        return [line for line in lines if line.startswith(("error: ", "Error: "))]


def found(folder: Path, pattern: str) -> Path:
    """Return the one path below a folder that is called so."""
    paths = list(folder.glob(pattern))
    assert len(paths) == 1, (folder, pattern, paths)
    return paths[0]


def build(folder: Path) -> None:
    """Make everything in a folder."""
    with _at(folder):
        for name, recipe in RECIPES.items():
            Path(f"{name}.yaml").write_text(json.dumps(recipe))
        Path("space.yaml").write_text(json.dumps(SPACE))
        Path("here.yaml").write_text(json.dumps(HERE))
        _must("train", "student.yaml")
        _leave("student.yaml", until=4)
        _must("train", "kd.yaml")  # whose teacher's logits are kept
        _must("train", "bank.yaml", "--cluster", "here.yaml")
        _leave("bank.yaml", until=6)
        _must("train", "pool.yaml")
        _leave("pool.yaml", until=4)
        _must("synthesize", str(found(Path(), PLACES["bank"])), "--images", IMAGES, "--out", "data/made")
        shutil.copy(found(Path(), PLACES["teacher"]) / "student.safetensors", "teacher.safetensors")
        _must("train", "kept.yaml")
        Path("teacher.safetensors").unlink()
        _search()


def run_in(folder: Path, *arguments: str) -> Outcome:
    """Run ``raykd`` in a folder, in this process."""
    with _at(folder):
        return _run(arguments)


@contextmanager
def _at(folder: Path) -> Iterator[None]:
    """Work in a folder as a user without a data root, in a process whose arithmetic stays as it is."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch.dict(os.environ), mock.patch("raykd.runners.local.prepare_host", lambda threads=None: None):
            for name in ("RAYKD_DATA", "RAYKD_DEBUG"):
                os.environ.pop(name, None)
            torch.set_num_threads(1)
            yield
    finally:
        os.chdir(before)


def _run(arguments: Sequence[str]) -> Outcome:
    crashed: list[str] = []

    def note(given: threading.ExceptHookArgs) -> None:
        crashed.append(f"Traceback of a thread: {given.exc_value!r}")

    before = _sums()
    with mock.patch("threading.excepthook", note):
        done = CliRunner().invoke(app, [*arguments, "--json"], prog_name="raykd")
    lines = done.stdout.splitlines()
    result = json.loads(lines[-1]) if done.exit_code == 0 and lines else {}
    after = _sums()
    if Path("trace").exists():
        crashed.append("Traceback: code in a file was executed")
    told = "\n".join([done.stderr, *crashed])
    changed = {name for name, found in after.items() if before.get(name) != found}
    return Outcome(done.exit_code, told, _settled(result), after, changed)


def _sums() -> dict[str, str]:
    paths = [path for pattern in WRITTEN for path in Path().glob(pattern) if path.is_file()]
    return {str(path): sha256_of(path) for path in paths}


def _settled(value: Any) -> Any:
    """Return what is the same in every folder and at every time."""
    if isinstance(value, dict):
        return {key: _settled(one) for key, one in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [_settled(one) for one in value]
    return value.removeprefix(f"{Path.cwd()}/") if isinstance(value, str) else value


def _must(*arguments: str) -> None:
    outcome = _run(arguments)
    assert outcome.code == 0, (arguments, outcome.told)


def _leave(recipe: str, until: int) -> None:
    cluster = load_cluster("here.yaml")
    try:
        run_here(
            resolve(load_recipe(recipe, ["seed=1"])), Workspace(None, Path("runs").absolute()), cluster.runtime,
            should_stop=bool, until=until,
        )  # fmt: skip
    except Interrupted:
        return
    raise AssertionError("it should have been stopped")


def _search() -> None:
    """Write the study of a search whose trials are all done, and let the command line report it."""
    from raykd.search.attributes import RUN as RUN_ID
    from raykd.search.setup import plan_search
    from raykd.search.space_file import load_space
    from raykd.search.study import draw_values, end_trial, open_study

    planned = plan_search(load_space("space.yaml"), Path("runs"))
    study = open_study(planned.space, planned.objectives, planned.folder, None)
    for number in range(3):
        trial = study.ask()
        values = draw_values(trial, planned.space)
        trial.set_user_attr(RUN_ID, planned.space.make_experiment(values).run_id)
        end_trial(study, trial, [float(number)] * len(planned.objectives))
    _must("tune", "space.yaml")
