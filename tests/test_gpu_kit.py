"""The day of a GPU, without one: the budget, what survives a crash and a hang, the kit and the page."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu import digits, kit, report
from gpu.correctness import largest
from gpu.draws import draws_on_cpu
from gpu.parts import Parts, read, write
from gpu.plan import STEPS, allowance, chosen
from gpu.run import Runner, run_all, unpack
from sklearn.datasets import load_digits

from tests.architecture.imports import ROOT

BENCHMARKS = str(ROOT / "benchmarks")
PROGRAM = """
import os, sys, time
from pathlib import Path
from gpu.parts import Parts

kind, file, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
parts = Parts(file, seconds, {"step": kind})

def told(number):
    with open(file.with_suffix(".runs"), "a") as runs:
        runs.write(f"{number} ")
    return {"number": number}

def fail():
    raise ValueError("what was wrong")

parts.run("first", lambda: told(1))
if kind == "crashing":
    parts.run("second", lambda: os.abort())
if kind == "hanging":
    parts.run("second", lambda: time.sleep(60), most=0.3)
if kind == "slow":
    parts.run("second", lambda: time.sleep(60))
if kind == "failing":
    parts.run("second", fail)
if kind == "broken":
    sys.exit("no such thing")
if kind == "long":
    parts = Parts(file, 0, {"step": kind})
