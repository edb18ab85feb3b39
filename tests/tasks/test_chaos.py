"""A training that is killed, stopped and robbed of its disk ends as if nothing had been, and a certificate says so."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from raykd.cli.app import app
from raykd.errors import RunFailed, UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import dump_recipe
from raykd.spec import DataSpec
from raykd.store.checkpoint import find_fault
from raykd.store.run_directory import RunDirectory
from raykd.tasks import chaos
from raykd.tasks.faults import KINDS, Fault, damage, inject, left_out, plan_faults, possible_kinds
from tests.architecture.imports import ROOT
from tests.object_store import Server
from tests.runners import runs

STEPS = 35
SPEC = DataSpec("made", 3, 1, 8, (0.5,), (0.25,), ("a", "b", "c"))


def certified(
    folder: Path,
    name: str,
    *words: str,
    module: str = "tests.tasks.forked",
    out: str = "chaos",
    verdict: str = "equal whatever happened",
) -> dict[str, Any]:
    """Run ``raykd doctor --chaos``; return the certificate."""
    verb = ["doctor"] if module == "raykd" else []
    command = [sys.executable, "-m", module, *verb, "--chaos", name, "--out", out, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdict in done.stdout
    found: dict[str, Any] = json.loads((folder / "chaos" / chaos.CERTIFICATE).read_text())
    assert found["ok"]
    return found


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """The file of a small recipe of DAFL, of seven reports."""
    schedule = {"steps": STEPS, "report_every": 5, "global_batch": 32}
    recipe = runs.recipe(runs.save_teacher(tmp_path / "teacher.safetensors"), schedule=schedule)
    (tmp_path / "tiny.yaml").write_text(dump_recipe(recipe))
    return "tiny.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, pytest.param(5, marks=pytest.mark.endurance)])
def test_a_training_ends_as_undisturbed_after_each_kind_of_fault(tmp_path: Path, tiny: str, count: int) -> None:
    # Long enough between reports that on a busy machine the last fault does not come when all is done.
    longer = [f"schedule.steps={4 * STEPS}", "schedule.report_every=20"]
    found = certified(tmp_path, tiny, *longer, "--faults", str(count))
    events = {event["kind"]: event for event in found["events"]}
    assert events.keys() == set(KINDS[:count])
    codes = {"kill": -9, "full disk": 3, "damage": -9, "terminate": 143, "stop": None}
    assert {kind: event["exit_code"] for kind, event in events.items()} == {kind: codes[kind] for kind in events}
    assert found["starts"] == min(count, 4) + 1
    assert found["weights"] == {"equal": 1, "different": [], "in_one_store": [], "not_comparable": []}
    for kind, event in events.items():
        assert 0 < event["at_step"] < 4 * STEPS
        assert event["seconds_to_recover"] > 0
        assert (event["resumed_from"] is None) == (kind == "stop")
        assert kind != "terminate" or event["steps_lost"] <= 1, "it saves first"
    assert events["damage"]["resumed_from"] < int(events["damage"]["file"][5:12]), "the checkpoint before that one"
    assert "loss of a node" in found["left_out"]


@pytest.mark.endurance
def test_a_hundred_kills_inside_one_training_change_nothing(tmp_path: Path, tiny: str) -> None:
    words = ["schedule.steps=1500", "schedule.report_every=10", "--faults", "100", "--seed", "1", "kinds=kill"]
    found = certified(tmp_path, tiny, *words)
    assert len(found["events"]) == 100
    assert found["starts"] == 101


@pytest.mark.endurance
@pytest.mark.slow
def test_a_store_that_is_cut_off_holds_the_same_in_the_end(
    tmp_path: Path, tiny: str, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    store = f"s3://{s3.new_bucket()}/chaos"
    words = ["schedule.steps=120", "--faults", str(len(KINDS))]
    found = certified(tmp_path, tiny, *words, module="raykd", out=store)
    assert found["weights"] == {"equal": 1, "different": [], "in_one_store": [], "not_comparable": []}
    assert "store outage" not in found["left_out"]
    events = {event["kind"]: event for event in found["events"]}
    assert events.keys() == set(KINDS)
    assert events["outage"]["target"] == "store"
    assert (events["outage"]["exit_code"], events["outage"]["resumed_from"]) == (None, None)
    assert events["outage"]["seconds_to_recover"] >= 5
    weights = {name for name in s3.files(store) if name.endswith("student.safetensors")}
    assert {name.partition("/")[0] for name in weights} == {"reference", "disturbed"}
    said = "".join(log.read_text() for log in (tmp_path / "chaos" / "logs").glob("disturbed-*"))
    assert "trying again in" in said
    done = CliRunner().invoke(app, ["doctor", "--chaos", str(tmp_path / tiny), "--out", store])
    assert done.exit_code == 2
    assert f"{store}/reference is not empty" in done.stderr


BUDGET = {"schedule.steps": 30, "schedule.report_every": 10, "schedule.global_batch": 64}
SHORT = {"schedule.steps": 60, "schedule.report_every": 6, "teacher.overrides": BUDGET}
LONG = {"schedule.steps": 240, "schedule.report_every": 12, "teacher.overrides": BUDGET}
TABLE = {
    "title": "two", "source": "made", "seeds": 1, "columns": {"a": "A"}, "quick": {"budget": "short", "seeds": 1},
    "rows": [
        {"name": "kd", "cells": {"a": {"recipe": "kd_digits", "overrides": LONG}}},
        {"name": "noise", "cells": {"a": {"recipe": "noise_digits", "overrides": LONG}}},
    ],
}  # fmt: skip
SPACE = {
    "recipe": "kd_digits", "trials": 3, "sampler": {"name": "random"}, "overrides": LONG,
    "space": {"method.temperature": {"loguniform": [1, 20]}},
}  # fmt: skip
TPE = {**SPACE, "sampler": {"name": "tpe", "startup": 1}}
ONE_AT_A_TIME = {"address": "local", "cpus_per_worker": os.cpu_count()}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bank": ("lsgdfd_digits_bank_quick", SHORT),
    "bank student": ("lsgdfd_digits_quick", {**SHORT, "bank.overrides": {**SHORT, "schedule.report_every": 10}}),
    "mosaickd": (
        "mosaickd_mnist",
        {**SHORT, "teacher.recipe": "supervised_digits_lenet5", "data": {"name": "digits", "ood": "digits"}},
    ),
    "kd": ("kd_digits", SHORT),
    "two workers": ("dafl_digits", {**LONG, "schedule.global_batch": 64, "controls": []}),
    "table": ("two.yaml", {}),
    "tune": ("rates.yaml", {}),
    "tune by tpe": ("tpe.yaml", {}),
}  # fmt: skip
ON_RAY = {
    "two workers": ["--cluster", "local"], "table": [], "tune": [], "tune by tpe": ["--cluster", "./one.yaml"],
}  # fmt: skip


@pytest.mark.endurance
@pytest.mark.slow
@pytest.mark.parametrize("what", CASES)
def test_whatever_trains_ends_as_undisturbed(tmp_path: Path, what: str) -> None:
    (tmp_path / "two.yaml").write_text(json.dumps(TABLE))
    (tmp_path / "rates.yaml").write_text(json.dumps(SPACE))
    (tmp_path / "tpe.yaml").write_text(json.dumps(TPE))
    (tmp_path / "one.yaml").write_text(json.dumps(ONE_AT_A_TIME))
    name, fields = CASES[what]
    words = [f"{key}={json.dumps(value)}" for key, value in fields.items()]
    words += ON_RAY.get(what, [])
    count, module = (4, "raykd") if what in ON_RAY else (6, "tests.tasks.forked")
    found = certified(tmp_path, name, *words, "--faults", str(count), module=module)
    assert len(found["events"]) == count
    assert found["weights"]["equal"] >= 2
    assert found["in_order"]
    assert found["weights"]["in_one_store"] == []


ON_NODES = {
    "as many workers again": ("kd_digits", 2, 3),
    "fewer workers": ("kd_digits", [1, 2], 1),
    "one worker a run": ("./two.yaml", 1, 2),
}  # fmt: skip


@pytest.mark.endurance
@pytest.mark.slow
@pytest.mark.parametrize("what", ON_NODES)
def test_a_training_that_loses_a_node_goes_on(tmp_path: Path, what: str) -> None:
    name, workers, count = ON_NODES[what]
    (tmp_path / "two.yaml").write_text(json.dumps(TABLE))
    (tmp_path / "nodes.yaml").write_text(json.dumps({"address": "local", "workers": workers}))
    words = ["schedule.steps=900", "schedule.report_every=30", f"teacher.overrides={json.dumps(BUDGET)}"]
    words = [*(words if name == "kd_digits" else []), "--cluster", "nodes.yaml", "--nodes", "2", "--faults", str(count)]
    is_resized = what == "fewer workers"
    verdict = "ended whatever happened; equal where it can be compared" if is_resized else "equal whatever happened"
    found = certified(tmp_path, name, *words, module="raykd", verdict=verdict)
    assert "loss of a node" not in found["left_out"]
    assert len(found["events"]) == count
    loss = next(event for event in found["events"] if event["kind"] == "loss")
    assert (loss["target"], loss["exit_code"], loss["workers"]) == (
        "node",
        None,
        1 if workers == 1 or is_resized else 2,
    )
    assert loss["seconds_to_recover"] > 0
    assert loss["steps_lost"] < 60, "no more than what was behind the last checkpoint, or the one before"
    assert len(found["weights"]["not_comparable"]) == is_resized


def test_faults_are_drawn_by_their_seed_and_fall_inside_the_training() -> None:
    faults = plan_faults(KINDS, 60, 3, 20, workers=True)
    assert faults == plan_faults(KINDS, 60, 3, 20, workers=True)
    assert faults != plan_faults(KINDS, 60, 4, 20, workers=True)
    assert all(sum(fault.kind == kind for fault in faults) == 10 for kind in KINDS)
    assert [fault.report for fault in faults] == sorted(fault.report for fault in faults)
    assert {fault.report for fault in faults} <= set(range(1, 19))
    assert {fault.target for fault in faults if fault.kind in ("damage", "terminate")} == {"driver"}
    assert {fault.target for fault in faults if fault.kind == "kill"} == {"driver", "worker"}
    assert {fault.target for fault in faults if fault.kind == "outage"} == {"store"}
    assert {fault.target for fault in plan_faults(KINDS, 60, 3, 20, workers=False)} == {"driver", "store"}
    assert "faults of workers" in left_out(workers=False, store="a").keys() - left_out(workers=True, store="a").keys()
    assert left_out(workers=False, store="a").keys() - left_out(workers=False, store="s3://b/a").keys() == {
        "store outage"
    }
    assert [kind for kind in possible_kinds("s3://b/a") if kind not in possible_kinds("a")] == ["outage"]
    assert possible_kinds("s3://b/a", nodes=True) == ("loss", *possible_kinds("s3://b/a")), "even a single fault is one"
    on_nodes = plan_faults(possible_kinds("s3://b/a", nodes=True), 70, 3, 20, workers=True)
    assert {fault.target for fault in on_nodes if fault.kind == "loss"} == {"node"}
    assert sum(fault.target == "node" for fault in on_nodes) == 10
    assert {"loss of a node", "loss of the head"} == left_out(workers=True, store="a").keys() ^ left_out(
        workers=True, store="a", nodes=True
    ).keys()


def test_damage_is_found_by_who_reads_it(tmp_path: Path) -> None:
    from raykd.store.checkpoint import Checkpoint, write_checkpoint

    run = RunDirectory(tmp_path)
    for step in (1, 2):
        write_checkpoint(run.checkpoints, Checkpoint(step, 2, {}, {"step": step}), {})
    name = damage(run, random.Random(0))
    assert name.startswith("step_0000002/")
    assert find_fault(run.checkpoints / "step_0000001") is None
    assert find_fault(run.checkpoints / "step_0000002") is not None


def test_a_full_disk_is_that_of_one_process(tmp_path: Path) -> None:
    code = "import pathlib, sys\nprint(flush=True)\nsys.stdin.readline()\npathlib.Path(sys.argv[1]).write_text('x')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")], stdin=-1, stdout=-1, stderr=-1, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    inject(Fault("full disk", "driver", 1, 0.0), process.pid, random.Random(0))
    _, said = process.communicate("go\n", timeout=20)
    assert "File too large" in said
    assert (tmp_path / "x").read_text() == ""
    (tmp_path / "y").write_text("y")


class Made:
    """A command that ends at once, or is killed in its training; the disturbed one leaves other weights."""

    def __init__(self, code: int) -> None:
        self._code = code

    @property
    def pid(self) -> int:
        return 2**22 + 1  # above all that the kernel gives

    def __call__(self, arguments: Sequence[str], log: Path) -> "Made":
        run = RunDirectory(Path(arguments[-1]) / "tiny-s0")
        run.path.mkdir(parents=True)
        run.write_status(state="finished", step=1)
        run.student.write_bytes(run.path.parent.name.encode())
        for said in (log, log.with_name("node-001.log")):  # what Ray says of a lost node is none of ours
            said.write_text("Traceback (most recent call last):\n  of ours\n")
        return self

    def poll(self) -> int:
        return self._code


class TwoRuns:
    """A command that trains two runs of three reports; the first takes its time to end after its last step."""

    def __init__(self) -> None:
        self._store, self._polls = Path(), 0

    @property
    def pid(self) -> int:
        return 2**22 + 1

    def __call__(self, arguments: Sequence[str], log: Path) -> "TwoRuns":
        self._store, self._polls = Path(arguments[-1]), 0
        log.write_text("")
        return self

    def poll(self) -> int | None:
        number, step = divmod(self._polls // 15, 6)
        if number == 2:
            return 0
        run, ends = RunDirectory(self._store / f"tiny-s{number}"), step > 2
        if self._polls % 15 == 0:
            if step == 0:
                run.path.mkdir(parents=True)
                run.write_opening(resolve(runs.recipe(Path("x"))), SPEC, {"workers": 1}, step=0, steps=3)
            rows = [json.dumps({"step": 1 + row}) + "\n" for row in range(min(step, 2) + 1)]
            (run.path / "metrics.jsonl").write_text("".join(rows))
            over = ends and (number == 1 or step == 5)
            run.write_status(state="finished" if over else "running", step=len(rows), steps=3, resumed_from=0)
            run.student.write_bytes(b"equal")
        self._polls += 1
        return None


def test_a_run_at_its_end_is_left_alone_by_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "inject", lambda *arguments: None)
    monkeypatch.setattr(
        chaos, "plan_faults", lambda *arguments: [Fault("kill", "driver", 3, 0.0)]
    )  # behind the first run's last report
    found = chaos.certify(["train"], tmp_path / "out", faults=1, seed=0, workers=False, launch=TwoRuns())
    assert [(event.run, event.at_step) for event in found.events] == [("tiny-s1", 1)]


def test_a_certificate_tells_what_is_wrong(tmp_path: Path) -> None:
    found = chaos.certify(["train"], tmp_path / "out", faults=2, seed=0, workers=False, launch=Made(0))
    assert not found.ok
    assert found.weights == {
        "equal": 0,
        "different": ["tiny-s0/student.safetensors"],
        "in_one_store": [],
        "not_comparable": [],
    }
    assert found.faults_of_ours == [
        "the command was finished before 2 of 2 faults came",
        "a traceback in logs/disturbed-001.log",
        "a traceback in logs/reference.log",
    ]
    assert json.loads((tmp_path / "out" / chaos.CERTIFICATE).read_text())["ok"] is False
    with pytest.raises(UsageError, match="is not empty"):
        chaos.certify(["train"], tmp_path / "out", faults=1, seed=0, workers=False, launch=Made(0))


def test_a_command_that_fails_by_itself_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="undisturbed command ended with 2: .*of ours"):
        chaos.certify(["train"], tmp_path / "out", faults=1, seed=0, workers=False, launch=Made(2))
