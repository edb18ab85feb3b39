"""Disks of a test's own that fill up, become read-only or go away. Mounting takes root's rights."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLOCK = 4096


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Mount a disk at a folder, which is made; skip the test where that is not allowed."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        while not subprocess.run(["umount", "-l", folder], capture_output=True, check=False).returncode:
            pass  # one may have taken the place of another


def resize(disk: Path, blocks: int) -> None:
    _remount(disk, f"size={blocks * BLOCK}")


def leave(disk: Path, blocks: int) -> None:
    """Leave so many blocks of a disk free."""
    used = sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))
    resize(disk, -(-used // BLOCK) + blocks)


def take_away(disk: Path) -> None:
    subprocess.run(["umount", "-l", disk], check=True)


def make_read_only(disk: Path) -> None:
    """Put a read-only copy in the place of a disk; the system makes one so when it finds a fault."""
    copy = disk.with_name("copy")
    copy.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", copy], check=True)
    subprocess.run(["cp", "-a", f"{disk}/.", copy], check=True)
    _remount(copy, "ro")
    subprocess.run(["mount", "--move", copy, disk], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)
