"""What is here of a store elsewhere, and which of two copies is the newer."""

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import cast

import pytest

from raykd.files import write_json
from raykd.store.checkpoint import Checkpoint, part_name, write_checkpoint
from raykd.store.mirror import Mirror
from raykd.store.remote import Entry, Remote


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


class FolderRemote:
    """An object store that is a folder; it notes what travels, and is killed before a file of the name ``killer``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[str] = []
        self.killer = ""

    def entries(self, name: str) -> dict[str, Entry]:
        files = [path for path in (self.root / name).rglob("*") if path.is_file()]
        return {path.relative_to(self.root / name).as_posix(): self._entry(path) for path in files}

    def entry(self, name: str) -> Entry:
        return self._entry(self.root / name)

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def fetch(self, name: str, target: Path) -> None:
        self._copy(self.root / name, target)

    def push(self, source: Path, name: str) -> None:
        self._copy(source, self.root / name)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name)

    def remove_file(self, name: str) -> None:
        (self.root / name).unlink()

    def _copy(self, source: Path, target: Path) -> None:
        if source.name == self.killer:
            raise KeyboardInterrupt
        self.told.append(source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())

    @staticmethod
    def _entry(path: Path) -> Entry:
        return Entry(path.stat().st_size, int(path.stat().st_mtime))


@pytest.fixture
def remote(tmp_path: Path) -> FolderRemote:
    return FolderRemote(tmp_path / "store")


def mirror(remote: FolderRemote, local: Path) -> Mirror:
    return Mirror(cast(Remote, remote), local)


def search(folder: Path, trials: int) -> None:
    """Write what a search leaves after so many trials."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "best.yaml").write_text("seed: 0")
    (folder / "study.db").write_text(f"{trials} trials")
    write_json(folder / "search.json", {"trials": trials, "updated": float(trials)})


def trials_in(folder: Path) -> tuple[str, str]:
    return (folder / "study.db").read_text(), f"{json.loads((folder / 'search.json').read_text())['trials']} trials"


@pytest.mark.parametrize("upwards", [False, True])
def test_a_kill_between_a_study_and_its_record_is_made_good(
    remote: FolderRemote, tmp_path: Path, upwards: bool
) -> None:
    """The record must not come first: a newer one would keep the study of before from being replaced for ever."""
    name = "searches/x"
    here, there = tmp_path / "here" / name, remote.root / name
    search(here, 3 if upwards else 1)
    search(there, 1 if upwards else 3)
    travels = Mirror.push if upwards else Mirror.pull
    remote.killer = "study.db"
    with pytest.raises(KeyboardInterrupt):
        travels(mirror(remote, tmp_path / "here"), name)
    target = there if upwards else here
    assert trials_in(target)[1] == "1 trials", "the record of before still stands"
    remote.killer, remote.told = "", []
    travels(mirror(remote, tmp_path / "here"), name)
    assert trials_in(target) == ("3 trials", "3 trials")
    assert remote.told[-2:] == ["study.db", "search.json"]


def test_folders_that_are_no_checkpoints_are_passed_over(remote: FolderRemote, tmp_path: Path) -> None:
    for root, names in ((remote.root, ("step_0000100.bak",)), (tmp_path / "here", (".writing-step_0000007",))):
        for name in (*names, "step_0000002"):
            folder = root / "x-s0" / "checkpoints" / name
            folder.mkdir(parents=True)
            (folder / "state.pt").write_text("state")
            files = {"state.pt": {"sha256": "0", "bytes": 5}}
            write_json(folder / "manifest.json", {"step": 100, "world_size": 1, "files": files})
    (remote.root / "x-s0" / "status.json").write_text("{}")
    mirror(remote, tmp_path / "here").pull("x-s0")
    assert (tmp_path / "here/x-s0/status.json").is_file(), "what is there is as new as what is here, whatever else is"


def test_parts_of_a_pool_travel_once(tmp_path: Path) -> None:
    remote = FolderRemote(tmp_path / "store")
    part = tmp_path / "a/x-s0/pool/images-0000002-00000.parquet"
    part.parent.mkdir(parents=True)
    part.write_text("images")
    here, there = (Mirror(cast(Remote, remote), tmp_path / machine) for machine in ("a", "b"))
    for _ in range(2):
        here.push("x-s0")
    assert remote.told == [part.name]
    for _ in range(2):
        there.pull("x-s0")
        there.push("x-s0")
        Mirror(cast(Remote, remote), tmp_path / "b").push("x-s0")
    assert remote.told == [part.name] * 2, "brought once, and not sent back"
    part.write_text("others")  # as long, of after a rewind
    here.push("x-s0")
    assert remote.read("x-s0/pool/images-0000002-00000.parquet") == b"others"


def test_a_checkpoint_whose_images_are_not_here_is_no_newer_one(tmp_path: Path) -> None:
    """In an outage, the part of another machine's worker never came to the store."""
    remote = FolderRemote(tmp_path / "store")
    for root, step, parts in (("store", 1, ()), ("here", 2, ("images-0000002-00001.parquet",))):
        folder = tmp_path / root / "x-s0/checkpoints" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        (folder / "state.pt").write_text("state")
        (folder / "manifest.json").write_text(
            json.dumps({**json.loads(manifest(step, "state")), "pool": {name: {} for name in parts}})
        )
    Mirror(cast(Remote, remote), tmp_path / "here").pull("x-s0")
    assert (tmp_path / "here/x-s0/checkpoints/step_0000001/state.pt").is_file()


def test_images_that_were_made_again_in_other_files_are_removed(remote: FolderRemote, tmp_path: Path) -> None:
    """Two workers went back from step 4 to step 2, and one of them went on."""
    run, there = tmp_path / "here/x-s0", remote.root / "x-s0"
    there.joinpath("pool").mkdir(parents=True)
    parts = [part_name(2, 0), part_name(2, 1), part_name(4, 0), part_name(4, 1), part_name(6, 1)]
    for name in parts:
        (there / "pool" / name).write_text("images")

    def save(step: int, *names: str) -> None:
        pool = {name: {"sha256": "0", "bytes": 6} for name in names}
        write_checkpoint(run / "checkpoints", Checkpoint(step, 1, {}, {}), pool=pool)
        mirror(remote, tmp_path / "here").push("x-s0")

    def left() -> list[str]:
        return sorted(path.name for path in (there / "pool").iterdir())

    save(2, *parts[:2])
    save(4, *parts[:3])
    assert left() == parts, "of a later step than there was a checkpoint: theirs may be on its way"
    mirror(remote, tmp_path / "here").push("x-s0")
    assert left() == [*parts[:3], parts[4]]
    (there / "checkpoints/step_0000009").mkdir()
    (there / "checkpoints/step_0000009/manifest.json").write_text("{}")
    (there / "pool" / part_name(3, 0)).write_text("images")
    no_newer = mirror(remote, tmp_path / "here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "remove", lambda name: None)
        no_newer.push("x-s0")
    assert part_name(3, 0) in left(), "who has not the newest checkpoint removes no images"


def test_what_a_tracker_writes_stays_here_but_for_its_id(store: str, tmp_path: Path) -> None:
    mirror, run = Mirror(Remote(store), tmp_path), tmp_path / "x-s0"
    (run / "wandb" / "offline-run-1").mkdir(parents=True)
    for name in ("status.json", "tracker_wandb.json", "wandb/offline-run-1/run.wandb"):
        (run / name).write_text("{}")
    mirror.push("x-s0")
    assert sorted(mirror.remote.entries("x-s0")) == ["status.json", "tracker_wandb.json"]
