"""A run directory of somebody else's that names code: no command runs it unasked."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result

from raykd import load
from raykd.files import read_json, write_json
from raykd.models import permission
from tests.cli.conftest import Raykd, WriteRecipe

EVIL = """
from pathlib import Path

Path("trace").touch()

def main(**sizes):
    from raykd.models import build_model
    return build_model("lenet5_half", num_classes=10, channels=1, size=32)

def net(num_classes, channels, size):
    return main()
"""


@pytest.fixture(autouse=True)
def another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(permission, "_permitted", set())
    monkeypatch.delitem(sys.modules, "evil", raising=False)


def trained(raykd: Raykd, recipe: str, *pairs: str) -> Path:
    result = raykd("train", recipe, *pairs, "--json")
    assert result.exit_code == 0, result.stderr
    name: str = json.loads(result.stdout.splitlines()[-1])["run"]
    return Path("runs") / name


def with_code(run: Path, role: str) -> Path:
    """Let a run's record name a module that lies in the current directory."""
    record = read_json(run / "experiment.json", "")
    section = record["runs"][run.name]["recipe"][role]
    section |= {"model": None, "factory": "evil:main"}
    write_json(run / "experiment.json", record)
    Path("evil.py").write_text(EVIL)
    return run


def assert_refused(result: Result, run: Path) -> None:
    assert not Path("trace").exists(), result.stderr
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for words in (run.name, "factory evil:", "evil.py", "--allow-code"):
        assert words in line


def test_no_command_runs_it(raykd: Raykd, tiny: WriteRecipe) -> None:
    optimizer = {"name": "adam", "lr": 1e-3}
    dafl = {"name": "dafl", "latent_dim": 8, "generator_width": 8, "generator_optim": optimizer}
    run = with_code(trained(raykd, tiny(method=dafl)), "student")
    commands = (
        ("evaluate", str(run)),
        ("export", str(run), "--out", "exported"),
        ("inspect", str(run)),
        ("statistics", str(run)),
        ("ood", str(run), "--data", "digits"),
        ("synthesize", str(run), "--images", "20", "--out", "made"),
        ("train", tiny(method={"name": "kd"}), f"bank={{run: {run.name}, images: 20}}"),
    )
    for command in commands:
        assert_refused(raykd(*command), run)
    made = raykd("synthesize", str(run), "--images", "20", "--out", "made", "--allow-code")
    assert made.exit_code == 0, made.stderr
    assert Path("trace").exists(), "it was live"


def test_evaluate_runs_it_where_that_is_allowed(raykd: Raykd, tiny: WriteRecipe) -> None:
    run = with_code(trained(raykd, tiny()), "student")
    assert_refused(raykd("evaluate", str(run)), run)
    assert raykd("evaluate", str(run), "--allow-code").exit_code == 0
    assert Path("trace").exists()


def test_a_teacher_that_is_code_is_left_out(raykd: Raykd, tiny: WriteRecipe) -> None:
    run = with_code(trained(raykd, tiny()), "teacher")
    found = raykd("evaluate", str(run), "--json")
    assert found.exit_code == 0, found.stderr
    assert "evil:main" in json.loads(found.stdout)["teacher_missing"]
    assert not Path("trace").exists()


def test_what_the_user_has_trained_is_the_users_and_others_have_its_graph(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("evil.py").write_text(EVIL)
    recipe = tiny(student={"factory": "evil:net"})
    run = trained(raykd, recipe)
    Path("trace").unlink()
    figures = []
    for is_user in (True, False):
        monkeypatch.setattr(permission, "_permitted", set())  # as in another process
        sys.modules.pop("evil", None)
        found = raykd("evaluate", str(run), "--json")
        assert found.exit_code == 0, found.stderr
        figures.append(json.loads(found.stdout, parse_float=lambda text: round(float(text), 3)))
        assert Path("trace").exists() == is_user
        assert ("evil:net is code, which is not run: the run's graph is computed" in found.stderr) != is_user
        Path("trace").unlink(missing_ok=True)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert figures[0] == figures[1]
    images = torch.zeros(1, 1, 32, 32)
    assert load(run)(images).shape == (1, 10)
    assert not Path("trace").exists()
    (run / "student_graph.safetensors").unlink()
    assert_refused(raykd("evaluate", str(run)), run)
    trained(raykd, recipe)  # which reads it only, and names it again
    monkeypatch.setattr(permission, "_permitted", set())
    assert raykd("evaluate", str(run)).exit_code == 0