parts.run("third", lambda: told(3))
parts.close()
"""


class Toy(Runner):
    """Runs the program above in the place of a step; what kind of one is its name."""

    kind = "well"

    def command(self, name: str, seconds: float, file: Path, folder: Path) -> Sequence[str]:
        return [sys.executable, "-c", PROGRAM, self.kind, str(file), f"{seconds}"]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    variables = {**os.environ, "PYTHONPATH": BENCHMARKS}
    return Toy(tmp_path / "out", "cpu", variables, tmp_path / "scratch", grace=0.5)


def ran(out: Path) -> str:
    """Which parts were run, in order, over all processes."""
    return (out / "machine.runs").read_text().strip()


@pytest.mark.parametrize(
    ("kind", "state", "second", "runs"),
    [
        ("well", "done", None, "1 3"),
        ("failing", "done", "ValueError: what was wrong", "1 3"),
        ("crashing", "done", "the process ended in this part: it crashed, or hung", "1 3"),
        ("hanging", "done", "the process ended in this part: it crashed, or hung", "1 3"),
    ],
)
def test_a_part_that_fails_costs_itself_alone(
    toy: Toy, tmp_path: Path, kind: str, state: str, second: str | None, runs: str
) -> None:
    toy.kind = kind
    assert toy.run("machine", 60) == state
    parts = read(tmp_path / "out" / "machine.json")["parts"]
    assert parts["third"]["number"] == 3
    assert parts.get("second", {}).get("error") == second
    assert ran(tmp_path / "out") == runs


def test_a_step_that_takes_too_long_is_ended_and_goes_on_another_time(toy: Toy, tmp_path: Path) -> None:
    toy.kind = "slow"
    assert toy.run("machine", 1.0) == "out of time"
    toy.kind = "well"
    assert toy.run("machine", 60) == "done"
    found = read(tmp_path / "out" / "machine.json")
    assert found["parts"].keys() == {"first", "third"}
    assert ran(tmp_path / "out") == "1 3"


def test_what_is_there_is_not_run_again_and_what_was_left_out_is(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    toy.kind = "long"
    assert run_all(toy, ["machine"], out, 1.5, True)["machine"] in ("incomplete", "out of time")
    assert read(out / "machine.json")["left_out"] == ["third"]
    toy.kind = "well"
    assert run_all(toy, ["machine"], out, 60, True) == {"machine": "done"}
    assert run_all(toy, ["machine"], out, 60, True) == {"machine": "done"}
    assert ran(out) == "1 3"


def test_a_step_that_is_broken_leaves_its_last_words(toy: Toy, tmp_path: Path) -> None:
    toy.kind = "broken"
    assert toy.run("machine", 60) == "failed"
    assert read(tmp_path / "out" / "machine.json")["output"][-1] == "no such thing"


def test_time_is_dealt_by_shares_and_what_is_not_used_is_dealt_again() -> None:
    names, left = list(STEPS), 900.0
    for position, name in enumerate(names):
        part = allowance(name, names[position + 1 :], left, small=False)
        assert 0 <= part <= left
        left -= part / 2  # each is done in half of its time
    alone = allowance("curves", [], 600.0, small=False)
    assert alone == 600.0
    assert allowance("cifar_10", [], 600.0, small=False) == 0, "eleven minutes and a half do not fit"
    assert allowance("cifar_5", names[6:], 900.0, small=False) >= 60 * STEPS["cifar_5"].least
    assert allowance("cifar_10", [], 60.0, small=True) == 60.0


def test_all_but_the_longest_step_have_a_part_of_a_quarter_of_an_hour() -> None:
    names, left = list(STEPS), 900.0
    parts = {}
    for position, name in enumerate(names):
        later = names[position + 1 :]
        parts[name] = allowance(name, later, left, small=False)
        left -= parts[name]
    assert {name for name, part in parts.items() if part == 0} == {"cifar_10"}


def test_steps_are_chosen_in_their_order() -> None:
    assert chosen(["workers", "curves"], []) == ["curves", "workers"]
    assert "speed" not in chosen([], ["speed"])


@pytest.mark.parametrize("name", STEPS)
def test_the_code_of_a_step_is_there(name: str) -> None:
    module, _, function = STEPS[name].code.partition(":")
    file = ROOT / "benchmarks" / f"{module.replace('.', '/')}.py"
    assert f"def {function}(parts: Parts, site: Site)" in file.read_text()


def test_the_page_tells_of_what_was_run_and_what_was_not(tmp_path: Path) -> None:
    speed = {
        "dafl/published": {"seconds": 0.2, "precision": "fp32", "flop": 1e9},
        "dafl/eager": {"seconds": 0.1, "precision": "fp32", "flop": 1e9},
        "dafl/graphs bf16": {"error": "RuntimeError: no"},
    }
    curve = {"agrees": False, "differs": ["loss/kd from step 3"], "early": 1e-9, "late": 2e-3, "tolerance": "1e-5"}
    write(tmp_path / "machine.json", {"state": "done", "parts": {"peak_fp32": {"flop_per_second": 1e11}}})
    write(tmp_path / "speed.json", {"state": "done", "parts": speed})
    write(tmp_path / "curves.json", {"state": "incomplete", "parts": {"kd_digits": curve}, "left_out": ["other"]})
    page = report.page(tmp_path)
    assert "| dafl | 200 |  | 100 (2.0x) |" in page
    assert "10% (eager)" in page
    assert "**0 of 1 curves agree" in page
    assert "`kd_digits` differs: loss/kd from step 3." in page
    assert "incomplete: 1 parts, 1 not reached, 0 s" in page
    assert "| `workers` | one worker of NCCL; two on one device, then one | not run |" in page
    assert "* `speed`, dafl/graphs bf16: RuntimeError: no" in page
    assert "Nothing was measured" not in page


def test_without_results_the_page_says_so(tmp_path: Path) -> None:
    assert "**Nothing was measured yet**" in report.page(None)
    assert report.page(tmp_path) == report.page(None)


def test_a_folder_that_is_not_there_is_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "report.py"), "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "nowhere is no folder: give the one that `run.py --out` wrote\n"


def test_a_kit_that_is_too_large_is_refused_with_the_size_of_its_parts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").write_bytes(bytes(2**20))
    assert "1.0 of 60 MiB (data 1.0)" in kit.check_size(tmp_path)
    with pytest.raises(SystemExit, match=r"1.0 MiB, 0 may be carried \(data 1.0\)"):
        kit.check_size(tmp_path, 2**18)


def test_what_a_machine_lacks_is_what_its_packages_do_not_bring() -> None:
    packages = kit.lacking("raykd", kit.THERE, kit.LEFT_OUT)
    assert {"pydantic", "pydantic-core", "pyyaml"} <= packages.keys()
    assert not {"torch", "ray", "scikit-learn", "matplotlib", "optuna"} & packages.keys()


def test_what_a_machine_lacks_depends_on_its_python() -> None:
    """aiosignal, as others of that kind, needs typing-extensions before Python 3.13 only."""
    packages = {python: kit.lacking("aiosignal", (), (), python) for python in ("3.12", "3.13")}
    assert {python: "typing-extensions" in found for python, found in packages.items()} == {"3.12": True, "3.13": False}


def test_the_kit_has_the_code_that_steps_import(tmp_path: Path) -> None:
    kit.copy_code(tmp_path)
    assert (tmp_path / "benchmarks" / "gpu" / "step.py").is_file()
    assert (tmp_path / "benchmarks" / "gpu" / "digits.csv.gz").is_file()
    assert (tmp_path / "tests" / "golden" / "kd_digits.json").is_file()
    code = "import gpu.correctness, gpu.speed, gpu.imagenet, gpu.workers, gpu.cifar, raykd; print(gpu.speed.__file__)"
    paths = os.pathsep.join([str(tmp_path / "benchmarks"), str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(tmp_path)), done.stderr


def test_digits_that_are_lent_are_those_of_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = load_digits()
    kit.copy_code(tmp_path)
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])  # put back afterwards
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    digits.lend_digits(tmp_path / "benchmarks" / "gpu")
    lent = import_module("sklearn.datasets").load_digits()
    assert lent is not real
    assert (lent.images == real.images).all()
    assert (lent.target == real.target).all()
    assert find_spec("sklearn") is not None, "torch's compiler asks for it"


def test_wheels_of_this_python_are_unpacked_and_others_named(tmp_path: Path) -> None:
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheels = {
        f"fits-1-{here}-{here}-manylinux_2_17_x86_64.whl": "fits",
        "pure-1-py3-none-any.whl": "pure",
        "other-1-cp399-cp399-manylinux_2_17_x86_64.whl": "other",
    }
    (tmp_path / "wheels").mkdir()
    for name, module in wheels.items():
        with zipfile.ZipFile(tmp_path / "wheels" / name, "w") as archive:
            archive.writestr(f"{module}.py", "")
    left = unpack(tmp_path / "wheels", tmp_path / "site")
    assert left == ["other-1-cp399-cp399-manylinux_2_17_x86_64.whl"]
    assert {path.name for path in (tmp_path / "site").iterdir()} == {"fits.py", "pure.py"}


def test_what_is_drawn_is_a_cpus_wherever_it_is_wanted() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    with draws_on_cpu():
        torch.manual_seed(3)
        assert torch.randn(4).equal(expected)
        assert torch.Generator("cuda").device.type == "cpu"
        generator = torch.Generator("cuda").manual_seed(0)
        assert torch.randn(2, generator=generator, device="meta").device.type == "meta"
        assert torch.rand_like(torch.empty(2, device="meta")).device.type == "meta"
        assert torch.empty(2, device="meta").normal_(generator=generator).device.type == "meta"


def test_a_deviation_is_told_by_the_half_it_is_in() -> None:
    golden: dict[str, Any] = {"losses": {"loss/kd": [1.0, 1.0, 1.0, 2.0]}}
    ours = json.loads(json.dumps(golden))
    ours["losses"]["loss/kd"][1] = 1.001
    ours["losses"]["loss/kd"][3] = 2.5
    found = largest(ours, golden)
    assert found["early"] == pytest.approx(1e-3)
    assert found["late"] == pytest.approx(0.25)


def test_a_result_is_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"parts": {"a"')
    assert read(tmp_path / "half.json") == {}
    parts = Parts(tmp_path / "half.json", 60, {"step": "half"})
    assert parts.run("a", lambda: {"value": 1}) is not None
    assert read(tmp_path / "half.json")["parts"]["a"]["value"] == 1
