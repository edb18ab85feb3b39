"""A cluster without room, whose autoscaler adds machines: a made-up one, and Ray's with nodes that are processes."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from raykd.cluster.config import Cluster
from raykd.errors import SetupError
from raykd.runners.ray.session import check_resources, room_for
from tests.ports import free_port

BIN = Path(sys.executable).parent
HEAD = "f" * 51 + "00000"  # the name by which Ray's provider of make-believe machines knows the head
SMALL = {"schedule.steps": 8, "schedule.report_every": 4, "schedule.global_batch": 16}
# Ray's own address stays on the loopback device, where the nodes are.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a head without CPUs, which may have two machines of one CPU each."""
    folder, port = Path(tempfile.mkdtemp(prefix="raykd-")), free_port()
    empty = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
    commands = ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    config: dict[str, Any] = {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "machine": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{key: [] for key in (*empty, *commands)},
    }
    (folder / "growing.yaml").write_text(json.dumps(config))
    settings = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    options = ["--head", "--block", f"--port={port}", "--num-cpus=0", "--node-ip-address=127.0.0.1"]
    options += ["--include-dashboard=false", f"--temp-dir={folder}", f"--object-store-memory={100 * 2**20}"]
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [str(BIN / "ray"), "start", *options, f"--autoscaling-config={folder / 'growing.yaml'}"],
            env={**others, **LOOPBACK, **settings}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    yield f"127.0.0.1:{port}"
    os.killpg(head.pid, signal.SIGKILL)
    head.wait()
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        if str(folder) in line:  # a machine's processes are the autoscaler's, and outlive it
            os.kill(int(line.split()[0]), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def started(folder: Path, address: str, workers: int, *words: str) -> "subprocess.Popen[str]":
    cluster = {"address": address, "workers": workers, "grows_to": 2 if workers < 3 else 4}
    (folder / "growing.yaml").write_text(yaml.safe_dump(cluster))
    command = [sys.executable, "-m", "raykd", *words, "--cluster", "growing.yaml", "--json"]
    environment = {**os.environ, **LOOPBACK, "RAYKD_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Reservation:
    """What Ray gives for bundles that no node has room for: there once its autoscaler has added machines."""

    def __init__(self, nodes: list[dict[str, float]], looks: float) -> None:
        self.nodes, self.looks, self.removed = nodes, looks, False
        self.bundles: list[dict[str, float]] = []

    def __call__(self, bundles: list[dict[str, float]]) -> "Reservation":
        self.bundles = bundles
        return self

    def wait(self, seconds: float) -> bool:
        self.looks -= 1
        if self.looks < 0:
            self.nodes += self.bundles
        return self.looks < 0

    def remove(self, reservation: "Reservation") -> None:
        self.removed = reservation is self


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Reservation:
    """A cluster of one CPU whose machines come after the parameter's number of looks."""
    nodes = [{"CPU": 1.0}]
    reservation = Reservation(nodes, request.param)
    monkeypatch.setattr("raykd.runners.ray.session._nodes", lambda: nodes)
    monkeypatch.setattr("raykd.runners.ray.session.placement_group", reservation)
    monkeypatch.setattr("raykd.runners.ray.session.remove_placement_group", reservation.remove)
    return reservation


GROWING = Cluster(name="growing", workers=3, grows_to=4)


@pytest.mark.ray
@pytest.mark.parametrize("reserved", [2], indirect=True)
def test_machines_are_waited_for(reserved: Reservation, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        check_resources(GROWING, 3)
    assert reserved.bundles == [{"CPU": 1.0}] * 3
    assert reserved.removed, "it would keep the workers from the machines"
    assert caplog.messages == [
        "waiting for machines: 3 workers need 3 CPUs",
        *["still waiting for machines: room for 1 of 3 workers"] * 2,
        "3 workers need 3 CPUs; the cluster has 4 CPUs",
    ]


@pytest.mark.ray
@pytest.mark.parametrize("reserved", [math.inf], indirect=True)
def test_a_wait_for_machines_has_an_end(reserved: Reservation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.runners.ray.session.GROWTH_SECONDS", -60)
    with pytest.raises(SetupError, match="3 workers .* need 3 CPUs, and after -1 minutes there is room for 1: `ray st"):
        check_resources(GROWING, 3)
    assert reserved.removed


@pytest.mark.endurance
@pytest.mark.ray
@pytest.mark.slow
def test_machines_are_asked_for_and_waited_for(address: str, tmp_path: Path) -> None:
    overrides = {**SMALL, "teacher.overrides": SMALL}
    space = {"recipe": "kd_digits", "overrides": overrides, "space": {"student_optim.lr": {"uniform": [0.001, 0.01]}}}
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(space))
    search = started(tmp_path, address, 1, "tune", "rates.yaml", "--trials", "2")
    out, said = search.communicate(timeout=200)
    assert search.returncode == 0, said
    assert "waiting for machines: 1 workers need 1 CPUs" in said
    assert "2 trials of 1 workers at a time" in said, "as many as there will be room for"
    assert json.loads(out)["trials"]["complete"] == 2
    environments = [json.loads(file.read_text()) for file in tmp_path.glob("runs/kd_digits-*/environment.json")]
    assert {environment["idle_threads"] for environment in environments} == {"PASSIVE"}, "where others started Ray, too"


@pytest.mark.endurance
@pytest.mark.ray
@pytest.mark.slow
def test_a_wait_for_machines_can_be_stopped(address: str, tmp_path: Path) -> None:
    waiting = started(tmp_path, address, 4, "train", "kd_digits")
    assert waiting.stderr is not None
    while "waiting for machines" not in waiting.stderr.readline():
        assert waiting.poll() is None
    time.sleep(1)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (130, "\nraykd: interrupted; no step was made that could be saved\n")


@pytest.mark.ray
@pytest.mark.parametrize(("share", "room"), [(0.5, 16), (0.6, 8), (0.1, 80), (2, 4)])
def test_a_part_of_a_gpu_is_a_part_of_one(
    ray_session: ModuleType, monkeypatch: pytest.MonkeyPatch, share: float, room: int
) -> None:
    node = {"Alive": True, "Resources": {"CPU": 200.0, "GPU": 8.0}}
    monkeypatch.setattr("raykd.runners.ray.session.ray.nodes", lambda: [node])
    cluster = Cluster(name="made", gpus_per_worker=share)
    assert room_for(cluster) == room
    assert room_for(cluster.model_copy(update={"grows_to": 100})) == 100
