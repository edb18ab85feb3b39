"""Sets of generated images: what 8 bits keep of them, how they are opened, and which folders they may go to."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from raykd.artifacts.synthetic_set import PixelRange, SyntheticFolder, locked_folder
from raykd.data import parquet
from raykd.data.datasets import DATASETS, data_spec, load_images, train_spec
from raykd.data.ledger import OpenedData
from raykd.data.streams import TrainStream
from raykd.distributed.world import World
from raykd.errors import CorruptError, SetupError, UsageError
from raykd.spec import DataSpec

SPEC = DataSpec("real", 3, 2, 4, (0.1, 0.2), (0.3, 0.4))
FACTS = {"bank": "some-run", "seed": "7"}
IMAGES = torch.randn(12, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0]).view(2, 1, 1)
BOUNDS = PixelRange((-4.0, -15.0), (4.0, 15.0))


def make(folder: Path, spec: DataSpec = SPEC, rows: int = 12) -> SyntheticFolder:
    """A set whose files hold the first rows of IMAGES."""
    made = SyntheticFolder(folder, spec, rows, FACTS)
    folder.mkdir(parents=True, exist_ok=True)
    for path, some in made.files.items():
        put(made, path, some)
    return made


def put(made: SyntheticFolder, path: Path, rows: range) -> None:
    pixels = BOUNDS.store(IMAGES[rows.start : rows.stop])
    labels = torch.arange(rows.start, rows.stop) % 3
    made.write(path, pixels, labels, torch.eye(3)[labels] * 2, BOUNDS)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a synthetic set "made" of three files."""
    monkeypatch.setattr(parquet, "SHARD_BYTES", 5 * (2 * 16 + 12))
    make(tmp_path / "made")
    return tmp_path


def normalised(images: Tensor, spec: DataSpec) -> Tensor:
    return spec.normalise(images.float() / 255)


def test_a_range_covers_all_but_rare_extremes() -> None:
    values = torch.linspace(-2, 6, 10_001)
    sample = torch.stack([values, values * 10])
    sample[0, 0], sample[1, -1] = -1e6, 1e6
    bounds = PixelRange.of(sample)
    # 0.05 % of a range of 8 is 0.004, the margin 2 % of what is left on either side.
    assert bounds.low == pytest.approx([-2 + 0.004 - 0.15984, -20 + 0.04 - 1.5984], rel=1e-3)
    assert bounds.high == pytest.approx([6 - 0.004 + 0.15984, 60 - 0.04 + 1.5984], rel=1e-3)


def test_a_channel_without_contrast_still_has_a_range() -> None:
    bounds = PixelRange.of(torch.full((1, 100), 3.0))
    spec = DataSpec("flat", 2, 1, 2, bounds.mean, bounds.std)
    assert normalised(bounds.store(torch.full((1, 1, 2, 2), 3.0)), spec) == pytest.approx(3.0, abs=1e-3)


def test_storing_costs_half_a_level_at_most() -> None:
    stored = BOUNDS.store(IMAGES)
    spec = replace(SPEC, mean=BOUNDS.mean, std=BOUNDS.std)
    error = (normalised(stored, spec) - IMAGES).abs()
    assert (error[:, 0] <= 8 / 255 / 2 + 1e-5).all()
    assert (error[:, 1] <= 30 / 255 / 2 + 1e-5).all()
    assert error[:, 1].max() > 30 / 255 / 4, "the images are not on the levels by themselves"
    beyond = BOUNDS.store(torch.tensor([[-100.0, 100.0]]).view(1, 2, 1, 1))
    assert beyond.flatten().tolist() == [0, 255]


def test_a_set_is_written_and_loaded_as_any_other(root: Path) -> None:
    files = parquet.find_files(root / "made", "train")
    assert len(files) == 3
    found = data_spec("made", data_root=root)
    assert (found.num_classes, found.channels, found.size) == (3, 2, 4)
    images = load_images("made", "train", found, root)
    assert torch.equal(images.pixels, BOUNDS.store(IMAGES))
    assert images.labels.tolist() == [row % 3 for row in range(12)]
    table = pq.read_table(files[1])
    assert table.column_names == ["image", "label", "teacher_logits"]
    assert table["teacher_logits"].to_pylist()[0] == [0, 0, 2]  # row 5
    assert parquet.read_header(files[0]).synthetic


def test_a_stream_shows_what_was_stored(root: Path) -> None:
    spec = train_spec("made", SPEC, root)
    assert (spec.name, spec.size, spec.mean, spec.std) == ("real", 4, BOUNDS.mean, BOUNDS.std)
    assert SPEC.mean != BOUNDS.mean
    opened = OpenedData(root)
    stream = TrainStream(opened.open("train", "made", "train", spec), spec, World.alone(), 12, seed=0)
    shown, labels, _ = stream.batch(0)
    nearest = (shown[:, None] - IMAGES).abs().amax((2, 3, 4)).min(1)
    assert (nearest.values <= 30 / 255 / 2 + 1e-5).all()
    assert (labels == nearest.indices % 3).all()


