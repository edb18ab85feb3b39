import json
import os
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from raykd.data import parquet
from raykd.data import pixels as pixels_module
from raykd.data.datasets import DATASETS, data_spec, find_split, load_images
from raykd.errors import CorruptError, MissingData, UsageError
from tests.data.conftest import PIXELS


def test_known_names_need_no_data_root() -> None:
    for name in DATASETS:
        assert data_spec(name).name == name
    assert (data_spec("mnist").size, data_spec("mnist").mean) == (32, (0.1307,))
    assert data_spec("cifar100").mean == data_spec("cifar10").mean == (0.4914, 0.4822, 0.4465)
    assert data_spec("imagenet").num_classes == 1000


def test_replacements_are_taken_and_checked() -> None:
    spec = data_spec("mnist", size=28, mean=(0.5,), std=(0.25,))
    assert (spec.size, spec.mean, spec.std, spec.num_classes) == (28, (0.5,), (0.25,), 10)
    with pytest.raises(UsageError, match="one per channel"):
        data_spec("mnist", mean=(0.5, 0.5, 0.5))


def test_a_set_of_the_data_root_is_known_by_its_metadata(root: Path) -> None:
    spec = data_spec("made", data_root=root)
    assert (spec.num_classes, spec.channels, spec.size) == (3, 3, 8)
    assert spec.class_names == ("x", "y", "z")
    assert spec.mean == (0.5, 0.5, 0.5)
    images = load_images("made", "train", spec, root)
    assert torch.equal(images.pixels, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert images.labels.tolist() == [row % 3 for row in range(12)]


def test_a_set_serves_a_network_of_another_spec(root: Path) -> None:
    images = load_images("made", "train", data_spec("mnist"), root)
    assert images.pixels.shape == (12, 1, 32, 32)
    assert images.pixels.dtype == torch.uint8
    digits = load_images("digits", "test", data_spec("cifar10"), None)
    assert digits.pixels.shape == (359, 3, 32, 32)


def test_unknown_names_are_answered_with_the_nearest(root: Path) -> None:
    with pytest.raises(UsageError, match="unknown data set 'cifar1O'; did you mean 'cifar10'"):
        data_spec("cifar1O")
    with pytest.raises(UsageError, match="unknown data set 'mades'; did you mean 'made'"):
        load_images("mades", "train", data_spec("mnist"), root)
    with pytest.raises(UsageError, match="'../mades' is named by a path.*raykd synthesize"):
        data_spec("../mades", data_root=root / "made")


def test_a_path_names_a_set_without_a_data_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "made")
    for name in (str(root / "made"), "../made", "."):
        spec = data_spec(name)
        assert (spec.name, spec.num_classes) == (name, 3)
        assert torch.equal(load_images(name, "train", spec, None).pixels, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    with pytest.raises(UsageError, match="'./train' is named by a path"):
        load_images("./train", "train", spec, root)


def test_missing_files_say_what_was_looked_for_and_what_to_do(root: Path) -> None:
    with pytest.raises(UsageError, match="none is set.*RAYKD_DATA.*raykd data mnist --source FOLDER --out DIR`"):
        load_images("mnist", "train", data_spec("mnist"), None)
    for missing_root in (root, root / "nowhere"):
        with pytest.raises(UsageError) as caught:
            load_images("mnist", "train", data_spec("mnist"), missing_root)
        assert str(missing_root / "mnist" / "train-*.parquet") in str(caught.value)
        assert "RAYKD_DATA" in str(caught.value)
    for name, source in {
        "tiny-imagenet-50": "imagefolder --source FOLDER/tiny-imagenet-50",
        "tiny-imagenet-50-32": "imagefolder --size 32 --source FOLDER/tiny-imagenet-50",
        "imagenet-32": "imagenet --size 32 --source FOLDER",
    }.items():
        with pytest.raises(UsageError, match=f"`raykd data {source} --out DIR`"):
            find_split(name, "train", root)
    with pytest.raises(UsageError, match="imagefolder --source FOLDER/made --out DIR`"):
        find_split(str(root / "made"), "test", None)
    with pytest.raises(UsageError, match=r"test-\*.parquet \(splits there: train\)"):
        load_images("made", "test", data_spec("mnist"), root)
    with pytest.raises(UsageError, match="unknown split of digits 'tests'; did you mean 'test'"):
        load_images("digits", "tests", data_spec("digits"), None)


def test_rows_that_differ_from_the_promised_count_are_noticed(root: Path) -> None:
    for count in (11, 13):
        metadata = {
            "name": "wrong", "split": "test", "count": str(count), "shape": "[8, 8, 3]",
            "encoding": parquet.RAW, "classes": json.dumps(["x"]),
        }  # fmt: skip
        folder = root / f"wrong{count}"
        parquet.write(folder, "test", [(p.tobytes(), 0) for p in PIXELS], metadata)
        with pytest.raises(CorruptError, match=f"{folder.name}.* {count}"):
            load_images(folder.name, "test", data_spec(folder.name, data_root=root), root)


def test_a_set_is_not_taken_for_a_known_one_of_other_classes(root: Path) -> None:
    """The labels of the known one would be silently permuted."""
    known = list(DATASETS["cifar10"].class_names)
    about = {"name": "cifar10", "split": "test", "count": "12", "shape": "[8, 8, 3]", "encoding": parquet.RAW}
    swapped = [known[1], known[0], *known[2:]]
    for number, (classes, told) in enumerate({
        (*known[:9],): "has 9 classes, and 'cifar10' is known to have 10: ",
        (*swapped,): "has 'automobile' as class 0, which of 'cifar10' is 'airplane': .* rename its folder",
    }.items()):  # fmt: skip
        data_root = root / str(number)
        records = [(p.tobytes(), 0) for p in PIXELS]
        parquet.write(data_root / "cifar10", "test", records, {**about, "classes": json.dumps(classes)})
        with pytest.raises(UsageError, match=told):
            load_images("cifar10", "test", data_spec("cifar10"), data_root)
    spelt = ["plane", "car", *known[2:]]
    parquet.write(root / "cifar10", "test", [(p.tobytes(), 0) for p in PIXELS], {**about, "classes": json.dumps(spelt)})
    assert len(load_images("cifar10", "test", data_spec("cifar10"), root).labels) == 12


def test_a_set_too_big_for_memory_is_refused_before_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "free_memory", lambda: 1000)
    monkeypatch.setattr(parquet, "read", lambda *_: pytest.fail("images were read"))
    with pytest.raises(UsageError, match="12 images of 3x8x8"):
        load_images("made", "train", data_spec("made", data_root=root), root)


