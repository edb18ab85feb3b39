"""Classes of ImageNet: their order, their names, lists of some, and which class a validation image has."""

import sys
import tarfile
from pathlib import Path

import pytest
import torch

from raykd.data.imagenet_labels import all_wnids, common_words, find_labels, name_classes, read_class_list
from raykd.errors import CorruptError, UsageError
from tests.made_imagenet import write_devkit


def test_labels_are_torchvisions() -> None:
    wnids = all_wnids()
    assert len(wnids) == len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    known = {"tench": 0, "goldfish": 1, "tabby": 281, "church": 497, "toilet tissue": 999}
    assert {name: common_words().index(name) for name in known} == known
    ids = {"n01440764": 0, "n02123045": 281, "n03028079": 497, "n15075141": 999}
    assert {wnid: wnids.index(wnid) for wnid in ids} == ids


def test_the_kits_own_numbers_are_not_taken_for_labels(tmp_path: Path) -> None:
    """They are of another order, so labels taken from them would be wrong for nearly all images."""
    write_devkit(tmp_path, [281, 0, 999])
    found = find_labels([tmp_path])
    assert found is not None
    images = [f"ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)]
    assert [all_wnids().index(found.validation[name]) for name in images] == [281, 0, 999]
    assert set(found.words) == set(all_wnids()), "groups of classes are none"
    assert name_classes(["n01440764"], found) == ("tench, made",)


def test_a_kit_that_was_unpacked_serves_as_well(tmp_path: Path) -> None:
    write_devkit(tmp_path, [5])
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz") as archive:
        archive.extractall(tmp_path / "beside", filter="data")
    packed, unpacked = find_labels([tmp_path]), find_labels([tmp_path / "beside"])
    assert packed is not None
    assert unpacked is not None
    assert packed[:2] == unpacked[:2]


def test_what_torchvision_keeps_of_a_kit_serves_as_well(tmp_path: Path) -> None:
    torch.save(({"n01440764": ("tench", "Tinca tinca")}, ["n01440764"]), tmp_path / "meta.bin")
    found = find_labels([tmp_path])
    assert found is not None
    assert dict(found.words) == {"n01440764": "tench, Tinca tinca"}
    assert dict(found.validation) == {"ILSVRC2012_val_00000001": "n01440764"}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, ("executed",)  # never called: nothing that is read can execute


@pytest.mark.parametrize("name", ["ILSVRC2012_devkit_t12.tar.gz", "meta.bin", "ILSVRC2012_devkit_t12/data/meta.mat"])
def test_damaged_labels_are_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"no labels")
    with pytest.raises(CorruptError, match=f"{name} cannot be read"):
        find_labels([tmp_path])


def test_nothing_that_is_read_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), tmp_path / "meta.bin")
    with pytest.raises(CorruptError, match=r"meta\.bin cannot be read"):
        find_labels([tmp_path])
    assert not (tmp_path / "executed").exists()


def test_kaggles_lists_with_strange_classes_are_told(tmp_path: Path) -> None:
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,tench 1 2 3 4\n")
    with pytest.raises(CorruptError, match="'tench' is no WNID"):
        find_labels([tmp_path])


def test_a_list_of_classes_has_ids_or_names_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("# mine\nn03028079 church, church building\nEnglish springer\n\ntench  # a fish\n")
    assert read_class_list(path) == ("n01440764", "n02102040", "n03028079")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tench\nn01440764", r"line 2: 'n01440764' is listed already, in line 1"),
        ("tench\ngoldfsh", r"line 2: 'goldfsh' is none of ImageNet's 1000 classes; did you mean 'goldfish'\?"),
        ("tench", "lists 1 classes; give 2 or more"),
        ("", "lists 0 classes"),
    ],
)
def test_a_wrong_list_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "some.txt").write_text(text)
    with pytest.raises(UsageError, match=told):
        read_class_list(tmp_path / "some.txt")


def test_a_list_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """As editors of Windows write it."""
    (tmp_path / "some.txt").write_text("tench\nchurch\n", encoding="utf-8-sig")
    assert read_class_list(tmp_path / "some.txt") == ("n01440764", "n03028079")


def test_a_library_that_is_missing_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_devkit(tmp_path, [5])
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError):
        find_labels([tmp_path])


def test_no_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a list of classes, cannot be read"):
        read_class_list(tmp_path / "none.txt")
