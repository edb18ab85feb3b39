"""Images read as they are needed: what is shown, in which order, by how many workers, and how much is held."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raykd.data import parquet
from raykd.data.datasets import Images, load_images
from raykd.data.streamed import StreamedImages
from raykd.data.streams import TrainStream
from raykd.distributed.world import World
from raykd.errors import CorruptError, UsageError
from raykd.spec import DataSpec

GROUP = 1024  # rows of a row group, as raykd writes them
COUNT, BATCH = 5000, 96
SPEC = DataSpec("made", 3, 1, 4, (0.5,), (0.5,))


def write(root: Path, count: int = COUNT, side: int = 4) -> list[Path]:
    """Write a set of several files whose images tell their row."""
    rng = np.random.default_rng(0)

    def pixels(row: int) -> bytes:
        image = rng.integers(0, 256, (side, side, 1), dtype=np.uint8)
        image.reshape(-1)[:2] = divmod(row, 256)
        return image.tobytes()

    records = [(pixels(row), row % 3) for row in range(count)]
    about = {"name": "made", "split": "train", "count": str(count), "shape": f"[{side}, {side}, 1]"}
    about |= {"encoding": parquet.RAW, "classes": '["a", "b", "c"]'}
    parquet.write(root / "made", "train", records, about, shard_bytes=1500 * side * side)
    return parquet.find_files(root / "made", "train")


def streamed(
    files: list[Path], *, buffer: int = 2 * GROUP, rank: int = 0, size: int = 1, rows: Tensor | None = None
) -> TrainStream:
    world = World(rank, size, torch.device("cpu"))
    images = StreamedImages(
        "made", files, SPEC, buffer=buffer, rows=rows, seed=3, global_batch=BATCH, share=world.slice(BATCH)
    )
    return TrainStream(images, SPEC, world, BATCH, 3)


def rows_of(images: Tensor) -> list[int]:
    levels = (images.flatten(1)[:, :2] * 0.5 + 0.5).mul(255).round().long()
    return (256 * levels[:, 0] + levels[:, 1]).tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = write(tmp_path_factory.mktemp("streamed"))
    assert len(found) == 4
    return found


def test_every_image_comes_once_an_epoch_with_its_label(files: list[Path]) -> None:
    stream = streamed(files)
    batches = [stream.batch(step) for step in range(2 * COUNT // BATCH + 1)]
    rows = [row for batch in batches for row in rows_of(batch.images)]
    labels = torch.cat([batch.labels for batch in batches]).tolist()
    assert labels == [row % 3 for row in rows]
    first, second = rows[:COUNT], rows[COUNT : 2 * COUNT]
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second


def test_images_are_mixed_over_files_and_within_the_buffer(files: list[Path]) -> None:
    """A batch of an unshuffled file would be neighbours; one of the buffer spreads over two row groups."""
    rows = torch.tensor(rows_of(streamed(files).batch(0).images))
    assert (rows.sort().values.diff() == 1).sum() < BATCH / 4
    whole = torch.tensor(rows_of(streamed(files, buffer=COUNT).batch(0).images))
    assert whole.max() - whole.min() > COUNT * 0.9


@pytest.mark.parametrize("size", [2, 3, 4])
def test_workers_together_see_what_one_would_and_hold_their_share(files: list[Path], size: int) -> None:
    alone, workers = streamed(files), [streamed(files, rank=rank, size=size) for rank in range(size)]
    for step in (0, 1, 20, 21, 22, 51, 52, 53, 110):
        shares = [worker.batch(step).images for worker in workers]
        assert torch.equal(torch.cat(shares), alone.batch(step).images), step
    images = [worker.images for worker in workers if isinstance(worker.images, StreamedImages)]
    held = [window.result() for one in images for window in one._windows.values()]
    assert max(len(window.labels) for window in held) <= 2 * GROUP / size + BATCH


def test_it_goes_on_in_the_middle_of_an_epoch(files: list[Path]) -> None:
    whole = streamed(files)
    batches = [whole.batch(step) for step in range(60)]
    resumed = streamed(files)
    for step in range(37, 60):
        assert torch.equal(resumed.batch(step).images, batches[step].images)


def test_what_is_shown_is_what_loading_shows(files: list[Path]) -> None:
    images: Images = load_images("made", "train", SPEC, files[0].parents[1])
    batch = streamed(files).batch(7)
    expected = SPEC.normalise(images.pixels[rows_of(batch.images)].float() / 255)
    torch.testing.assert_close(batch.images, expected)


def test_only_chosen_rows_are_shown(files: list[Path]) -> None:
    chosen = torch.arange(0, COUNT, 7)
    stream = streamed(files, rows=chosen)
    assert isinstance(stream.images, StreamedImages)
    assert stream.images.count == len(chosen)
    rows = [row for step in range(8) for row in rows_of(stream.batch(step).images)]
    assert sorted(rows[: len(chosen)]) == chosen.tolist()


def test_a_buffer_smaller_than_a_row_group_is_refused(files: list[Path]) -> None:
    with pytest.raises(UsageError, match="data.buffer 1000 is less than what 'made' has in one row group, 1024"):
        streamed(files, buffer=1000)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    files = write(tmp_path)
    content = bytearray(files[2].read_bytes())
    content[100:2000] = bytes(1900)
    files[2].write_bytes(content)
    stream = streamed(files)
    with pytest.raises(CorruptError, match=r"train-00002-of-00004\.parquet"):
        for step in range(60):
            stream.batch(step)


READER = """
import resource, sys
from pathlib import Path
import torch
from raykd.data import parquet
from raykd.spec import DataSpec
from raykd.data.streamed import StreamedImages
from raykd.data.streams import TrainStream
from raykd.distributed.world import World

