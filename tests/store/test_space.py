"""Whether there is room is told by the file system, and wrong by nobody's guess."""

import os
import resource
import shutil
from pathlib import Path

import pytest

from raykd.errors import SetupError
from raykd.store.space import free_space, require_room, size_of


def test_the_room_of_a_folder_that_is_not_there_yet_is_that_of_its_disk(tmp_path: Path) -> None:
    free = free_space(tmp_path / "not" / "there")
    assert free is not None
    assert abs(free - shutil.disk_usage(tmp_path).free) < 0.1 * free


def test_a_file_system_that_cannot_tell_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = os.statvfs("/proc")  # of no blocks
    assert free_space(Path("/proc")) is None
    monkeypatch.setattr(os, "statvfs", lambda _: counts)
    require_room("a run", tmp_path, 2**80, 0, "")


def test_more_than_there_is_room_for_is_refused(tmp_path: Path) -> None:
    require_room("a run", tmp_path, 1000, 1000, "another folder")
    with pytest.raises(
        SetupError, match=r"^a run needs about \S+ GiB, \S+ .iB free in /.*: free space, or another fold"
    ):
        require_room("a run", tmp_path, 2**80, 0, "another folder")


def test_a_limit_of_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2048, resource.RLIM_INFINITY))
    require_room("a run", tmp_path, 10_000, 2048, "")
    with pytest.raises(
        SetupError, match=r"a run needs about 4.00 KiB in one file, .* files of 2.00 KiB \(`ulimit -f`\)"
    ):
        require_room("a run", tmp_path, 10_000, 4096, "")


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"12345")
    (tmp_path / "d").write_bytes(b"123")
    (tmp_path / "e").symlink_to("d")
    assert (size_of(tmp_path), size_of(tmp_path / "none")) == (8, 0)
