"""Training by command: what is printed where, and that the same command reads and resumes."""

import json
import re
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Raykd, WriteRecipe


def test_a_run_prints_its_table_on_stdout_and_its_way_on_stderr(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("train", tiny(), "--out", "store")
    assert done.exit_code == 0, done.stderr
    for word in ("last", "blind *", "best (oracle)", "teacher", "published", "12.50", "98.90"):
        assert word in done.stdout
    assert re.search(r"data, train +none", done.stdout)
    assert re.search(r"data, test +digits/test", done.stdout)
    assert re.search(r"images +32\n", done.stdout)
    (directory,) = Path("store").glob("tiny-*-s0")
    assert re.search(rf"directory +{directory}\n", done.stdout)
    assert re.search(r"step 2/4 .*top-1 .*synthetic agreement .*kd .*ETA", done.stderr)
    assert re.search(r"step 4/4 .*img/s", done.stderr)
    assert "\x1b" not in done.stdout + done.stderr


def test_json_is_the_result_on_one_line(raykd: Raykd, tiny: WriteRecipe) -> None:
    recipe = tiny()
    first = json.loads(raykd("train", recipe, "--json").stdout)
    assert {"accuracy/top1", "accuracy/top5", "agreement", "kl", "ece"} <= first["blind"].keys()
    assert first["data_opened"]["train"] == []
    assert Path(first["directory"]).parent == Path("runs")
    kept = json.loads((Path(first["directory"]) / "status.json").read_text())["result"]
    assert {**kept, "directory": first["directory"]} == first
    again = raykd("train", recipe, "--json")
    assert json.loads(again.stdout.splitlines()[-1]) == first
    assert "finished already" in again.stderr
    assert "img/s" not in again.stderr, "what is read is not reported as if it were trained"


def test_a_finished_run_is_not_the_result_of_a_teacher_that_was_replaced(
    raykd: Raykd, tiny: WriteRecipe, teacher: Path
) -> None:
    recipe = tiny()
    run = json.loads(raykd("train", recipe, "--json").stdout.splitlines()[-1])["run"]
    whole = teacher.read_bytes()
    save_file({name: tensor + 1 for name, tensor in load_file(teacher).items()}, teacher)
    told = raykd("train", recipe)
    assert (told.exit_code, told.stdout) == (2, "")
    assert f"run {run} is finished, and teacher.safetensors was replaced since" in told.stderr
    assert raykd("train", recipe, "--out", "elsewhere").exit_code == 0
    teacher.write_bytes(whole)
    assert raykd("train", recipe).exit_code == 0
    teacher.unlink()
    assert raykd("train", recipe).exit_code == 0, "nobody says that it is another"


def test_seeds_run_one_after_another_and_are_averaged(raykd: Raykd, tiny: WriteRecipe) -> None:
    arguments = ("train", tiny(), "seed=3", "--seeds", "2")
    whole = json.loads(raykd(*arguments, "--json").stdout)
    assert [run["seed"] for run in whole["runs"]] == [3, 4]
    low, high = sorted(run["last"]["kl"] for run in whole["runs"])
    assert low < high
    assert whole["mean"]["last"]["kl"] == pytest.approx((low + high) / 2)
    assert whole["sd"]["last"]["kl"] == pytest.approx((high - low) / 2**0.5)
    table = raykd(*arguments).stdout
    assert f"{(low + high) / 2:.2f} ± {(high - low) / 2**0.5:.2f}" in table
    assert "seed 3" in table
    assert "seed 4" in table


def test_a_cluster_file_says_where(raykd: Raykd, tiny: WriteRecipe, tmp_path: Path) -> None:
    (tmp_path / "here.yaml").write_text("workers: 0\nstorage: elsewhere\n")
    done = json.loads(raykd("train", tiny(), "--cluster", "here.yaml", "--json").stdout)
    assert Path(done["directory"]).parent == Path("elsewhere")
    own = raykd("train", tiny(), "--cluster", "here.yaml", "--out", "mine", "--json")
    assert Path(json.loads(own.stdout)["directory"]).parent == Path("mine")


def test_a_fault_of_ours_leaves_its_traceback_in_a_file(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("raykd.runners.train.train", broken)
    failed = raykd("train", tiny(), "--out", "store")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ZeroDivisionError: by zero\n")
    assert "Traceback" not in failed.stderr
    (log,) = Path("store").glob("raykd-error-*.log")
    assert "in broken" in log.read_text()
    raykd("train", tiny(), "--out", "page.html")
    assert not Path("page.html").exists(), "it may be a file's name"
    monkeypatch.setenv("RAYKD_DEBUG", "1")
    assert "in broken" in raykd("train", tiny()).stderr


def test_padded_images_are_those_of_every_command(raykd: Raykd, tiny: WriteRecipe) -> None:
    recipe = tiny(data={"name": "digits", "pad": 2})
    done = raykd("train", recipe, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads((Path(result["directory"]) / "data.json").read_text())["pad"] == 2
    told = json.loads(raykd("inspect", result["directory"], "--json").stdout)
    assert told["accuracy/top1"] == pytest.approx(result["blind"]["accuracy/top1"])
    wrong = raykd("train", tiny(data={"name": "digits", "size": 28}))
    assert wrong.exit_code == 2
    assert "student lenet5_half: LeNet-5 needs images of exactly 32 x 32 pixels, got 28 x 28" in wrong.stderr


def test_the_precision_is_an_option(raykd: Raykd, tiny: WriteRecipe) -> None:
    recipe = tiny()
    done = raykd("train", recipe, "--precision", "bf16", "--out", "half")
    assert done.exit_code == 0, done.stderr
    (environment,) = Path("half").glob("*/environment.json")
    assert json.loads(environment.read_text())["precision"] == "bf16"
    wrong = raykd("train", recipe, "precision=bf16")
    assert (wrong.exit_code, wrong.stderr.strip().count("\n")) == (2, 0)
    assert "'precision' belongs to the machines" in wrong.stderr
    assert "--precision" in wrong.stderr


def test_a_field_with_dashes_is_told_without(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("train", tiny(), "--method.temperature=3")
    assert done.exit_code == 2
    assert "fields are written without dashes: method.temperature=VALUE" in done.stderr


@pytest.mark.parametrize("command", [["train"], ["tune", "student_architecture"], ["table", "digits", "--quick"]])
def test_a_tracker_that_is_missing_is_a_line_before_anything_is_made(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = raykd(*command, *([tiny()] if command == ["train"] else []), "--tracker", "wandb", "--out", "store")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith(
        "error: tracker 'wandb' is not installed: run `pip install 'raykd[wandb]'`"
    )
    assert not list(Path().glob("store/**/status.json"))