spec = DataSpec("made", 3, 1, 64, (0.5,), (0.5,))
files = parquet.find_files(Path(sys.argv[1]), "train")
images = StreamedImages("made", files, spec, buffer=2048, rows=None, seed=0, global_batch=64, share=slice(0, 64))
stream = TrainStream(images, spec, World.alone(), 64, 0)
peaks = []
for step in range(2 * images.count // 64):
    stream.batch(step)
    if step in (96, 2 * images.count // 64 - 1):  # three windows in, and after two epochs
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(images.count, *peaks)
"""


def test_memory_stays_flat_over_a_set_ten_times_the_buffer(tmp_path: Path) -> None:
    write(tmp_path, count=20480, side=64)
    told = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "made")], capture_output=True, text=True, check=True
    )
    count, early, late = map(int, told.stdout.split())
    assert count == 10 * 2048
    window = 2048 * 64 * 64 / 2**20  # MiB; the set has ten
    assert late - early < 3 * window, f"{early} to {late} MiB"


def cropped(files: list[Path], rank: int = 0, size: int = 1) -> TrainStream:
    world = World(rank, size, torch.device("cpu"))
    share = world.slice(BATCH)
    images = StreamedImages(
        "made", files, SPEC, buffer=2 * GROUP, seed=3, global_batch=BATCH, share=share, random_crop=True
    )
    return TrainStream(images, SPEC, world, BATCH, 3)


def test_random_parts_are_those_of_seed_and_step_alone(tmp_path: Path) -> None:
    """Workers together see what one sees, a resumed run what an unbroken one does, and no epoch what another did."""
    files = write(tmp_path, count=1536, side=8)
    alone, workers = cropped(files), [cropped(files, rank, 3) for rank in range(3)]
    per_epoch = 1536 // BATCH
    batches = [alone.batch(step).images for step in range(2 * per_epoch)]
    for step in (0, per_epoch - 1, per_epoch):
        assert torch.equal(torch.cat([worker.batch(step).images for worker in workers]), batches[step])
    assert torch.equal(cropped(files).batch(per_epoch + 3).images, batches[per_epoch + 3])
    epochs = [torch.cat(batches[:per_epoch]), torch.cat(batches[per_epoch:])]
    first, second = ({tuple(image.tolist()) for image in epoch.flatten(1)} for epoch in epochs)
    assert len(first & second) < 0.2 * len(first)
