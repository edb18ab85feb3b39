"""What a process may still take: the least of what the machine and its container have left."""

from pathlib import Path

import pytest
import torch

from raykd.distributed import memory
from raykd.distributed.memory import free_device_memory, free_memory

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 300 MiB free and no container around the process."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path / "cgroup")
    (tmp_path / "meminfo").write_text("MemTotal:  900000 kB\nMemAvailable:  307200 kB\n")
    return tmp_path


def limited(folder: Path, **files: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_this_machine_has_some() -> None:
    free = free_memory()
    assert free is not None
    assert 2**20 < free < 2**50


def test_without_a_container_it_is_the_machines(machine: Path) -> None:
    assert free_memory() == free_device_memory(CPU) == 300 * 2**20
    limited(machine / "cgroup", memory__max="max", memory__current=5)
    assert free_memory() == 300 * 2**20


def test_a_containers_limit_counts_for_plans_and_for_banks_alike(machine: Path) -> None:
    limited(machine / "cgroup", memory__max=200 * 2**20, memory__current=150 * 2**20)
    assert free_memory() == free_device_memory(CPU) == 50 * 2**20
    (machine / "cgroup" / "memory.stat").write_text("anon 1\ninactive_file 10485760\n")
    assert free_memory() == 60 * 2**20, "cached files are given back"


def test_the_first_version_of_control_groups_counts_too(machine: Path) -> None:
    limited(machine / "cgroup" / "memory", memory__limit_in_bytes=2**30, memory__usage_in_bytes=2**30 - 4096)
    assert free_memory() == 4096
    limited(machine / "cgroup" / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=0)
    assert free_memory() == 300 * 2**20, "no limit is a very large one there"


def test_nobody_says(machine: Path) -> None:
    (machine / "meminfo").write_text("nothing of use\n")
    assert free_memory() is None
    assert free_device_memory(CPU) == 4 * 2**30
