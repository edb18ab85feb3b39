"""A run as a whole: killed, stopped, moved and doubled, and what its directory tells of it."""

import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.artifacts.pool_files import open_pool
from raykd.distributed.host import prepare_host
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.store.checkpoint import read_checkpoint
from raykd.store.run_directory import RunDirectory
from tests.engine.killed import MOMENTS, RECIPES, STEPS
from tests.golden.shrunk import Load, shrunk
from tests.methods.toy import assert_same

ROOT = Path(__file__).parent.parent.parent
SHORT = ["schedule.steps=4", "schedule.report_every=1", "controls=[]"]


@pytest.fixture(scope="module", autouse=True)
def host() -> None:
    """Compute as the killed processes do; the setting stays, so tests before these may have made it too."""
    prepare_host(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(directory: Path) -> list[dict[str, Any]]:
    reports = RunDirectory(directory).rows()
    return [{k: v for k, v in row.items() if not k.endswith("_per_second")} for row in reports]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Compare all but the clock: weights and state bit for bit, metrics and result number by number."""
    assert (ours / "student.safetensors").read_bytes() == (theirs / "student.safetensors").read_bytes()
    last = [sorted((d / "checkpoints").glob("step_*"))[-1] for d in (ours, theirs)]
    assert last[0].name == last[1].name
    found, expected = (read_checkpoint(path) for path in last)
    assert_same(found.weights, expected.weights)
    clocks = {"seconds": 0, "phases": {}}
    assert_same({**found.state, **clocks}, {**expected.state, **clocks})
    results = [RunDirectory(d).status()["result"] | clocks for d in (ours, theirs)]
    assert results[0] == results[1]
    if expected_images := images(theirs):
        assert_same(images(ours), expected_images)


def images(directory: Path) -> list[Tensor]:
    """The images of a finished run's pool with all that is kept of them, by number, however they came in files."""
    if not RunDirectory(directory).pool.is_dir():
        return []
    parts = zip(*open_pool(RunDirectory(directory)).parts(), strict=True)
    pixels, labels, numbers, logits = (torch.cat(values) for values in parts)
    order = numbers.argsort()
    return [values[order] for values in (pixels, labels, numbers, logits)]


KILLED = pytest.mark.parametrize(
    "name",
    ["dafl_digits", *(pytest.param(name, marks=pytest.mark.endurance) for name in ("fast_digits", "mosaickd_mnist"))],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module", params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    """The recipe that is disturbed."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing disturbed."""
    with shrunk(STEPS, tmp_path_factory.mktemp("whole")) as (place, load):
        recipe = load(name, RECIPES[name])
        run(resolve(recipe), place)
        return place.workspace.store / resolve(recipe).run_id


@pytest.fixture(scope="module")
def killed(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """The directory of the same run after being killed at every moment, what was said, and the log."""
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.engine.killed", str(root), name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    with shrunk(STEPS, root) as (place, load):
        recipe = load(name, RECIPES[name])
        run(resolve(recipe), place)
        directory = place.workspace.store / resolve(recipe).run_id
    deaths = [json.loads(line) for line in done.stdout.splitlines()]
    return directory, deaths, done.stderr


@KILLED
def test_every_moment_killed_the_process(
    killed: tuple[Path, list[dict[str, Any]], str],
) -> None:
    _, deaths, _ = killed
    assert [death["moment"] for death in deaths] == list(MOMENTS)
    assert {death["signal"] for death in deaths} == {signal.SIGKILL}
    saved = [death["saved"] for death in deaths]
    assert saved[0] == ["step_0000002"]
    assert saved[1] == [".writing-step_0000004", "step_0000002"]
    assert saved[4] == ["step_0000006", "step_0000008", "step_0000010"]
    assert saved[5] == ["step_0000010", "step_0000012"]


@KILLED
def test_a_killed_run_ends_as_if_nothing_had_happened(
    killed: tuple[Path, list[dict[str, Any]], str], whole: Path
) -> None:
    assert_same_run(killed[0], whole)
    assert not list((killed[0] / "checkpoints").glob(".*"))
    files = [{path.name: path.read_bytes() for path in (one / "pool").glob("*")} for one in (killed[0], whole)]
    assert files[0] == files[1], "its images come in the same files"


@KILLED
def test_no_step_appears_twice(killed: tuple[Path, list[dict[str, Any]], str], whole: Path) -> None:
    steps = [row["step"] for row in rows(killed[0])]
    assert steps == sorted(set(steps))
    expected = {row["step"]: row for row in rows(whole)}
    assert all(row == expected[row["step"]] for row in rows(killed[0]))


@KILLED
def test_no_step_is_lost(killed: tuple[Path, list[dict[str, Any]], str], whole: Path) -> None:
    assert rows(killed[0]) == rows(whole)


def stopping(place: RunContext) -> RunContext:
    """The same place, where somebody asks to stop at once."""
    return replace(place, make_reporter=lambda directory: LocalReporter(directory, lambda: True))


def stop(recipe: Recipe, place: RunContext, times: int) -> None:
    """Stop the run of this recipe, but not that of its teacher, after so many steps."""
    teacher = recipe.teacher
    assert teacher is not None
    for step in range(1, times + 1):
        with pytest.raises(Interrupted, match=f"stopped at step {step} of") as caught:
            run(resolve(recipe), stopping(place))
        assert caught.value.exit_code == 130


def test_a_stopped_and_moved_run_goes_on(tmp_path: Path, name: str, whole: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    with shrunk(STEPS, before) as (place, load):
        recipe = load(name, RECIPES[name])
        assert recipe.teacher is not None
        run(resolve(load(str(recipe.teacher.recipe))), place)
        stop(recipe, place, times=3)
        assert RunDirectory(place.workspace.store / resolve(recipe).run_id).status()["state"] == "interrupted"
    named = [
        path.relative_to(tmp_path)
        for path in before.rglob("*")
        if path.is_file() and str(tmp_path).encode() in path.read_bytes()
    ]
    assert named == []
    before.rename(after)
    with shrunk(STEPS, after) as (place, load):
        run(resolve(load(name, RECIPES[name])), place)
    assert_same_run(after / "runs" / whole.name, whole)
    assert rows(after / "runs" / whole.name) == rows(whole)


def test_a_finished_run_is_only_read(name: str, whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    shutil.copytree(whole.parent, store)
    (store / whole.name / "checkpoints").rename(store / "elsewhere")
    with shrunk(STEPS, tmp_path) as (place, load):
        result = run(resolve(load(name, RECIPES[name])), place)
    assert result.to_dict() == RunDirectory(whole).status()["result"]
    assert result == RunDirectory(whole).result()
    assert result.selected == ("last" if "mosaic" in name else "blind")


def damaged_run(root: Path, how_many: int) -> tuple[Recipe, RunContext, Load]:
    """Stop a run at its third report and damage its newest checkpoints."""
    with shrunk(2, root) as (place, load):
        recipe = load("supervised_digits_lenet5", SHORT)
        for _ in range(3):
            with pytest.raises(Interrupted):
                run(resolve(recipe), stopping(place))
    checkpoints = sorted((place.workspace.store / resolve(recipe).run_id / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step_0000002", "step_0000003"]
    for path in checkpoints[-how_many:]:
        content = bytearray((path / "state.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (path / "state.pt").write_bytes(content)
    return recipe, place, load


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, place, _ = damaged_run(tmp_path / "damaged", 1)
    with caplog.at_level(logging.WARNING):
        run(resolve(recipe), place)
    assert "step_0000003 is damaged (state.pt differs from its checksum)" in caplog.text
    with shrunk(2, tmp_path / "other") as (other, load):
        run(resolve(load("supervised_digits_lenet5", SHORT)), other)
    assert_same_run(place.workspace.store / resolve(recipe).run_id, other.workspace.store / resolve(recipe).run_id)
    assert [row["step"] for row in rows(place.workspace.store / resolve(recipe).run_id)] == [1, 2, 3, 4]


def test_a_run_without_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    recipe, place, _ = damaged_run(tmp_path, 2)
    with pytest.raises(CorruptError, match="no whole checkpoint") as caught:
        run(resolve(recipe), place)
    assert caught.value.exit_code == 4


def test_the_environment_names_no_place_and_no_machine(whole: Path) -> None:
    text = (whole / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["packages"].keys() >= {"torch", "numpy", "pydantic", "safetensors"}
    assert environment["threads_per_worker"] == 1
    assert environment["workers"] == 1
    assert socket.gethostname() not in re.findall(r"[\w-]+", text)
    assert str(ROOT) not in text


def test_a_run_directory_says_what_was_run(whole: Path, tmp_path: Path) -> None:
    with shrunk(STEPS, tmp_path):  # the id depends on the teacher's recipe, which was small
        assert resolve(load_recipe(str(whole / "recipe.yaml"))).run_id == whole.name
    names = [path.name for path in (whole / "samples").iterdir()]
    assert sorted(names) == [f"step_{step:07d}.png" for step in range(2, STEPS + 1, 2)]
