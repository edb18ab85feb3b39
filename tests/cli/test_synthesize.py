"""From a bank to a set, and from a set to a student, by the command line alone."""

import json
from pathlib import Path

import pytest

from raykd.data import parquet
from raykd.engine import image_sources as generated
from tests.cli.conftest import Raykd, WriteRecipe
from tests.planning.untrained_bank import save_bank, save_run, save_teacher


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of an untrained bank of ten members."""
    monkeypatch.setattr(generated, "_SAMPLE", 64)
    (tmp_path / "runs").mkdir()
    save_teacher(tmp_path / "runs")
    made = save_run(tmp_path / "runs", "bank-run")
    save_bank(made, tuple(range(10)))
    return made


def test_a_set_is_made_and_described(raykd: Raykd, run: Path) -> None:
    done = raykd("synthesize", str(run), "--images", "30", "--out", "data/made", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["set"], found["images"], found["written"], found["bank"]) == ("made", 30, 1, "bank-run")
    assert [path.name for path in parquet.find_files(Path("data/made"), "train")] == ["train-00000-of-00001.parquet"]
    again = raykd("synthesize", str(run), "--images", "30", "--out", "data/made")
    assert again.exit_code == 0, again.stderr
    assert "1 (finished before)" in again.stdout
    assert "finished already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--images", "0", "--out", "made"], "--images 0"),
        (["{run}", "--images", "30"], "--out"),
        (["nowhere", "--images", "30", "--out", "made"], "nowhere does not exist"),
        (["{run}", "--images", "30", "--out", "runs"], "something else"),
        (["{run}", "--images", "30", "--out", "teacher.safetensors"], "is a file"),
    ],
)
def test_mistakes_are_answered_in_one_line(raykd: Raykd, run: Path, arguments: list[str], message: str) -> None:
    Path("teacher.safetensors").touch()
    done = raykd("synthesize", *(argument.format(run=run) for argument in arguments))
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_student_learns_from_the_set_and_opens_no_training_image(raykd: Raykd, run: Path, tiny: WriteRecipe) -> None:
    assert raykd("synthesize", str(run), "--images", "30", "--out", "data/made").exit_code == 0
    recipe = tiny(data={"name": "digits", "train": "data/made"}, method={"name": "kd"})
    done = raykd("train", recipe, "--json")
    assert done.exit_code == 0, done.stderr
    opened = json.loads(done.stdout)["data_opened"]
    assert opened == {
        "train": [], "synthetic": ["data/made/train"], "ood": [], "calibration": [], "test": ["digits/test"],
        "teacher": [],
    }  # fmt: skip


def test_a_student_of_a_bank_leads_to_the_bank(raykd: Raykd, run: Path) -> None:
    of_bank = {"method": {"name": "bank_kd"}, "bank": {"run": run.name}}
    student = save_run(run.parent, "student-run", **of_bank)
    done = raykd("synthesize", str(student), "--images", "30", "--out", "made", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["bank"] == "bank-run"
    astray = save_run(run.parent, "astray", **{**of_bank, "bank": {"run": "gone"}})
    done = raykd("synthesize", str(astray), "--images", "30", "--out", "made2")
    assert done.exit_code == 2
    assert "from the bank of run gone, which is not beside it" in done.stderr
