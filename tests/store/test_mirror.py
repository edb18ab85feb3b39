"""What is here of a store elsewhere, and which of two copies is the newer."""

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest

from raykd.store.mirror import Mirror
from raykd.store.remote import Remote


def manifest(step: int, told: str) -> str:
    files = {"state.pt": {"sha256": hashlib.sha256(told.encode()).hexdigest()}}
    return json.dumps({"step": step, "world_size": 1, "files": files})


def test_what_is_here_and_newer_is_kept(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(Remote(store), tmp_path / "here")
    run = tmp_path / "here" / "x-s0"

    def save(step: int, told: str) -> None:
        folder = run / "checkpoints" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        (folder / "state.pt").write_text(told)
        (folder / "manifest.json").write_text(manifest(step, told))
        (run / "status.json").write_text(json.dumps({"step": step, "state": "running"}))

    save(1, "first")
    sent: list[str] = []
    send = mirror.remote.push

    def noted(path: Path, name: str) -> None:
        sent.append(path.name)
        send(path, name)

    monkeypatch.setattr(mirror.remote, "push", noted)
    mirror.push("x-s0")
    assert sent == ["state.pt", "manifest.json", "status.json"], "what vouches for others comes behind them"
    save(2, "second")
    mirror.pull("x-s0")
    assert json.loads((run / "status.json").read_text())["step"] == 2, "saved here in an outage"
    mirror.push("x-s0")
    shutil.rmtree(run / "checkpoints" / "step_0000001")
    mirror.push("x-s0")
    assert {path.partition("/")[0] for path in Remote(store).entries("x-s0/checkpoints")} == {"step_0000002"}
    other = Mirror(Remote(store), tmp_path / "other")
    folder = tmp_path / "other" / "x-s0" / "checkpoints" / "step_0000002"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_text("spoilt")  # of another attempt: as long, with another manifest
    (folder / "manifest.json").write_text(manifest(2, "spoilt"))
    other.pull("x-s0")
    assert (folder / "state.pt").read_text() == "second"
    (folder / "state.pt").unlink()
    other.pull("x-s0")
    assert (folder / "state.pt").read_text() == "second"


def test_a_member_of_another_attempt_is_told_from_its_successor(store: str, tmp_path: Path) -> None:
    """A machine died behind a member that another one trained again: as long, and not the same."""
    name = "x-s0/bank/class_00003.safetensors"
    for machine, told in (("a", "first"), ("b", "other")):
        path = tmp_path / machine / name
        path.parent.mkdir(parents=True)
        path.write_text(told)
        Mirror(Remote(store), tmp_path / machine).push_file(path, name)
        time.sleep(1.1)  # stores tell time in seconds
    back = Mirror(Remote(store), tmp_path / "a")
    back.push("x-s0")
    assert Remote(store).read(name) == b"other", "nothing old is put in the place of something newer"
    back.pull("x-s0")
    brought = tmp_path / "a" / name
    assert brought.read_text() == "other"
    inode = brought.stat().st_ino
    Mirror(Remote(store), tmp_path / "a").pull("x-s0")
    assert brought.stat().st_ino == inode, "and brought once"
