"""A checkpoint is whole, or it is recognised and the one before it is used."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raykd.errors import CorruptError, SetupError
from raykd.files import sha256_of, write_text
from raykd.store import checkpoint as module
from raykd.store.checkpoint import (
    Checkpoint,
    find_fault,
    latest_checkpoint,
    newest_whole,
    part_name,
    read_checkpoint,
    remove_after,
    write_checkpoint,
)
from tests.methods.toy import assert_same


def made(step: int, rows: int = 5) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    shared = torch.randn(rows, 4, generator=generator)
    weights = {"last": {"w": shared, "w_of_the_same": shared.T, "n": torch.tensor(step)}}
    state = {"method": {"steps_done": step, "updaters": {0: {"exp_avg": shared * 2}}}, "seconds": 1.5}
    return Checkpoint(step, 2, weights, state)


def flip(path: Path, position: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, made(7))
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "step_0000007"
    found, expected = read_checkpoint(path), made(7)
    assert (found.step, found.world_size) == (7, 2)
    assert_same(found.weights, expected.weights)
    assert_same(found.state, expected.state)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing: the write was"),
    "state flipped": (lambda p: flip(p / "state.pt"), "state.pt differs"),
    "weights flipped": (lambda p: flip(p / "last.safetensors"), "last.safetensors differs"),
    "header flipped": (lambda p: flip(p / "last.safetensors", 12), "last.safetensors differs"),
    "weights cut": (lambda p: truncate(p / "last.safetensors"), "last.safetensors differs"),
    "weights gone": (lambda p: (p / "last.safetensors").unlink(), "last.safetensors is missing"),
    "manifest cut": (lambda p: truncate(p / "manifest.json"), "manifest.json is not readable"),
    "manifest bytes": (lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe"), "not readable"),
    "manifest list": (lambda p: (p / "manifest.json").write_text("[]"), "not readable"),
    "manifest null": (lambda p: (p / "manifest.json").write_text('{"files": null}'), "not readable"),
    "manifest words": (lambda p: (p / "manifest.json").write_text('{"files": [1]}'), "not readable"),
    "manifest empty": (lambda p: (p / "manifest.json").write_text(""), "not readable"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (5, 10):
        write_checkpoint(tmp_path, made(step))
    harm, says = DAMAGES[damage]
    harm(tmp_path / "step_0000010")
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == tmp_path / "step_0000005"
    assert "step_0000010" in caplog.text
    assert says in caplog.text


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    for step in (5, 10):
        flip(write_checkpoint(tmp_path, made(step)) / "state.pt")
    with pytest.raises(CorruptError, match="step_0000005.*step_0000010") as caught:
        latest_checkpoint(tmp_path)
    assert caught.value.exit_code == 4


def with_images(run: Path, steps: int) -> list[Path]:
    """Checkpoints of steps 1, 2 ..., each of which names the images of all before it."""
    (run / "pool").mkdir()
    pool, written = {}, []
    for step in range(1, steps + 1):
        path = run / "pool" / part_name(step, 0)
        path.write_bytes(bytes([step]) * 64)
        pool[path.name] = {"sha256": sha256_of(path), "bytes": 64}
        written.append(write_checkpoint(run / "checkpoints", made(step), pool=pool))
    return written


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_of_damaged_images_of_long_ago_the_file_is_named_and_nothing_is_to_be_deleted(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    newest = with_images(tmp_path, 4)[-1]
    oldest = tmp_path / "pool" / part_name(1, 0)
    content = oldest.read_bytes()
    harm(oldest)
    with pytest.raises(CorruptError, match=r"pool/images-0000001-00000\.parquet.*restore that file from a") as caught:
        latest_checkpoint(tmp_path / "checkpoints")
    assert caught.value.exit_code == 4
    assert not re.search("delete|remove", str(caught.value))
    oldest.write_bytes(content)
    assert latest_checkpoint(tmp_path / "checkpoints") == newest


def test_damaged_images_of_the_newest_checkpoint_are_made_again(tmp_path: Path) -> None:
    before, _ = with_images(tmp_path, 4)[-2:]
    flip(tmp_path / "pool" / part_name(4, 0))
    assert latest_checkpoint(tmp_path / "checkpoints") == before
    flip(before / "state.pt")
    with pytest.raises(CorruptError, match=r"pool/images-0000004-00000\.parquet differs.*restore that file"):
        latest_checkpoint(tmp_path / "checkpoints")


def test_a_flip_of_any_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, made(5))
    for name in ("state.pt", "last.safetensors"):
        for position in range(0, (path / name).stat().st_size, 37):
            flip(path / name, position)
            assert find_fault(path) == f"{name} differs from its checksum"
            flip(path / name, position)
    assert find_fault(path) is None


def test_two_are_kept_and_the_newest_is_found_by_number(tmp_path: Path) -> None:
    for step in (5, 10, 9_999_999, 10_000_000):
        write_checkpoint(tmp_path, made(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_10000000", "step_9999999"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_10000000"


def test_one_that_is_to_be_kept_stays_beside_the_newest_two(tmp_path: Path) -> None:
    for step in range(1, 7):
        write_checkpoint(tmp_path, replace(made(step), kept_step=2))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_0000002", "step_0000005", "step_0000006"]
    assert [newest_whole(tmp_path, last) for last in (1, 2, 4, 5, 9)] == [0, 2, 2, 5, 6]
    flip(tmp_path / "step_0000005" / "last.safetensors")
    assert newest_whole(tmp_path, 5) == 2
    remove_after(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000002"]


def test_what_was_passed_over_does_not_outlive_what_is_written_in_its_stead(tmp_path: Path) -> None:
    """Two that are unfit, and the good one before them: the run goes on from that, and none of its steps are lost."""
    for step in (6, 8):
        write_checkpoint(tmp_path, made(step))
    shutil.copytree(write_checkpoint(tmp_path / "backup", made(4)), tmp_path / "step_0000004")
    write_checkpoint(tmp_path, made(5))
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_0000004", "step_0000005"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_0000005"


def test_a_copy_made_by_hand_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step_0000099.bak").mkdir()
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, made(step))
    assert latest_checkpoint(tmp_path) == tmp_path / "step_0000003"
    assert (tmp_path / "step_0000099.bak").is_dir()


def test_a_damaged_one_is_written_anew(tmp_path: Path) -> None:
    flip(write_checkpoint(tmp_path, made(5)) / "state.pt")
    write_checkpoint(tmp_path, made(5))
    assert latest_checkpoint(tmp_path) == tmp_path / "step_0000005"


def test_leftovers_of_a_killed_write_are_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / ".writing-step_0000005"
    leftover.mkdir()
    (leftover / "state.pt").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    path = write_checkpoint(tmp_path, made(5))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert find_fault(path) is None


@pytest.mark.parametrize("function", ["save_weights", "write_json", "_fingerprint"])
def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    write_checkpoint(tmp_path, made(5))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, function, full)
    with pytest.raises(SetupError, match="step_0000010.*No space left.*intact"):
        write_checkpoint(tmp_path, made(10))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000005"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_0000005"


LIMITED = """
import resource, sys
from pathlib import Path
from raykd.store.checkpoint import write_checkpoint
from raykd.errors import SetupError
from tests.store.test_checkpoint import made
folder = Path(sys.argv[1])
for limit in (30, 3_000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_checkpoint(folder, made(10, rows=1_000))
    except SetupError as error:
        print("SetupError", error.exit_code, error)
"""


def test_a_write_that_the_system_refuses_leaves_the_old_state(tmp_path: Path) -> None:
    """Weights, state and manifest fail in three ways of their own when a file may not grow."""
    write_checkpoint(tmp_path, made(5))
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=dict(os.environ))
    assert done.stderr == ""
    assert [line[:12] for line in done.stdout.splitlines()] == ["SetupError 3"] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000005"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_0000005"


def test_nothing_in_a_checkpoint_can_execute(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, made(5))

    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "trace"),)

    torch.save({"method": Bomb()}, path / "state.pt")
    with pytest.raises(CorruptError, match="state.pt is damaged .it holds pickled Python objects"):
        read_checkpoint(path)
    assert not (tmp_path / "trace").exists()


def test_small_files_are_replaced_in_one_move(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, json.dumps({"new": 1}))
        assert reader.read() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_several_may_write_the_same_small_file(tmp_path: Path) -> None:
    texts = [str(writer) * 4000 for writer in range(4)]

    def write(text: str) -> None:
        for _ in range(50):
            write_text(tmp_path / "told.json", text)
            assert (tmp_path / "told.json").read_text() in texts

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, texts))
    assert [path.name for path in tmp_path.iterdir()] == ["told.json"]
