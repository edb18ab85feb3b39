"""A study in PostgreSQL that two tuners share, and one that Optuna's dashboard reads."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

from raykd.search.attributes import TUNER
from tests.ports import free_port
from tests.search.made_study import filled_study

PATIENCE = 60  # seconds
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
    Path(found).parent for found in [shutil.which("pg_ctl")] if found
]


@pytest.fixture
def database() -> Iterator[str]:
    """The address of a PostgreSQL server of this test's own."""
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed")
    folder, port = Path(tempfile.mkdtemp(prefix="raykd-postgres-")), free_port()  # pytest's own are closed to others
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:  # whom the server refuses
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    how: dict[str, Any] = {"check": True, "capture_output": True, "cwd": folder, **as_user}
    bin = PROGRAMS[-1]
    subprocess.run([bin / "initdb", "-D", folder / "data", "-U", "raykd", "--auth=trust", "--no-sync"], **how)
    settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    log = folder / "server.log"
    subprocess.run([bin / "pg_ctl", "-D", folder / "data", "-o", settings, "-l", log, "-w", "start"], **how)
    try:
        yield f"postgresql+psycopg://raykd@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([bin / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **how)
        shutil.rmtree(folder)


@pytest.mark.endurance
@pytest.mark.ray
@pytest.mark.slow
def test_two_tuners_share_a_study_in_postgresql(tmp_path: Path, database: str) -> None:
    teacher = {"schedule.steps": 8, "schedule.report_every": 4, "schedule.global_batch": 16}
    budget = {"teacher.overrides": teacher, "schedule.steps": 60, "schedule.report_every": 30}
    rate = {"student_optim.lr": {"loguniform": [0.0001, 0.01]}}
    space = tmp_path / "small.yaml"
    space.write_text(yaml.safe_dump({"recipe": "kd_digits", "overrides": budget, "trials": 6, "space": rate}))
    (tmp_path / "place.yaml").write_text(yaml.safe_dump({"study": database}))
    command = [sys.executable, "-m", "raykd", "tune", str(space), "--cluster", str(tmp_path / "place.yaml"), "--json"]
    command += ["--out", str(tmp_path / "runs")]  # one store too: the one that trains the teacher is waited for
    tuners = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    ended = [tuner.communicate(timeout=240) for tuner in tuners]
    assert [tuner.returncode for tuner in tuners] == [0, 0], ended
    reports = [json.loads(out.splitlines()[-1]) for out, _ in ended]
    assert reports[0]["study"] == reports[1]["study"]
    storage = RDBStorage(database, engine_kwargs={"poolclass": NullPool})
    trials = optuna.load_study(study_name=reports[0]["study"], storage=storage).trials
    storage.remove_session()  # else its connection stays open until some later test
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == 6, "together as many as the space wants, not one more"
    assert len({trial.user_attrs[TUNER] for trial in complete}) == 2, "both worked"


def test_the_dashboard_opens_a_study(tmp_path: Path) -> None:
    filled_study(tmp_path, "accuracy")
    port = free_port()
    storage = f"sqlite:///{tmp_path / 'made-0' / 'study.db'}"
    server = subprocess.Popen(
        [sys.executable, "-m", "optuna_dashboard._cli", storage, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        (study,) = answered(port, "studies")["study_summaries"]
        assert study["study_name"] == "made-0"
        found = answered(port, f"studies/{study['study_id']}")
        assert found["objective_names"] == ["accuracy"]
        assert [trial["state"] for trial in found["trials"]] == ["Complete"] * 6 + ["Fail"]
        first = found["trials"][0]
        assert {one["name"] for one in first["params"]} >= {"student.model", "data.augment", "schedule.steps"}
        assert first["intermediate_values"] == [{"step": 1, "value": 0.0}]
        assert {"key": "run", "value": "run-0"} in [
            {"key": one["key"], "value": one["value"].strip('"')} for one in first["user_attrs"]
        ]
    finally:
        server.kill()
        server.wait()


def answered(port: int, path: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=10) as answer:
                return dict(json.load(answer))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
