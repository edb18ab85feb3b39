"""Files of others: a device, a pipe, too much, a link that leads elsewhere and a folder too deep are told in a line."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from raykd import files
from raykd.errors import CorruptError, InProgress, SetupError
from raykd.files import (
    held,
    locked,
    make_folder,
    read_bytes,
    read_json,
    read_text,
    refuse_links_out,
    sha256_of,
    sweep_folders,
    write_json,
)


@pytest.fixture(params=["a device", "a pipe", "a link to a pipe"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What a reader that opens it would read, or wait for, without end."""
    path = tmp_path / "status.json"
    if request.param == "a device":
        path.symlink_to("/dev/zero")
    elif request.param == "a pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    return path


def test_what_has_no_end_is_not_read(endless: Path) -> None:
    with pytest.raises(CorruptError, match=r"status\.json is damaged \(it is no regular file\); restore it"):
        read_json(endless, "restore it")
    with pytest.raises(CorruptError, match="it is no regular file"):
        sha256_of(endless)
    with pytest.raises(OSError, match="it is no regular file"):
        read_text(endless)


def test_more_than_is_allowed_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_bytes(file, 5) == b"12345"
    with pytest.raises(OSError, match="it has more than 4 B"):
        read_bytes(file, 4)
    with file.open("wb") as sparse:
        sparse.truncate(files.MAX_JSON_BYTES + 1)
    with pytest.raises(CorruptError, match=r"is damaged \(it has more than 64\.00 MiB\)"):
        read_json(file, "restore it")


def test_a_link_to_a_regular_file_is_followed(tmp_path: Path) -> None:
    write_json(tmp_path / "there", {"a": 1})
    (tmp_path / "here").symlink_to("there")
    assert read_json(tmp_path / "here", "") == {"a": 1}


def test_links_that_lead_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    tmp_path.joinpath("link").symlink_to("folder")
    (folder / "kept").symlink_to("inside")
    refuse_links_out(tmp_path / "link", ("inside", "kept", "not there"))
    for target in (tmp_path, "../elsewhere", "../folder2"):
        (folder / "out").symlink_to(target)
        with pytest.raises(CorruptError, match="out is a link that leads out of"):
            refuse_links_out(folder, ("inside", "out"))
        (folder / "out").unlink()


def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to("elsewhere")
    with pytest.raises(CorruptError, match=r"\.lock is a link that leads nowhere, and a file of its own belongs there"):
        locked(tmp_path / ".lock", wait=False).__enter__()
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_too_deep_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="folders deep, and 250 are allowed"):
        make_folder(tmp_path / "/".join("d" * 1500))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_looked_at_as_it_is_taken_is_held_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "x-needed"
    folder.mkdir()
    with held(folder):
        (mark,) = folder.iterdir()
    looking = mark.open()
    fcntl.flock(looking, fcntl.LOCK_EX)
    threading.Timer(0.2, looking.close).start()
    with held(folder):
        os.utime(mark, (0, 0))
        for _ in range(2):
            sweep_folders(tmp_path, "x-")
            os.utime(mark, (0, 0))
        assert folder.exists()


def test_folders_of_processes_that_ended_are_removed_a_day_later(tmp_path: Path) -> None:
    names = ["x-left", "x-held", "x-strange", "x-linked"]
    left, needed, strange, linked = (tmp_path / name for name in names)
    for folder in (left, needed, strange):
        folder.mkdir()
    with held(left):
        pass
    linked.symlink_to(left)
    (left / "logs").write_text("wanted yet")
    mark = next(path for path in left.iterdir() if path.name != "logs")
    with held(needed):
        for days in range(4):
            sweep_folders(tmp_path, "x-")
            assert left.exists() == (days < 2), "found, then kept for a day"
            os.utime(needed / mark.name, (0, 0))
            if days == 1:
                os.utime(mark, (0, 0))
        assert needed.exists(), "a process has it"
    assert strange.exists(), "not one of ours"
    assert linked.is_symlink()


def test_a_lock_that_somebody_only_asked_about_is_taken(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.touch()
    asked = path.open("r+")
    fcntl.flock(asked, fcntl.LOCK_EX)
    threading.Timer(0.01, asked.close).start()
    with locked(path, wait=False, busy="it is in progress"):
        pass
    with path.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InProgress, match="it is in progress"), locked(path, wait=False, busy="it is in progress"):
            pass
