"""The options are frozen: a new method adds none, and what users type stays."""

import sys

import click
import pytest

import raykd as package
from raykd.cli.app import app
from tests.cli.conftest import Raykd

OPTIONS = {
    "distill": {
        "--student",
        "--minutes",
        "--target",
        "--data",
        "--method",
        "--cluster",
        "--out",
        "--dry-run",
        "--allow-code",
        "--json",
    },  # fmt: skip
    "train": {"--cluster", "--out", "--seeds", "--precision", "--tracker", "--json"},
    "tune": {"--cluster", "--out", "--trials", "--precision", "--tracker", "--json"},
    "table": {"--quick", "--seeds", "--cluster", "--out", "--precision", "--tracker", "--json"},
    "plan": {"--cluster", "--precision", "--workers", "--json"},
    "evaluate": {"--allow-code", "--json"},
    "export": {"--format", "--out", "--int8", "--allow-code", "--json"},
    "report": {"--out"},
    "inspect": {"--allow-code", "--json"},
    "statistics": {"--data", "--out", "--per-class", "--allow-code", "--json"},
    "ood": {"--data", "--images", "--out", "--allow-code", "--json"},
    "synthesize": {"--images", "--out", "--allow-code", "--json"},
    "list": {"--json"},
    "show": {"--resolved", "--diff", "--schema"},
    "config": {"--resolved", "--diff", "--schema"},
    "init": {"--teacher", "--method", "--data", "--out", "--allow-code", "--json"},
    "doctor": {"--chaos", "--faults", "--seed", "--cluster", "--nodes", "--out", "--json"},
    "data": {"--out", "--source", "--download", "--size", "--classes", "--workers", "--skip-damaged"},
    "submit": {"--cluster", "--no-wait", "--dry-run", "--working-dir", "--json"},
    "jobs list": {"--cluster", "--json"},
    "jobs status": {"--cluster", "--json"},
    "jobs logs": {"--cluster", "-f", "--follow"},
    "jobs stop": {"--cluster"},
    "runs list": {"--sort", "--reverse", "--method", "--state", "--json"},
    "runs compare": {"--json"},
    "runs du": {"--json"},
    "runs rm": {"--unused-weights", "--force", "--dry-run", "--yes"},
    "cluster validate": {"--json"},
    "cluster up": {"--dry-run"},
    "cluster down": {"--dry-run"},
    "cluster status": {"--dry-run"},
}
ARGUMENTS = {
    "distill": ["teacher", "overrides"],
    "train": ["recipe", "overrides"],
    "tune": ["space", "overrides"],
    "table": ["name"],
    "plan": ["recipe", "overrides"],
    "evaluate": ["run"],
    "export": ["run"],
    "report": ["where"],
    "inspect": ["teacher", "overrides"],
    "statistics": ["teacher", "overrides"],
    "ood": ["teacher", "overrides"],
    "synthesize": ["run"],
    "list": ["kind"],
    "show": ["kind", "name"],
    "config": ["recipe", "overrides"],
    "init": ["overrides"],
    "doctor": ["overrides"],
    "data": ["name"],
    "submit": ["words"],
    "jobs list": [],
    "jobs status": ["run"],
    "jobs logs": ["run"],
    "jobs stop": ["run"],
    "runs list": ["store"],
    "runs compare": ["where"],
    "runs du": ["where"],
    "runs rm": ["where"],
    "cluster validate": ["names"],
    "cluster up": ["name"],
    "cluster down": ["name"],
    "cluster status": ["name"],
}


def commands() -> dict[str, click.Command]:
    """Every command by what is typed, those of groups with their group's name."""
    found: dict[str, click.Command] = {}
    for name, command in app.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {sub}".strip(): one for sub, one in inner.items()}
    return found


def test_commands_and_options_are_these() -> None:
    found = {
        name: {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
        for name, command in commands().items()
    }
    assert found == OPTIONS


def test_arguments_are_these() -> None:
    found = {
        name: [p.name for p in command.params if isinstance(p, click.Argument)] for name, command in commands().items()
    }
    assert found == ARGUMENTS


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_help_ends_with_a_command_that_parses(raykd: Raykd, name: str) -> None:
    words = name.split()
    shown = raykd(*words, "--help")
    assert shown.exit_code == 0
    example = shown.stdout.rstrip().rpartition("Example:\n")[2].split()
    assert example[: len(words) + 1] == ["raykd", *words]
    commands()[name].make_context(name, example[len(words) + 1 :])  # raises for what it does not take


def test_version(raykd: Raykd) -> None:
    assert raykd("--version").stdout == f"raykd {package.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["trian"], "train"), (["train", "x", "--jsn"], "--json"), (["list", "recips"], "recipes")],
)
def test_a_slip_is_answered_with_what_was_meant(raykd: Raykd, arguments: list[str], hint: str) -> None:
    slip = raykd(*arguments)
    assert slip.exit_code == 2
    assert hint in slip.stderr
    assert slip.stdout == ""


def test_commands_import_nothing_heavy_at_once() -> None:
    import json
    import subprocess

    code = "import json, sys, raykd.cli.app; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "ray", "numpy", "pydantic", "rich"} & set(json.loads(done.stdout)) == set()
