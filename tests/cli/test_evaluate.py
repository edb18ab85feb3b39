"""Judging a run again from its directory alone, wherever it is, whole or not."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from raykd.cli.output import print_json
from raykd.files import sha256_of, write_json
from raykd.store.run_directory import RunDirectory
from raykd.tensors import checksum_metadata, read_tensors
from tests.cli.conftest import Raykd, WriteRecipe


@pytest.fixture
def result(raykd: Raykd, tiny: WriteRecipe) -> dict[str, Any]:
    """The result of a finished run."""
    found: dict[str, Any] = json.loads(raykd("train", tiny(), "--json").stdout)
    return found


def evaluate(raykd: Raykd, directory: Path) -> dict[str, Any]:
    done = raykd("evaluate", str(directory), "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_moved_run_gives_the_figures_of_its_training(raykd: Raykd, result: dict[str, Any]) -> None:
    shutil.move(result["directory"], "moved")
    again = evaluate(raykd, Path("moved"))
    synthetic = {"blind/agreement", "blind/kl"}  # of images that the run alone has
    trained = {name: value for name, value in result["blind"].items() if name not in {"step", *synthetic}}
    assert again["blind"] == pytest.approx(trained)
    assert again["accuracy/top1"] == again["blind"]["accuracy/top1"]
    assert again["teacher/accuracy/top1"] == pytest.approx(result["teacher/accuracy/top1"])
    assert again["data_opened"]["train"] == []
    table = raykd("evaluate", "moved").stdout
    assert "blind (selected)" in table
    assert "finished, step 4" in table


def test_without_the_teacher_there_is_no_agreement_and_it_says_so(
    raykd: Raykd, result: dict[str, Any], teacher: Path
) -> None:
    teacher.unlink()
    assert evaluate(raykd, Path(result["directory"]))["agreement"] is not None, "by the copy that the store keeps"
    shutil.rmtree(Path(result["directory"]).parent / "weights")
    alone = evaluate(raykd, Path(result["directory"]))
    assert "agreement" not in alone
    assert alone["accuracy/top1"] == pytest.approx(result["blind"]["accuracy/top1"])
    assert "teacher.safetensors" in alone["teacher_missing"]


def test_an_unfinished_run_is_judged_by_its_newest_whole_checkpoint(raykd: Raykd, result: dict[str, Any]) -> None:
    directory = Path(result["directory"])
    (directory / "student.safetensors").unlink()
    newest = evaluate(raykd, directory)
    for name in ("last", "blind", "best"):
        assert newest[name]["kl"] == pytest.approx(result[name]["kl"])
    assert (newest["finished"], newest["step"]) == (False, 4)
    (directory / "checkpoints/step_0000004/state.pt").write_bytes(b"torn")
    assert evaluate(raykd, directory)["step"] == 2
    (directory / "checkpoints/step_0000002/manifest.json").unlink()
    torn = raykd("evaluate", str(directory))
    assert torn.exit_code == 4
    assert "no whole checkpoint" in torn.stderr


def test_a_flipped_bit_is_noticed(raykd: Raykd, result: dict[str, Any]) -> None:
    student = Path(result["directory"]) / "student.safetensors"
    content = bytearray(student.read_bytes())
    content[-1] ^= 1
    student.write_bytes(content)
    flipped = raykd("evaluate", result["directory"])
    assert flipped.exit_code == 4
    assert "checksum" in flipped.stderr


@pytest.mark.parametrize("content", ["name: [", "name: tiny\nmethod: {name: noise}\n"])
def test_a_damaged_recipe_is_corruption(raykd: Raykd, result: dict[str, Any], content: str) -> None:
    (Path(result["directory"]) / "recipe.yaml").write_text(content)
    assert raykd("evaluate", result["directory"]).exit_code == 0, "for people, and for runs without a record"
    (Path(result["directory"]) / "experiment.json").unlink()
    damaged = raykd("evaluate", result["directory"])
    assert damaged.exit_code == 4
    assert "recipe.yaml" in damaged.stderr


def test_a_run_with_nothing_saved_is_no_fault(raykd: Raykd, result: dict[str, Any]) -> None:
    directory = Path(result["directory"])
    (directory / "student.safetensors").unlink()
    shutil.rmtree(directory / "checkpoints")
    empty = raykd("evaluate", str(directory))
    assert empty.exit_code == 2
    assert "no checkpoint yet" in empty.stderr


def test_a_student_of_numbers_that_are_not_finite_is_damaged_though_its_sums_hold(
    raykd: Raykd, result: dict[str, Any]
) -> None:
    run = RunDirectory(Path(result["directory"]))
    weights = {key: tensor * math.nan for key, tensor in read_tensors(run.student, "").items()}
    save_file(weights, run.student, checksum_metadata(weights, {}))
    run.write_status(student_sha256=sha256_of(run.student))
    for extra in ([], ["--json"]):
        done = raykd("evaluate", str(run.path), *extra)
        assert (done.exit_code, done.stdout) == (4, "")
        assert "student.safetensors is damaged (numbers of the blind student are not finite: " in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_teacher_of_numbers_that_are_not_finite_is_named(raykd: Raykd, result: dict[str, Any], teacher: Path) -> None:
    run = RunDirectory(Path(result["directory"]))
    save_file({key: tensor * math.nan for key, tensor in load_file(teacher).items()}, teacher)
    environment = {**run.environment(), "teacher_sha256": sha256_of(teacher)}
    write_json(run.path / "environment.json", environment)
    done = raykd("evaluate", str(run.path))
    assert done.exit_code == 4
    assert f"the teacher of {run.name} answers by numbers that are not finite" in done.stderr


def test_json_has_null_for_a_number_that_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"kl": math.nan, "rows": [math.inf, {"top1": -math.inf}], "step": 4, "run": "NaN", "on": True})
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed == {"kl": None, "rows": [None, {"top1": None}], "step": 4, "run": "NaN", "on": True}
