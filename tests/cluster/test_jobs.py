"""Jobs on a real cluster: followed, stopped, submitted again, refused without the token, and with a node lost."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from raykd.cli.app import app
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.remote import Remote
from raykd.store.run_directory import RunDirectory
from tests.conftest import TOKEN
from tests.object_store import Server
from tests.ports import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # Ray's client of jobs passes it
]

BIN = Path(sys.executable).parent
SMALL = ["teacher.overrides={schedule.steps: 8, schedule.report_every: 4, schedule.global_batch: 16}"]
BRIEF = [*SMALL, "schedule.steps=20", "schedule.report_every=10", "schedule.global_batch=16"]
LONG = [*SMALL, "schedule.steps=90000", "schedule.report_every=20", "schedule.global_batch=16"]


class Nodes:
    """A head and further nodes, each a process with its own two logical CPUs, on the loopback device."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()
        self.port, self.dashboard = free_port(), free_port()
        head = ["--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
        self._start(*head)
        self.wait_for(self.dashboard)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def add(self) -> "subprocess.Popen[bytes]":
        return self._start(f"--address=127.0.0.1:{self.port}")

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        common = ["--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--object-store-memory={100 * 2**20}"]
        environment = {**os.environ, "RAY_JOB_STOP_WAIT_TIME_S": "60", "PATH": f"{BIN}:{os.environ['PATH']}"}
        environment["RAY_health_check_period_ms"] = "1000"  # a node is given up after 5 s instead of 15
        # The code that a job runs is what it brings along, not this checkout.
        environment["PYTHONPATH"] = ""
        environment["RAYKD_CACHE"] = str(self.folder / f"cache-{len(self.processes)}")  # they share no disk
        # Nodes of one machine would all want the same.
        temporary = f"--temp-dir=/tmp/raykd-{os.getpid()}-{len(self.processes)}"  # short: sockets' names are
        names = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
        ports = [f"--{name}-port={free_port()}" for name in names]
        command = [str(BIN / "ray"), "start", *options, *common, *ports, temporary]
        with (self.folder / f"node-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def wait_for(self, port: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"nothing listens at {port}")

    def end(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for number in range(len(self.processes)):
            shutil.rmtree(f"/tmp/raykd-{os.getpid()}-{number}", ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = Nodes(tmp_path_factory.mktemp("nodes"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def two_nodes(nodes: Nodes) -> Nodes:
    nodes.add()
    return nodes


@pytest.fixture(scope="module")
def project(nodes: Nodes, s3: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with files of the cluster; one of them keeps runs in a bucket."""
    folder = tmp_path_factory.mktemp("project")
    cluster = {"address": "auto", "workers": 2, "storage": str(folder / "store"), "dashboard": nodes.url}
    (folder / "two.yaml").write_text(yaml.safe_dump(cluster))
    (folder / "head.yaml").write_text(yaml.safe_dump({**cluster, "workers": 0}))  # the job's own process trains
    (folder / "apart.yaml").write_text(yaml.safe_dump({**cluster, "storage": f"s3://{s3.new_bucket()}/runs"}))
    (folder / ".rayignore").write_text("store/\n")
    return folder


def raykd(project: Path, *words: str) -> Result:
    """The command line in this process, called in the user's folder."""
    with contextlib.chdir(project):
        return CliRunner().invoke(app, list(words), prog_name="raykd")


def process(project: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """A command line that gets a signal, or whose environment is another."""
    command = [sys.executable, "-m", "raykd", *words]
    return subprocess.Popen(
        command, cwd=project, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(holds: Any, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def steps(directory: Path) -> list[int]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [int(json.loads(line)["step"]) for line in lines]


def test_a_job_trains_where_the_cluster_stores_and_its_run_is_read_from_here(project: Path) -> None:
    told = raykd(project, "submit", "--cluster", "two.yaml", "--", "train", "kd_digits", *BRIEF)
    assert told.exit_code == 0, told.output
    run = resolve(load_recipe("kd_digits", BRIEF)).run_id
    assert f"job raykd-{run} submitted" in told.stderr
    assert "step 20/20" in told.stdout, "its log is followed"
    assert "INFO" not in told.stderr, "Ray's own chatter is not"
    directory = project / "store" / run
    assert RunDirectory(directory).status()["state"] == "finished"
    environment = json.loads((directory / "environment.json").read_text())
    assert environment["workers"] == 2
    judged = raykd(project, "evaluate", str(directory), "--json")
    assert judged.exit_code == 0, judged.stderr


def test_a_stopped_job_saves_and_goes_on_when_submitted_again(project: Path) -> None:
    run = resolve(load_recipe("kd_digits", LONG)).run_id
    directory = project / "store" / run
    submit = ("submit", "--cluster", "head.yaml", "--no-wait", "--json", "--", "train", "kd_digits", *LONG)
    assert json.loads(raykd(project, *submit).stdout) == {"job": f"raykd-{run}", "run": run, "new": True}
    until(lambda: (directory / "checkpoints/step_0000040").exists())
    assert json.loads(raykd(project, *submit).stdout)["new"] is False, "the same run is never there twice"
    listed = json.loads(raykd(project, "jobs", "list", "--cluster", "head.yaml", "--json").stdout)["jobs"]
    (job,) = [job for job in listed if job["run"] == run]
    assert (job["status"], job["arguments"].split()[0]) == ("RUNNING", "kd_digits")
    assert re.fullmatch(r"\d+/90000, ETA [\d:]+", job["step"])
    stopped = raykd(project, "jobs", "stop", run, "--cluster", "head.yaml")
    assert stopped.stdout == f"raykd-{run}: STOPPED\n", stopped.stderr
    assert RunDirectory(directory).status()["state"] == "interrupted", "it had time to save"
    at, before = int(RunDirectory(directory).status()["step"]), (directory / "metrics.jsonl").read_text()
    follower = process(project, "submit", "--cluster", "head.yaml", "--", "train", "kd_digits", *LONG)
    until(lambda: max(steps(directory)) > at + 40)
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert f"job raykd-{run}-2 goes on" in said
    logs = raykd(project, "jobs", "logs", run, "--cluster", "head.yaml").stdout
    assert "/90000" in logs
    assert (directory / "metrics.jsonl").read_text().startswith(before), "it went on, and did not begin again"
    status = json.loads(raykd(project, "jobs", "status", run[:16], "--cluster", "head.yaml", "--json").stdout)
    assert (status["job"], status["status"], status["command"]) == (f"raykd-{run}-2", "RUNNING", "train")
    assert raykd(project, "jobs", "stop", run, "--cluster", "head.yaml").exit_code == 0
    done = steps(directory)
    assert done == sorted(set(done)), "no step twice"


@pytest.mark.endurance
def test_a_finished_job_is_read_when_submitted_again(project: Path) -> None:
    submit = ("submit", "--cluster", "two.yaml", "--json", "--", "train", "kd_digits", *BRIEF)
    run = json.loads(raykd(project, *submit).stdout)["run"]
    rows = project / "store" / run / "metrics.jsonl"
    written = rows.stat().st_mtime_ns
    again = json.loads(raykd(project, *submit).stdout)
    assert (again["run"], again["new"], again["status"]) == (run, True, "SUCCEEDED")
    assert rows.stat().st_mtime_ns == written, "it is read, not trained again"


@pytest.mark.endurance
def test_a_search_that_loses_a_node_accounts_for_every_trial(two_nodes: Nodes, project: Path, s3: Server) -> None:
    """Trials of nodes that share no disk: what the lost one had saved goes on on the other; a node comes back."""
    overrides = {
        "teacher.overrides": {"schedule.steps": 8, "schedule.report_every": 4, "schedule.global_batch": 16},
        "schedule.steps": 300,
        "schedule.report_every": 20,
        "schedule.global_batch": 16,
    }
    space = {
        "recipe": "kd_digits",
        "overrides": overrides,
        "space": {"student_optim.lr": {"loguniform": [0.0001, 0.01]}},
    }
    (project / "rates.yaml").write_text(yaml.safe_dump(space))
    apart = yaml.safe_load((project / "apart.yaml").read_text()) | {"workers": 1}
    (project / "trials.yaml").write_text(yaml.safe_dump(apart))
    cache = two_nodes.folder / f"cache-{len(two_nodes.processes) - 1}"
    bucket = apart["storage"]
    command = ("submit", "--cluster", "trials.yaml", "--", "tune", "rates.yaml", "--trials", "6", "--json")
    started = raykd(project, *command[:3], "--no-wait", *command[3:])
    assert started.exit_code == 0, started.stderr
    name = next(word for word in started.stderr.split() if word.startswith("raykd-rates-")).removeprefix("raykd-")
    until(lambda: any(cache.rglob("kd_digits-*/checkpoints/step_*/manifest.json")))
    os.killpg(two_nodes.processes[-1].pid, signal.SIGKILL)
    told = raykd(project, "jobs", "logs", "-f", name, "--cluster", "trials.yaml")
    assert told.exit_code == 0, told.output
    assert "died; it goes on from its last checkpoint" in told.stdout
    assert "Traceback" not in told.stdout
    report = json.loads(next(line for line in reversed(told.stdout.splitlines()) if line.startswith("{")))
    assert report["trials"] == {"target": 6, "complete": 6, "pruned": 0, "failed": 0, "running": 0}
    assert {"best.yaml", "search.json", "study.db", "figures/slice.html"} <= s3.files(report["directory"])
    best = Remote(report["directory"]).read("best.yaml")
    assert best is not None
    assert b"name: kd_digits" in best
    two_nodes.add()
    again = raykd(project, *command)
    assert again.exit_code == 0, again.output
    runs = {file.partition("/")[0] for file in s3.files(bucket) if file.startswith("kd_digits-")}
    assert len(runs) == 6, "no trial is run again"
    for run in runs:
        rows = (Remote(bucket).read(f"{run}/metrics.jsonl") or b"").splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(20, 301, 20))


@pytest.mark.endurance
def test_a_hostile_name_does_no_harm(project: Path, tmp_path: Path) -> None:
    pwned = tmp_path / "pwned"
    (project / "x; touch pwned.yaml").write_text("extends: kd_digits\nname: x\n")
    words = ("train", "./x; touch pwned.yaml", *BRIEF, f"data.train=$(touch {pwned})")
    told = raykd(project, "submit", "--cluster", "two.yaml", "--", *words)
    assert told.exit_code == 2, "there is no such data set"
    assert not pwned.exists()
    assert not list(project.rglob("pwned"))


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "the token of RAY_AUTH_TOKEN is not the cluster's"),
        pytest.param(
            {}, "it asks for a token, and there is none; set RAY_AUTH_TOKEN_PATH", marks=pytest.mark.endurance
        ),
    ],
)
def test_who_has_no_token_or_a_wrong_one_is_refused_in_a_line(
    project: Path, tmp_path: Path, token: dict[str, str], says: str
) -> None:
    home = {"HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_MODE": ""}
    refused = process(project, "jobs", "list", "--cluster", "two.yaml", **home, **token)
    out, said = refused.communicate(timeout=60)
    assert refused.returncode == 3
    assert says in said
    assert len(said.splitlines()) == 1
    assert TOKEN.read_text() not in said + out


def test_nobody_there_is_told_in_a_line(project: Path) -> None:
    (project / "gone.yaml").write_text(
        yaml.safe_dump({"address": "auto", "dashboard": f"http://127.0.0.1:{free_port()}"})
    )
    told = raykd(project, "jobs", "list", "--cluster", "gone.yaml")
    assert told.exit_code == 3
    assert told.stderr.startswith("error: nothing answers at http://127.0.0.1:")


def test_an_unknown_run_is_told_with_the_nearest(project: Path) -> None:
    told = raykd(project, "jobs", "status", "kd_digtis", "--cluster", "two.yaml")
    assert told.exit_code == 2
    assert "no job of a run 'kd_digtis'" in told.stderr


@pytest.mark.endurance
def test_a_node_that_goes_in_mid_run_costs_no_class_of_a_bank(two_nodes: Nodes, project: Path, s3: Server) -> None:
    """The last test, since the node does not come back: two workers of two CPUs each, then one; no common disk."""
    wide = yaml.safe_load((project / "apart.yaml").read_text()) | {"workers": [1, 2], "cpus_per_worker": 2}
    (project / "wide.yaml").write_text(yaml.safe_dump(wide))
    pairs = ["schedule.steps=36", "schedule.report_every=6", "schedule.global_batch=40"]
    teacher = {"schedule.steps": 8, "schedule.report_every": 8, "schedule.global_batch": 16}
    pairs += [f"teacher.overrides={json.dumps(teacher)}"]
    run = resolve(load_recipe("lsgdfd_digits_bank", pairs)).run_id
    address, store = f"{wide['storage']}/{run}", Remote(wide["storage"])
    started = raykd(
        project, "submit", "--cluster", "wide.yaml", "--no-wait", "--", "train", "lsgdfd_digits_bank", *pairs
    )
    assert started.exit_code == 0, started.stderr
    until(lambda: "checkpoints/step_0000012/manifest.json" in s3.files(address))
    os.killpg(two_nodes.processes[-1].pid, signal.SIGKILL)
    ended = raykd(project, "jobs", "logs", "-f", run, "--cluster", "wide.yaml")
    assert ended.exit_code == 0, ended.stdout[-2000:]
    assert "step 36/36" in ended.stdout, "the driver sees what workers of other machines report"
    rows = [json.loads(line)["step"] for line in (store.read(f"{run}/metrics.jsonl") or b"").splitlines()]
    assert rows == list(range(6, 37, 6))
    members = {name for name in s3.files(f"{address}/bank") if name.startswith("class_")}
    assert len(members) == 10, "every class is there"
    assert "manifest.json" in s3.files(f"{address}/bank")
