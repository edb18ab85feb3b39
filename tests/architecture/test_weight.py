"""What is loaded when: the shell's help stays instant and a local run never needs Ray."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.imports import ROOT, module_name, sources

LIGHT = {
    "click",
    "rich",
    "yaml",
}  # and what they load themselves, by the same names as their wheels
LIGHT_INSIDE = {"_yaml", "pygments", "markdown_it", "mdurl"}

LOADED = """
import json, sys
before = {name.split(".")[0] for name in sys.modules}
try:
    STATEMENT
except SystemExit as stop:
    assert not stop.code, stop.code
after = {name.split(".")[0] for name in sys.modules}
new = after - before - sys.stdlib_module_names
print(json.dumps([name for name in new if not name.startswith("_cython_")]))
"""


def python(code: str, *arguments: str) -> str:
    """Last line that a fresh interpreter prints when it runs ``code``."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip().rpartition("\n")[2]


def loaded(statement: str, *arguments: str) -> set[str]:
    return set(json.loads(python(LOADED.replace("STATEMENT", statement), *arguments)))


def test_the_package_loads_nothing_else() -> None:
    assert loaded("import raykd") == {"raykd"}


def test_help_loads_only_light_packages() -> None:
    assert loaded("import raykd.cli; raykd.cli.main()", "--help") <= LIGHT | LIGHT_INSIDE | {"raykd"}


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-m", "raykd", "--help"]
    assert min(cpu_seconds(command) for _ in range(5)) < 0.3


def cpu_seconds(command: list[str]) -> float:
    """Processor time of a command: its time on an idle machine, however busy this one is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def needed_without_ray(path: Path) -> bool:
    """Everything but what starts, joins or speaks with Ray, and the searches that Ray runs."""
    name = module_name(path)
    return name in ("raykd.cluster.config", "raykd.cluster.workers", "raykd.search.space") or not name.startswith(
        ("raykd.cluster", "raykd.runners.ray", "raykd.search", "raykd.__main__")
    )


def test_a_local_run_imports_without_ray() -> None:
    names = [module_name(path) for path in sources() if needed_without_ray(path)]
    assert "raykd.engine.run" in names
    code = (
        "import importlib, sys\n"
        "sys.modules['ray'] = None\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(len(sys.argv) - 1)"
    )
    assert int(python(code, *names)) == len(names)


def test_without_ray_an_import_of_it_would_fail() -> None:
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        python("import sys; sys.modules['ray'] = None; import ray")