@pytest.mark.parametrize("streamed", [False, True])
def test_no_flipped_bit_changes_what_is_read(root: Path, streamed: bool) -> None:
    path = sorted((root / "made").glob("*.parquet"))[0]
    whole, right = path.read_bytes(), read_file(path, streamed)
    outcomes = Counter[str]()
    # Every bit of the first page's header, which bears no sum, and bits all over the file.
    for bit in (*range(8 * 64), *range(8 * 64, 8 * len(whole), 97)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_file(path, streamed)
        except CorruptError as error:
            assert str(path) in str(error), bit
            outcomes["refused"] += 1
            continue
        assert all(map(torch.equal, found, right)), f"bit {bit} changes what is trained on"
        outcomes["harmless"] += 1
    assert outcomes["refused"] > 300


def read_file(path: Path, streamed: bool) -> tuple[Tensor, Tensor]:
    """Pixels and labels, as both ways of reading have them."""
    if not streamed:
        parts = list(parquet.read([path], lambda images: images))
    else:
        groups = enumerate(parquet.row_groups(path))
        parts = [
            (parquet.decode_rows(part, lambda x: x), part.labels)
            for group, rows in groups
            for part in (parquet.read_rows(path, parquet.read_header(path), group, torch.arange(rows)),)
        ]
    return torch.cat([pixels for pixels, _ in parts]), torch.cat([labels for _, labels in parts])


def test_the_ledger_keeps_generated_images_apart(root: Path) -> None:
    opened = OpenedData(root)
    opened.open("train", "made", "train", SPEC)
    opened.open("train", str(root / "made"), "train", SPEC)
    found = {role: entries for role, entries in opened.by_role().items() if entries}
    assert found == {"synthetic": ["made/train", f"{root / 'made'}/train"]}
    with pytest.raises(UsageError, match="'made' is synthetic.*data.train"):
        opened.open("test", "made", "train", SPEC)
    assert opened.by_role()["test"] == []


def test_only_a_synthetic_set_brings_its_own_constants(root: Path) -> None:
    metadata = parquet.read_metadata(parquet.find_files(root / "made", "train")[0])
    real = {**metadata, "synthetic": "false"}
    parquet.write(root / "taken", "train", [(bytes(32), 0)], {**real, "count": "1"})
    assert train_spec("taken", SPEC, root) == SPEC
    for name in ("digits", "nowhere", "./nowhere", "real"):
        spec = DATASETS["digits"] if name == "digits" else SPEC
        assert train_spec(name, spec, root) is spec
    opened = OpenedData(root)
    opened.open("train", "taken", "train", SPEC)
    assert (opened.by_role()["train"], opened.by_role()["synthetic"]) == (["taken/train"], [])


def test_classes_and_channels_must_be_those_of_the_data(root: Path) -> None:
    with pytest.raises(UsageError, match="'made' has 3 classes, data 'mnist' has 10"):
        train_spec("made", data_spec("mnist"), root)
    with pytest.raises(UsageError, match="'cifar100' has 100 classes, data 'cifar10' has 10"):
        train_spec("cifar100", data_spec("cifar10"), root)
    with pytest.raises(UsageError, match="2 channels, data 'grey' has 1"):
        train_spec("made", DataSpec("grey", 3, 1, 4, (0.5,), (0.5,)), root)


def test_what_is_there_is_told_from_what_is_missing(root: Path) -> None:
    made = SyntheticFolder(root / "made", SPEC, 12, FACTS)
    files = list(made.files)
    assert [len(rows) for rows in made.files.values()] == [5, 5, 2]
    assert made.present() == files
    assert made.read_range(files[0]) == BOUNDS
    files[1].unlink()
    assert made.present() == [files[0], files[2]]
    with pytest.raises(CorruptError, match="missing"):
        load_images("made", "train", SPEC, root)


def test_a_folder_with_anything_else_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="whose seed is '7', not '8'"):
        SyntheticFolder(root / "made", SPEC, 12, {**FACTS, "seed": "8"}).present()
    with pytest.raises(UsageError, match="something else than this set of 40 images.*train-00000-of-00003"):
        SyntheticFolder(root / "made", SPEC, 40, FACTS).present()
    with pytest.raises(UsageError, match="whose count is '12', not '13'"):
        SyntheticFolder(root / "made", SPEC, 13, FACTS).present()
    with pytest.raises(UsageError, match="is called as the real set 'mnist'; choose another folder"):
        SyntheticFolder(root / "mnist", SPEC, 12, FACTS).present()
    (root / "other").mkdir()
    (root / "other" / "notes.txt").touch()
    with pytest.raises(UsageError, match="notes.txt"):
        SyntheticFolder(root / "other", SPEC, 12, FACTS).present()
    (root / "other" / "notes.txt").rename(root / "other" / "manifest.json")
    with pytest.raises(UsageError, match="something else.*manifest.json"):
        SyntheticFolder(root / "other", SPEC, 12, FACTS).present()


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(parquet, "write_file", full)
    with pytest.raises(SetupError, match="no space left.*same command"):
        make(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_folder_is_held_by_one_writer(tmp_path: Path) -> None:
    with (
        locked_folder(tmp_path / "made"),
        pytest.raises(UsageError, match="in use by another process"),
        locked_folder(tmp_path / "made"),
    ):
        pass
    with locked_folder(tmp_path / "made"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"), locked_folder(tmp_path / "file"):
        pass
