"""What a program or a notebook does with raykd: own networks and images in memory, no file written by hand."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import raykd
from raykd.distillation import plan_distillation
from raykd.engine.stop import Interrupted
from raykd.errors import UsageError
from raykd.models import in_memory
from raykd.results import RunResult
from raykd.runners.distill import session
from raykd.store.run_directory import RunDirectory
from tests.architecture.imports import ROOT
from tests.runners.distilling import fixed

SHORT = {"schedule.steps": 4, "schedule.report_every": 2, "schedule.global_batch": 16, "controls": []}
SCRIPT = """
import numpy
import raykd
import torch
from torch import nn

images = numpy.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=numpy.uint8)
labels = numpy.arange(40) % 10
torch.manual_seed(0)
teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
result = raykd.train("dafl_digits", teacher=teacher, student=student, data=(images, labels), overrides=OVERRIDES)
network = raykd.load(result, student=student)
answers = network.classify(images)
print(result.student.agreement, result.directory, answers.names[0], tuple(network(torch.randn(3, 1, 8, 8)).shape))
"""


class Own(nn.Module):
    """A classifier of 8 x 8 images that any process can import and make without arguments."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


def network(width: int = 16, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def pair(count: int = 40, seed: int = 0) -> tuple[Any, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return pixels, np.arange(count) % 10


@pytest.fixture(autouse=True)
def bare_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYKD_DATA", raising=False)
    monkeypatch.setattr(in_memory, "_NETWORKS", {})
    yield


def options(**given: Any) -> dict[str, Any]:
    """What the verb is given: networks and images in memory, and a small budget."""
    usual = {"teacher": network(32), "student": network(), "data": pair(), "overrides": SHORT, "progress": False}
    return {**usual, **given}


def trained(**given: Any) -> RunResult:
    return raykd.train("dafl_digits", **options(**given))


def of_another_process() -> None:
    in_memory._NETWORKS.clear()


def test_a_notebook_distils_its_own_network_and_uses_the_student(tmp_path: Path) -> None:
    code = SCRIPT.replace("OVERRIDES", repr(SHORT))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    agreement, directory, name, shape = done.stdout.split(" ", 3)
    assert 0 <= float(agreement) <= 100
    assert name in map(str, range(10))
    assert shape.strip() == "(3, 10)"
    assert "step 4/4" in done.stderr, "how it goes"
    again = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout, "the same program reads its run"
    assert "step" not in again.stderr
    assert (tmp_path / directory / "experiment.json").is_file()


def test_the_names_are_there_without_their_weight() -> None:
    code = "import raykd, sys; print('train' in dir(raykd), 'torch' in sys.modules, 'ray' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", "False", "False"]
    assert set(raykd.__all__) <= set(dir(raykd))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        raykd.trian  # noqa: B018


def test_the_process_stays_as_it_is() -> None:
    def settings() -> list[Any]:
        matmul = getattr(torch.backends.mkldnn, "matmul", None)
        return [
            torch.get_num_threads(),
            torch.get_default_dtype(),
            getattr(matmul, "fp32_precision", None),
            torch.random.get_rng_state().tolist(),
            signal.getsignal(signal.SIGINT),
            Path.cwd(),
        ]

    teacher, student = network(32), network()
    weights = [parameter.clone() for parameter in teacher.parameters()]
    before = settings()
    result = trained(teacher=teacher, student=student)
    raykd.load(result, student=student)
    raykd.evaluate(result)
    assert settings() == before
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(*both) for both in zip(weights, teacher.parameters(), strict=True))


def interrupt_when(ready: Callable[[], bool]) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 60
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_ctrl_c_saves_and_the_same_call_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    long = {**SHORT, "schedule.steps": 100_000}
    thread = interrupt_when(lambda: bool(list(Path("runs").glob("*/checkpoints/step_*"))))
    with pytest.raises(Interrupted, match=r"stopped at step \d+ of 100000, saved; .* continues"):
        trained(overrides=long)
    thread.join()
    assert "once more to leave" in capsys.readouterr().err
    (run,) = (RunDirectory(path) for path in Path("runs").glob("dafl_digits-*"))
    saved = run.status()["step"]
    assert raykd.load(run.path, student=network()).spec.size == 8, "what is saved so far"
    with pytest.raises(Interrupted):
        trained(overrides=long, should_stop=lambda: True)
    assert run.status()["step"] > saved


