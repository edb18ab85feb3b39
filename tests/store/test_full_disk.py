"""Whatever is written, a disk that is full leaves what was there and nothing else, and the system's reason is told."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optuna.study import Study

from raykd.artifacts import teacher_logits
from raykd.artifacts.bank import finish_bank, write_products
from raykd.artifacts.class_statistics import save_statistics
from raykd.artifacts.pool_files import write_part
from raykd.artifacts.synthetic_set import PixelRange, SyntheticFolder
from raykd.cluster.config import Cluster
from raykd.cluster.package import collect
from raykd.data.image_pool import PoolPart
from raykd.distributed.world import World
from raykd.errors import SetupError
from raykd.files import describe, is_free, make_folder, of_the_disk, replacing, sweep, write_json, write_text
from raykd.models import build_model
from raykd.runners import table as tables
from raykd.runners.ray.signals import RunSignals
from raykd.search.study_storage import storage_errors
from raykd.spec import DataSpec
from raykd.store.checkpoint import Checkpoint, write_checkpoint, write_shard
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.disks import leave, mounted, resize
from tests.search.made_study import filled_study
from tests.store.test_checkpoint import made

SPEC = DataSpec("made", 3, 1, 32, (0.5,), (0.25,), ("a", "b", "c"))
LEFTOVERS = (
    ".metrics.jsonl.01234567.writing",
    "samples/.step_0000002.png.01234567.writing",
    "bank/.class_00000.safetensors.01234567.writing",
    "pool/.images-0000002-00000.parquet.01234567.writing",
    "checkpoints/.writing-step_0000007/state.pt",
    "checkpoints/.shards-0000007/shard_00000.safetensors",
)
SIZES = {"num_classes": 10, "channels": 1, "size": 32}
BLOCKS, LARGE = 8, 10_000  # of room; everything below takes more than the first
NUMBERS = torch.randn(40_000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("full") / "disk") as folder:
        yield folder


def write_bank(folder: Path) -> None:
    run = RunDirectory(folder)
    with run.writing():
        write_products(run, {"class_00000": {"w": NUMBERS}})


def write_set(folder: Path) -> None:
    files = SyntheticFolder(folder, SPEC, 100, {})
    pixels = torch.randint(256, (100, 1, 32, 32), dtype=torch.uint8)
    labels, logits = torch.zeros(100, dtype=torch.long), torch.zeros(100, 3)
    files.write(next(iter(files.files)), pixels, labels, logits, PixelRange((-2.0,), (2.0,)))


def write_logits(folder: Path) -> None:
    """They are a by-product: who writes them says that they are not kept."""
    query: Any = SimpleNamespace(
        weights_sha256="x", teacher=SimpleNamespace(network=torch.nn.ReLU()), entry={}, images=None, spec=SPEC
    )
    try:
        teacher_logits._write(folder / "logits.parquet", NUMBERS.view(-1, 4), query, World.alone())
    except OSError as error:
        raise SetupError(describe(error)) from None


def write_table(folder: Path) -> None:
    tables._write(folder, SimpleNamespace(to_dict=lambda: {"rows": NUMBERS.tolist()}))  # type: ignore[arg-type]


def write_row(folder: Path) -> None:
    run = RunDirectory(folder)
    with run.writing():
        run.append_row({"step": 2, **{f"loss/{n}": float(value) for n, value in enumerate(NUMBERS[:4000])}})


def write_sheet(folder: Path) -> None:
    run = RunDirectory(folder)
    with run.writing():
        run.write_sample_sheet(2, NUMBERS.numpy().tobytes())


def write_a_shard(folder: Path) -> None:
    run = RunDirectory(folder)
    with run.writing():
        write_shard(run.checkpoints, made_large(), 0)


def write_images(folder: Path) -> None:
    run = RunDirectory(folder)
    noise = torch.randint(256, (40, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with run.writing():
        write_part(run, Checkpoint(2, 1, {}, {}, images=PoolPart(noise, torch.zeros(40).long(), torch.arange(40))), 0)


def made_large() -> Any:
    checkpoint = made(2, rows=10_000)
    return type(checkpoint)(2, 1, checkpoint.weights, checkpoint.state, shard={"w": NUMBERS})


def write_package(folder: Path) -> None:
    source = folder.parents[1] / "source"
    source.mkdir(exist_ok=True)
    (source / "data.bin").write_bytes(NUMBERS.numpy().tobytes())
    collect(source, None).write(folder, Cluster(name="far"))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": lambda folder: write_checkpoint(folder, made_large()),
    "shard": write_a_shard,
    "row": write_row,
    "sheet": write_sheet,
    "generators": write_bank,
    "images": write_images,
    "synthetic set": write_set,
    "logits": write_logits,
    "table": write_table,
    "package": write_package,
    "statistics": lambda folder: save_statistics(
        folder / "made.safetensors", [(NUMBERS.view(4, -1), NUMBERS.view(4, -1))], ["a"], {"per_class": 2}
    ),
    "weights": lambda folder: Workspace(None, folder).keep_weights("x", build_model("lenet5", **SIZES)),
    "network": lambda folder: Workspace(None, folder).keep_network(build_model("lenet5", **SIZES)),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_leaves_nothing_half_written(disk: Path, what: str) -> None:
    folder = disk / what
    resize(disk, LARGE)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("before")
    leave(disk, BLOCKS)
    with pytest.raises(SetupError, match="No space left on device") as told:
        WRITERS[what](folder)
    assert str(told.value).count("\n") == 0
    left = [path for path in folder.rglob("*") if path.is_file()] if what != "package" else [folder / "metrics.jsonl"]
    if what == "shard":  # nobody vouches for it, and the next checkpoint removes it
        left = [path for path in left if ".shards-" not in str(path)]
    assert left == [folder / "metrics.jsonl"]
    assert (folder / "metrics.jsonl").read_text() == "before"


def test_a_manifest_that_the_disk_does_not_take_is_told(tmp_path: Path) -> None:
    run = RunDirectory(Path("/proc/nowhere"))
    with pytest.raises(SetupError, match="could not write into run directory /proc/nowhere"):
        finish_bank(run, {"classes": []}, World.alone())


def test_signals_and_a_study_on_a_full_disk_are_told(disk: Path, tmp_path: Path) -> None:
    resize(disk, LARGE)
    study: Study
    study, _ = filled_study(disk, "accuracy")
    signals = RunSignals(disk, "job")
    signals.open()
    leave(disk, 0)
    with pytest.raises(SetupError, match="could not write signals into .*No space left on device"):
        signals.record(0, {"error": "SetupError"})
    with pytest.raises(SetupError, match="cannot be read or written .*full"), storage_errors("made-0"):
        for number in range(1000):
            study.set_user_attr(f"note {number}", "x" * 1000)


def test_what_is_swept_as_it_is_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sweeping = fcntl.flock, ExitStack()

    def flock(handle: Any, how: int) -> None:
        if not (tmp_path / "seen").exists():  # between the writer's making the file and its locking it
            (tmp_path / "seen").touch()
            (found,) = tmp_path.glob(".*.writing")
            real(sweeping.enter_context(found.open("r+")), how)
            sweeping.callback(found.unlink)
        real(handle, how)

    monkeypatch.setattr("fcntl.flock", flock)
    with replacing(tmp_path / "status.json") as staging:
        staging.write_text("whole")
        sweeping.close()
    assert (tmp_path / "status.json").read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"seen", "status.json"}


def test_what_is_swept_is_locked_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who has just made it would lock it, and write into a file that is removed."""
    (tmp_path / ".status.json.0123abcd.writing").write_text("half")
    real, free = Path.unlink, []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        free.append(is_free(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    sweep(tmp_path)
    assert (free, list(tmp_path.iterdir())) == ([False], [])


def test_what_the_dead_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / ".status.json.0123abcd.writing").write_text("half")
    with replacing(tmp_path / "status.json") as staging:
        staging.write_text("whole")
        sweep(tmp_path)
        assert [path for path in tmp_path.iterdir()] == [staging]
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    run = RunDirectory(tmp_path / "run-s0")
    run.path.mkdir()
    write_text(run.path / "recipe.yaml", "name: made")
    for leftover in LEFTOVERS:
        path = run.path / leftover
        make_folder(path.parent)
        path.write_bytes(b"half")
    with run.held():
        assert {path.name for path in run.path.rglob("*") if path.is_file()} == {"recipe.yaml", ".lock"}
    assert not list(run.checkpoints.iterdir())


def test_the_systems_reason_is_told_whoever_passes_it_on() -> None:
    arrow = OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    try:
        try:
            raise OSError(errno.EFBIG, "File too large")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598")  # noqa: B904
    except RuntimeError as error:
        torchs: BaseException = error
    assert describe(arrow) == "No space left on device"
    assert describe(torchs) == "File too large"
    assert describe(ValueError("I/O error: No space (os error 28)")) == os.strerror(28)
    assert of_the_disk(OSError(errno.EROFS, "Read-only file system", "a")) is not None
    assert of_the_disk(FileNotFoundError(errno.ENOENT, "none", "a")) is None
    with pytest.raises(SetupError, match="run directory /proc/self .*status.json.*: No such file"):
        run = RunDirectory(Path("/proc/self"))
        with run.writing():
            write_json(run.path / "nowhere" / "status.json", {})
