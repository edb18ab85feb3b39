"""A method of another package is one file and a recipe: it makes images, augments and replays; all of raykd works."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from raykd.config.optim import Adam
from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.stop import Interrupted
from raykd.methods import METHODS
from raykd.models import build_model
from raykd.planning import predict as prediction
from raykd.planning import profile
from raykd.planning.plan import WorkerBudget, plan
from raykd.planning.predict import TrialSite
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import dump_recipe, load_recipe
from raykd.results import RunResult
from raykd.store.checkpoint import latest_checkpoint, read_checkpoint
from raykd.store.rows import parse_rows
from raykd.store.workspace import Workspace
from tests.methods.packages import install
from tests.ports import free_port

NAME = "image_replay"
SOURCE = Path(__file__).with_name(f"{NAME}.py").read_text()
STEPS, BATCH, UPDATES = 4, 8, 3
RECIPE = {
    "data": "digits",
    "teacher": {"model": "lenet5", "weights": "teacher.safetensors"},
    "student": {"model": "lenet5_half"},
    "method": {"name": NAME, "augment": ["crop", "flip", "rotate"], "generator_optim": {"name": "adam", "lr": 0.01}},
    "student_optim": {"name": "adam", "lr": 0.01, "schedule": {"name": "cosine"}},
    "schedule": {"steps": STEPS, "report_every": 2, "global_batch": BATCH},
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a recipe, a teacher, and a package with the method beside them; return the package's."""
    monkeypatch.chdir(tmp_path)
    install(tmp_path / "site", "replay-methods", {"replaying": SOURCE}, {NAME: "replaying:ImageReplay"})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    Path("mine.yaml").write_text(yaml.safe_dump(RECIPE))
    torch.manual_seed(0)
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    list(network.parameters())[-2].data.mul_(30)  # strong opinions
    save_file(network.state_dict(), "teacher.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "site"
    torch.set_num_threads(threads)
    METHODS.pop(NAME, None)
    sys.modules.pop("replaying", None)


def train(store: Path, until: int | None = None) -> tuple[RunResult, Path]:
    recipe = load_recipe("mine.yaml")
    context = RunContext(World.alone(), Workspace(None, store), Runtime(compile="off"), LocalReporter, until=until)
    return run(resolve(recipe), context), store / resolve(recipe).run_id


def losses(directory: Path) -> list[dict[str, Any]]:
    rows = parse_rows((directory / "metrics.jsonl").read_text())
    return [{name: value for name, value in row.items() if "per_second" not in name} for row in rows]


def state(directory: Path) -> dict[str, Any]:
    path = latest_checkpoint(directory / "checkpoints")
    assert path is not None
    return dict(read_checkpoint(path).state["method"])


def test_nothing_of_a_package_is_imported_before_its_method_is_named() -> None:
    assert NAME in METHODS.names()
    load_recipe("dafl_digits")
    assert "replaying" not in sys.modules
    recipe = load_recipe("mine.yaml", ["method.temperature=2"])
    assert "replaying" in sys.modules
    assert (type(recipe.method).__name__, recipe.method.name) == ("ImageReplayConfig", NAME)
    assert recipe.method.model_dump()["temperature"] == 2
    Path("again.yaml").write_text(dump_recipe(recipe))
    assert resolve(load_recipe("again.yaml")).run_id.rpartition("-")[0][-8:] == resolve(recipe).content_hash
    assert resolve(recipe).content_hash != resolve(load_recipe("mine.yaml")).content_hash


def test_a_run_remembers_and_a_stopped_one_goes_on_bit_for_bit(tmp_path: Path) -> None:
    result, whole = train(tmp_path / "whole")
    assert result.selected == "blind", "its images are what students are judged on"
    assert result.images == STEPS * UPDATES * BATCH
    assert {role: sets for role, sets in result.data_opened.items() if sets} == {"test": ["digits/test"]}
    assert list(whole.glob("**/*.png")), "sheets of samples"
    memory = state(whole)["memory"]
    assert (memory.dtype, len(memory)) == (torch.uint8, STEPS * BATCH)
    assert state(whole)["updaters"]["student"]["step"] == STEPS * UPDATES

    with pytest.raises(Interrupted, match="stopped at step 2 of 4"):
        train(tmp_path / "parts", until=2)
    _, parts = train(tmp_path / "parts")
    assert losses(parts) == losses(whole)
    assert torch.equal(state(parts)["memory"], memory)
    ours, theirs = (load_file(directory / "student.safetensors") for directory in (parts, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_students_schedule_ends_with_its_last_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[tuple[int, int]] = []
    original = Adam.lr_at

    def recorded(self: Adam, step: int, total_steps: int) -> float:
        rates.append((step, total_steps))
        return original(self, step, total_steps)

    monkeypatch.setattr(Adam, "lr_at", recorded)
    train(tmp_path / "runs")
    assert [step for step, total in rates if total == STEPS] == list(range(STEPS)), "the generator's"
    assert [step for step, total in rates if total == STEPS * UPDATES] == list(range(STEPS * UPDATES))


def test_its_cost_is_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "run_in_process", lambda task, told, site: profile.answer(task, told))
    monkeypatch.setattr(profile, "prepare_host", lambda threads: None)
    terms = WorkerBudget(workers=2, memory=None, gpus=0, cpus=1, price=None)
    found = plan(resolve(load_recipe("mine.yaml")), Runtime(), TrialSite(Workspace(None, tmp_path / "runs"), 2), terms)
    planned = found.to_dict()["runs"][0]
    assert planned["measured"]["size_is"] == "images"
    assert planned["images_per_worker"] == BATCH // 2
    assert set(planned["parameters"]) == {"student", "teacher", "generator"}
    assert planned["traffic_bytes"]["gradients"] > 0


@pytest.mark.slow
def test_two_workers_of_the_command_line_learn_what_one_does(tmp_path: Path, package: Path) -> None:
    _, alone = train(tmp_path / "alone")
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    path = os.pathsep.join([str(package), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "raykd", "train", "mine.yaml", "--out", "together"]
    workers = [
        subprocess.Popen(command, env={**os.environ, **group, "PYTHONPATH": path, "RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [worker.wait(240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    together = tmp_path / "together" / alone.name
    assert json.loads((together / "environment.json").read_text())["workers"] == 2
    # Rounding to 8 bits may fall either way where the sums of two workers differ in the last digit.
    difference = state(together)["memory"].int() - state(alone)["memory"].int()
    assert difference.abs().max() <= 1
    assert difference.count_nonzero() <= difference.numel() // 100
    ours, theirs = load_file(together / "student.safetensors"), load_file(alone / "student.safetensors")
    for name, weights in theirs.items():
        # Adam moves a weight by its rate however small its gradient: one that is but rounding goes either way.
        apart = ~torch.isclose(ours[name], weights, rtol=1e-3, atol=1e-4)
        assert apart.count_nonzero() <= apart.numel() // 100, name
        torch.testing.assert_close(ours[name], weights, rtol=1e-3, atol=2e-3)
