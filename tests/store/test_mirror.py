"""What travels between a machine and a store, in an order that a kill cannot make wrong; without a server."""

import json
from pathlib import Path
from typing import cast

import pytest

from raykd.files import write_json
from raykd.store.mirror import Mirror
from raykd.store.remote import Entry, Remote


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