def test_digits_are_those_of_scikit_learn() -> None:
    source = load_digits()
    spec = data_spec("digits", size=8)
    train, test = (load_images("digits", split, spec, None) for split in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (1438, 359)
    assert test.labels.tolist() == source.target[4::5].tolist()
    levels = (test.pixels[:, 0].double() * 16 / 255).round()
    assert torch.equal(levels, torch.from_numpy(source.images[4::5]))
    at_32 = load_images("digits", "train", data_spec("digits"), None).pixels.double() / 255
    assert data_spec("digits").mean[0] == pytest.approx(at_32.mean().item(), abs=1e-4)
    assert data_spec("digits").std[0] == pytest.approx(at_32.std().item(), abs=1e-4)


def real_splits() -> list[tuple[str, str, int]]:
    """The cheap real sets that this machine has; none without RAYKD_DATA."""
    folder = Path(os.environ.get("RAYKD_DATA", "/nonexistent"))
    known = [
        ("usps", "train", 7291), ("usps", "test", 2007),
        ("mnist", "train", 60000), ("mnist", "test", 10000),
    ]  # fmt: skip
    return [entry for entry in known if (folder / entry[0]).is_dir()]


def test_real_sets_have_their_published_counts_and_constants() -> None:
    for name, split, count in real_splits():
        images = load_images(name, split, data_spec(name), Path(os.environ["RAYKD_DATA"]))
        assert len(images.labels) == count
        assert images.pixels.shape == (count, 1, 32, 32)
        assert set(images.labels.tolist()) == set(range(10))
        if split == "train":
            mean = (images.pixels.double() / 255).mean().item()
            assert data_spec(name).mean[0] == pytest.approx(mean, abs=1e-3)


def test_a_data_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        MissingData, match=r"no data set .flowers.: the data root \S+/gone is not there; correct RAYKD_DATA"
    ):
        data_spec("flowers", data_root=tmp_path / "gone")
