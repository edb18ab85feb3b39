"""Images that are read whenever they are wanted are those that loading gives, in any batches, by any workers."""

from pathlib import Path

import pytest
import torch

from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.datasets import Images, data_spec, load_images
from raykd.data.imagenet_labels import all_wnids
from raykd.data.ledger import OpenedData
from raykd.data.stored import StoredImages, stored_images
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.spec import DataSpec
from tests import made_imagenet

LABELS = range(23)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stored")
    made_imagenet.write(root / "source", "folders", LABELS, 1, 24)
    (root / "some.txt").write_text("\n".join(all_wnids()[label] for label in LABELS))
    convert("imagenet", root / "source", root, class_list=root / "some.txt")
    return root


@pytest.fixture
def spec(root: Path) -> DataSpec:
    return data_spec("some", data_root=root, size=16)


@pytest.fixture
def stored(root: Path, spec: DataSpec) -> StoredImages:
    found = stored_images("some", "test", spec, root)
    assert isinstance(found, StoredImages)
    return found


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch", [4, 100])
def test_workers_evaluate_what_is_loaded(
    root: Path, spec: DataSpec, stored: StoredImages, workers: int, batch: int
) -> None:
    loaded = load_images("some", "test", spec, root)
    assert torch.equal(stored.labels, loaded.labels)
    for rank in range(workers):
        world = World(rank, workers, torch.device("cpu"))
        ours, others = (list(evaluation_batches(images, spec, world, batch)) for images in (stored, loaded))
        assert [len(one.labels) for one in ours] == [len(one.labels) for one in others]
        for one, other in zip(ours, others, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


def test_some_of_them(root: Path, spec: DataSpec, stored: StoredImages) -> None:
    rows = torch.tensor([1, 4, 5, 22])
    loaded = load_images("some", "test", spec, root)
    some = stored.select(rows)
    assert torch.equal(some.labels, loaded.labels[rows])
    assert torch.equal(torch.cat(list(some.batches(torch.arange(4), [3, 1]))), loaded.pixels[rows])


def test_what_is_decoded_before_it_is_wanted_is_bounded_by_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row group of raw pixels has 1024 images: those of many groups would not fit into memory at a larger size."""
    about = {"name": "raw", "split": "test", "count": "2048", "shape": "[4, 4, 3]", "encoding": parquet.RAW}
    pixels = torch.arange(2048 * 48).remainder(251).to(torch.uint8).view(2048, 48)
    records = [(row.numpy().tobytes(), 0) for row in pixels]
    parquet.write(tmp_path / "raw", "test", records, {**about, "classes": '["a", "b"]'})
    spec = data_spec("raw", data_root=tmp_path)
    own, decoded = parquet.decode_rows, []

    def counted(rows: parquet.EncodedRows, fit: parquet.Fit) -> torch.Tensor:
        decoded.append(len(rows.images))
        return own(rows, fit)

    monkeypatch.setattr(parquet, "decode_rows", counted)
    stored = stored_images("raw", "test", spec, tmp_path)
    assert isinstance(stored, StoredImages)
    batches = stored.batches(torch.arange(2048), [4] * 512)
    first = next(batches)
    assert sum(decoded) <= 256 + 64
    loaded = load_images("raw", "test", spec, tmp_path)
    assert torch.equal(torch.cat([first, *batches]), loaded.pixels)


def test_a_test_split_that_fits_the_buffer_is_held(root: Path, spec: DataSpec) -> None:
    opened = OpenedData(root)
    assert isinstance(opened.open_test("some", spec, None), Images)
    assert isinstance(opened.open_test("some", spec, 23), Images)
    assert isinstance(opened.open_test("some", spec, 22), StoredImages)
    assert opened.by_role()["test"] == ["some/test"]
