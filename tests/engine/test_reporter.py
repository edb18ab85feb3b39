"""What a run hands out is written, or told that it cannot be."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from raykd.engine import reporter as module
from raykd.engine.reporter import LocalReporter
from raykd.errors import CorruptError
from raykd.store.checkpoint import (
    Checkpoint,
)
from raykd.store.mirror import Mirror
from raykd.store.remote import Remote
from raykd.store.run_directory import RunDirectory
from raykd.store.status import parse_status
from tests.object_store import Server


def test_a_disk_that_does_not_take_the_products_is_told(tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("a file where a folder should be")
    products = {"class_00000": {"w": torch.ones(1)}}
    checkpoint = Checkpoint(1, 1, {}, {}, products=products)
    with pytest.raises(CorruptError, match="bank is a file, and a folder belongs there"):
        LocalReporter(RunDirectory(tmp_path)).report(None, checkpoint)
    assert not (tmp_path / "checkpoints").exists()


class Clock:
    """A clock that is set by hand; everything else of the module ``time`` is real."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_step_is_noted_every_few_seconds_with_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, run = Clock(), RunDirectory(tmp_path / "run")
    monkeypatch.setattr(module, "time", clock)
    run.path.mkdir()
    run.write_status(state="running", step=0, steps=1000)
    reporter = LocalReporter(run)
    noted = []
    for done in range(1, 101):
        reporter.note_step(done)
        clock.now += 0.5
        noted.append((run.status()["current_step"], run.status()["steps_per_second"]))
    assert noted[0] == (1, None)
    assert noted[4] == (5, 2.0)
    assert len(set(noted)) == 25, "not at each step"
    assert run.status()["step"] == 0, "which is the checkpoint's"
    clock.now += 10
    reporter.note_step(1)  # behind a rewind
    assert (run.status()["current_step"], run.status()["steps_per_second"]) == (1, None)


def test_a_rewind_to_behind_the_first_step_begins_a_new_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, run = Clock(), RunDirectory(tmp_path / "run")
    monkeypatch.setattr(module, "time", clock)
    run.path.mkdir()
    run.write_status(state="running", step=0, steps=1000)
    reporter = LocalReporter(run)
    paces = []
    for done in (1, 101, 51, 61):  # from 101 back to a checkpoint at 50
        reporter.note_step(done)
        paces.append(run.status()["steps_per_second"])
        clock.now += 10
    assert paces == [None, 10.0, None, 1.0]


def test_notes_make_no_run_directory_anew_and_end_no_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    reporter = LocalReporter(run)
    reporter.note_step(1)
    assert not run.path.exists()
    run.path.mkdir()
    (run.path / "status.json").mkdir()
    LocalReporter(run).note_step(1)
    shutil.rmtree(run.path)


def test_a_slow_disk_is_noted_on_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, run = Clock(), RunDirectory(tmp_path)
    monkeypatch.setattr(module, "time", clock)
    written: list[float] = []

    def slowly(path: Path, value: object) -> None:
        clock.now += 0.1
        written.append(clock.now)

    monkeypatch.setattr("raykd.store.run_directory.write_json", slowly)
    monkeypatch.setattr("raykd.store.run_directory.time", time)
    reporter = LocalReporter(run)
    for done in range(1, 1001):
        reporter.note_step(done)
        clock.now += 0.5
    assert len(written) * 0.1 / 500 < 0.003


def wait_for_sending() -> None:
    for thread in threading.enumerate():
        if thread.name == "raykd-push":
            thread.join()


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers, as one behind a firewall; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_store_elsewhere_hears_of_steps_between_reports_and_seldom(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, store = Clock(), Remote(f"s3://{s3.new_bucket()}/runs")
    monkeypatch.setattr(module, "time", clock)
    run = RunDirectory(tmp_path / "x-s0")
    run.path.mkdir()
    (run.path / "recipe.yaml").write_text("name: x\n")
    run.write_status(state="running", step=0, steps=1000)
    mirror = Mirror(store, tmp_path)
    sent: list[str] = []
    push = mirror.push_file

    def noted(path: Path, name: str, *, once: bool = False) -> None:
        sent.append(name)
        push(path, name, once=once)

    monkeypatch.setattr(mirror, "push_file", noted)
    reporter = LocalReporter(run, mirror=mirror)
    seen: list[int] = []
    for done in range(1, 101):
        reporter.note_step(done)
        wait_for_sending()
        clock.now += 0.5
        seen.append(parse_status(store.read("x-s0/status.json") or b"")["current_step"])
    assert seen[0] == 1
    assert seen[-1] > 70
    assert sent[:2] == ["x-s0/recipe.yaml", "x-s0/status.json"], "a status of nothing would be no run's"
    assert sent[2:] == ["x-s0/status.json"] * len(sent[2:])
    assert len(sent) <= 2 + 5
    assert store.entries("x-s0").keys() == {"recipe.yaml", "status.json"}


def test_a_store_that_is_away_keeps_no_step_waiting(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "x-s0")
    run.path.mkdir()
    mirror = Mirror(Remote(f"s3://{s3.new_bucket()}/runs"), tmp_path)
    reporter = LocalReporter(run, mirror=mirror)
    with silent_server() as address:
        monkeypatch.setattr(
            mirror, "remote", Remote(f"s3://b/runs?endpoint_override={address}&scheme=http", known=True)
        )
        began = time.monotonic()
        reporter.note_step(1)
        assert not mirror.push_aside([]), "the try is on its way"
        assert time.monotonic() - began < 2
    wait_for_sending()
    assert run.status()["current_step"] == 1


def test_a_status_that_was_on_its_way_is_no_newer_than_a_report(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "x-s0")
    run.path.mkdir()
    run.write_status(state="running", step=1)
    store = Remote(f"s3://{s3.new_bucket()}/runs")
    mirror, push = Mirror(store, tmp_path), Remote.push

    def slow(remote: Remote, source: Path, name: str) -> None:
        content = source.read_bytes()
        if b"running" in content:
            time.sleep(1)
        remote.write(name, content)

    monkeypatch.setattr(Remote, "push", slow)
    assert mirror.push_aside([run.path / "status.json"])
    time.sleep(0.3)  # until it has read the old one
    run.write_status(state="finished")
    mirror.push(run.name)
    wait_for_sending()
    monkeypatch.setattr(Remote, "push", push)
    assert parse_status(store.read("x-s0/status.json") or b"")["state"] == "finished"
