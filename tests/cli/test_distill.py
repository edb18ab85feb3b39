"""`raykd distill` as a new user types it: a plan, a session, its end, wrong inputs."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.runners.distill import session
from raykd.runners.distill.session import DistillStopped
from tests.cli.conftest import Raykd
from tests.cli.test_stop import command
from tests.runners.distilling import SMALL, SMALL_DAFL, distil, fixed, train_teacher


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_teacher(tmp_path_factory.mktemp("trained") / "digits net.safetensors")


def test_a_dry_run_says_what_would_be_tried_and_keeps_nothing(raykd: Raykd, trained: Path) -> None:
    done = raykd("distill", str(trained), "--data", "digits", "--minutes", "5", "--dry-run", *SMALL)
    assert done.exit_code == 0, done.stderr
    assert "BatchNorm layers, whose statistics" in done.stdout
    for words in ("fast", "dafl", "dfad", "noise is the control", "seconds a step", "round 1: candidates", "expected"):
        assert words in done.stdout
    assert "images 1x32x32" in done.stdout
    assert not list(Path().iterdir())
    told = raykd("distill", str(trained), "--data", "digits", "--minutes", "5", "--dry-run", "--json", *SMALL)
    plan = json.loads(told.stdout)
    assert plan["student"] == "lenet5_half"
    assert all(one["seconds_per_step"] > 0 and one["steps"] >= 12 for one in plan["candidates"])


def test_a_session_ends_with_a_student_a_recipe_and_an_export(
    raykd: Raykd, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "plan_session", fixed(0))
    arguments = ("distill", str(trained), "--data", "digits", "--method", "dafl", *SMALL_DAFL)
    done = raykd(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert resolve(load_recipe(result["recipe"])).run_id == result["run"]
    assert (Path(result["export"]) / "predict.py").is_file()
    assert {one["name"]: one["state"] for one in result["candidates"]} == {"dafl": "chosen", "noise": "dropped"}
    assert "what is tried" in done.stderr
    again = raykd(*arguments)
    assert again.exit_code == 0
    for words in (result["run"], "they chose nothing", "raykd train makes the same run"):
        assert words in again.stdout


def test_a_kill_and_a_signal_are_survived(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DistillStopped):
        distil(trained, Path("runs"), monkeypatch, should_stop=lambda: True, plan=fixed(0), methods=("dafl",))
    (file,) = Path("runs").glob("distillations/*/session.json")
    planned = json.loads(file.read_text())["plan"]
    arguments = ("distill", str(trained), "--data", "digits", "--minutes", "1", "--method", "dafl", *SMALL_DAFL)

    def wait_for(pattern: str) -> None:
        deadline = time.monotonic() + 120
        while not list(Path("runs").glob(pattern)):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with command(*arguments) as process:
        wait_for("digits_net_dafl-*/checkpoints/step_0000002")
        process.kill()
        process.wait()
    with command(*arguments) as process:
        wait_for("digits_net_noise-*/environment.json")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=240)
        assert process.returncode in (0, 130), told
        assert process.returncode == 0 or "the same command continues" in told or "interrupted" in told
    with command(*arguments) as process:
        out, told = process.communicate(timeout=240)
        assert process.returncode == 0, told
    record = json.loads(file.read_text())
    assert record["plan"] == planned, "the steps are those of the first command"
    assert "they chose nothing" in out
    undisturbed = distil(trained, Path("other"), monkeypatch, plan=fixed(0), methods=("dafl",))
    assert record["result"]["run"] == undisturbed.run
    assert record["rounds"][0]["verdict"]["scores"] == undisturbed.rounds[0].to_dict()["verdict"]["scores"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.safetensors", "--data", "digits"], "absent.safetensors"),
        (["teacher.safetensors"], "trained on? Say it by data.name=NAME"),
        (["teacher.safetensors", "--data", "digit"], "did you mean 'digits'"),
        (["teacher.safetensors", "--data", "digits", "--minutes", "0"], "--minutes is 0: give a number from 0.1 to"),
        (["teacher.safetensors", "--data", "digits", "--minutes", "0.1"], "minutes suffice for no candidate"),
        (["teacher.safetensors", "--data", "digits", "--minutes", "1e308"], "--minutes is 1e+308: give a number from"),
        (["teacher.safetensors", "--data", "digits", "--minutes", "nan"], "--minutes is nan: give a number from"),
        (["teacher.safetensors", "--data", "digits", "--minutes", "-1"], "--minutes is -1: give a number from"),
        (["teacher.safetensors", "--data", "digits", "--target", "9" * 400], "neither a number of parameters"),
        (["teacher.safetensors", "--data", "digits", "--target", "inf"], "neither a number of parameters"),
        (["teacher.safetensors", "--data", "digits", "--method", "dafl", "method.student_steps=4"],
         "'method.student_steps=4' is a field of none that is tried (dafl, noise)"),
        (["teacher.safetensors", "--data", "digits", "--student", "lenet6"], "did you mean 'lenet5'"),
        (["teacher.safetensors", "--data", "digits", "--student", "lenet5", "student.model=lenet5"], "given twice"),
        (["teacher.safetensors", "--data", "digits", "--target", "10"], "the smallest student that is known here has"),
        (["teacher.safetensors", "--data", "digits", "--target", "0.5", "--student", "lenet5_half"], "give either"),
        (["teacher.safetensors", "--data", "digits", "--target", "x"], "neither a number of parameters"),
        (["teacher.safetensors", "--data", "digits", "--method", "dafll"], "did you mean 'dafl'"),
        (["teacher.safetensors", "--data", "digits", "--method", "kd"], "method kd needs more than the teacher"),
        (["teacher.safetensors", "--data", "digits", "schedule.steps=5"], "the budget is given by --minutes"),
        (["teacher.safetensors", "--data", "digits", "student_optim.rate=1"], "student_optim.rate"),
        (["teacher.safetensors", "--data", "digits", "method.lr=1"], "method.lr"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_line(raykd: Raykd, teacher: Path, arguments: list[str], says: str) -> None:
    done = raykd("distill", *arguments)
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert not list(Path().glob("runs/*/status.json"))


def test_a_student_is_proposed_by_a_target(raykd: Raykd, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "plan_session", fixed(0))

    def planned(*more: str) -> str:
        asked = ("--data", "digits", "--dry-run", "--json", "--method", "dafl", *more, *SMALL_DAFL)
        done = raykd("distill", teacher.name, *asked)
        assert done.exit_code == 0, done.stderr
        found: str = json.loads(done.stdout)["student"]
        return found

    assert planned("--target", "0.3") == "lenet5_half"
    assert planned("--target", "1M") == "lenet5_bn"
    assert planned("--student", "lenet5") == "lenet5"


def test_a_network_of_ones_own_is_a_student(raykd: Raykd, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "plan_session", fixed(0))
    Path("mine.py").write_text(
        "from torch import nn\n\n"
        "def net(num_classes):\n"
        "    layers = nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    done = raykd("distill", teacher.name, "--data", "digits", "--method", "dafl", "--json",
                 "student.factory=mine:net", *SMALL_DAFL)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["student"] == "mine:net"


def test_weights_in_another_folder_make_a_recipe_that_finds_them(
    raykd: Raykd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "plan_session", fixed(0))
    torch.manual_seed(0)
    Path("sub").mkdir()
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), "sub/t.safetensors")
    where = os.path.join(str(tmp_path), "sub", "t.safetensors")
    done = raykd("distill", where, "--data", "digits", "--method", "dafl", "--json", *SMALL_DAFL)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    recipe = str(Path(result["recipe"]).resolve())
    assert resolve(load_recipe(recipe)).run_id == result["run"]
    monkeypatch.chdir("sub")
    found = resolve(load_recipe(recipe))
    assert found.run_id == result["run"]
    assert found.recipe.teacher is not None
    assert found.recipe.teacher.weights == where