def test_a_network_that_others_can_import_needs_not_be_given_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = trained(teacher=Own(), student=Own(), out="here")
    assert result.directory is not None
    recipe = RunDirectory(Path(result.directory)).experiment().recipe
    assert recipe.student is not None and recipe.student.factory == "tests.test_api:Own"
    of_another_process()
    shutil.move("here", tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / result.run
    found = raykd.evaluate(moved)
    assert (found.teacher_missing, found.student.top1) == (None, result.student.top1)
    images = torch.ones(1, 1, 8, 8)
    assert torch.equal(raykd.load(moved)(images), raykd.load(moved / "student.safetensors")(images))


def test_another_process_says_what_it_lacks() -> None:
    teacher = network(32)
    result = trained(teacher=teacher)
    of_another_process()
    with pytest.raises(UsageError, match="in-memory:.* give it again, as teacher=NETWORK or student=NETWORK"):
        raykd.load(result)
    found = raykd.evaluate(result, student=network(seed=1))
    assert "give it again" in str(found.teacher_missing)
    assert found.student.agreement is None
    assert raykd.evaluate(result, teacher=teacher).student.agreement == result.student.agreement
    with pytest.raises(UsageError, match="only this process can make: train it without a cluster"):
        trained(cluster="local")


def test_a_teacher_in_memory_is_looked_at_before(tmp_path: Path) -> None:
    found = raykd.inspect(network(32), data=pair())
    assert (found.classes, found.input, found.invertible) == (10, [1, 8, 8], True)
    assert found.test.top1 is not None
    assert found.to_dict()["accuracy/top1"] == found.test.top1
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    with pytest.raises(UsageError, match="what does the network know"):
        raykd.inspect(network(32))


def test_seeds_give_a_mean() -> None:
    given: dict[str, Any] = {
        "teacher": network(32),
        "student": network(),
        "data": pair(),
        "overrides": SHORT,
        "progress": False,
    }
    result = raykd.train_seeds("dafl_digits", 2, **given)
    first, second = result.runs
    assert [first.seed, second.seed] == [0, 1]
    assert result.mean.images == first.images
    assert result.mean.blind is not None and first.blind is not None and second.blind is not None
    assert result.mean.blind.kl == pytest.approx(((first.blind.kl or 0) + (second.blind.kl or 0)) / 2)


def test_what_the_command_line_prints_is_the_result(tmp_path: Path) -> None:
    pairs = [f"{key}={json.dumps(value)}" for key, value in SHORT.items()]
    told = subprocess.run(
        [sys.executable, "-m", "raykd", "train", "supervised_digits_lenet5", *pairs, "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    result = raykd.train("supervised_digits_lenet5", overrides=SHORT, progress=False)
    assert json.loads(told) == result.to_dict()
    assert RunResult.from_dict(json.loads(told)) == result
    assert raykd.train("supervised_digits_lenet5", overrides=pairs, progress=False) == result


def test_a_run_is_looked_at_wherever_its_store_is(tmp_path: Path) -> None:
    """Its images lie in that store, not in ``runs``; folders may be texts or paths."""
    result = trained(teacher=Own(), student=Own(), out="elsewhere")
    assert result.directory is not None
    for store in ("runs", tmp_path / "runs"):
        found = raykd.inspect(result.directory, store=store, data_root=str(tmp_path))
        assert found.test.top1 == result.student.top1
    Path("ranked.parquet").touch()
    with pytest.raises(UsageError, match="ranked.parquet exists already; remove it, or write to another file"):
        raykd.ood(result.directory, "digits", out="ranked.parquet", store="runs", data_root=str(tmp_path))
    with pytest.raises(UsageError, match="^. is a folder; give the name of a file"):
        raykd.statistics(result.directory, out=".", store="runs", data_root=str(tmp_path))
    with pytest.raises(UsageError, match="^images is 0; a set has 1 image or more"):
        raykd.synthesize(result, 0, "made", data_root=str(tmp_path))
    with pytest.raises(UsageError, match="the teacher's run .* is not in elsewhere/; train it"):
        raykd.inspect("dafl_digits", store="elsewhere")


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no seeds": (lambda: raykd.train_seeds("dafl_digits", 0), "seeds is 0; it must be 1 or more"),
    "no seeds of a table": (lambda: raykd.table("digits", seeds=0), "seeds is 0; it must be 1 or more"),
    "no trials": (lambda: raykd.tune("smallest", trials=-1), "trials is -1; it must be 1 or more"),
    "overrides of a network": (
        lambda: raykd.inspect(network(), data=pair(), overrides=SHORT),
        "overrides are fields of a recipe, and a network in memory has none",
    ),
    "data of a recipe": (lambda: raykd.inspect("dafl_digits", data="digits"), "data says what a network in memory"),
    "a store elsewhere": (
        lambda: raykd.inspect("dafl_digits", store="s3://bucket/runs"),
        "store is s3://bucket/runs, and this reads folders of this machine",
    ),
    "data elsewhere": (
        lambda: raykd.ood("dafl_digits", "usps", data_root="s3://bucket/data"),
        "data_root is 's3://bucket/data', and this command reads folders",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_a_line(case: str) -> None:
    call, says = REFUSED[case]
    Path("runs").mkdir()
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["tune", "table"])
def test_a_search_and_a_table_leave_the_process_as_it_is(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Ray itself is not needed to see it: what its runner does to a process is done here."""

    def work(*_: object, **__: object) -> str:
        torch.rand(3)
        os.environ.update(RAY_worker_niceness="1", TUNE_OF_TESTS="1", RAY_AUTH_MODE_OF_TESTS="1")
        for name in ("optuna", "ray.tune.tune"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        return "done"

    def settings() -> list[Any]:
        levels = [logging.getLogger(name).level for name in ("optuna", "ray.tune.tune")]
        return [torch.random.get_rng_state().tolist(), dict(os.environ), levels]

    monkeypatch.setattr("raykd.api.tune_runner.search", work)
    monkeypatch.setattr("raykd.api.fill_table", work)
    before = settings()
    told: object = raykd.tune("student_architecture", progress=False) if verb == "tune" else raykd.table("digits")
    assert told == "done"
    assert os.environ.pop("RAY_AUTH_MODE_OF_TESTS") == "1", "Ray has read that"
    assert settings() == before


def test_a_network_in_memory_is_distilled_by_what_suits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "plan_session", fixed(0))
    small = ["method.generator_width=4", "method.latent_dim=8", "schedule.global_batch=16"]
    asked: dict[str, Any] = {"data": pair(), "methods": ["dafl"], "overrides": small}
    planned = plan_distillation(network(32), student=network(), **asked)
    assert {one.name for one in planned.candidates} == {"dafl", "noise"}
    result = raykd.distill(network(32), student=network(), progress=False, **asked)
    assert result.chosen == "dafl"
    assert result.student_parameters == sum(parameter.numel() for parameter in network().parameters())
    answers = raykd.load(result.run_directory, student=network()).classify(pair()[0])
    assert len(answers.names) == 40
    assert raykd.distill(network(32), student=network(), progress=False, **asked) == result, "the same call reads it"
