"""ImageNet from every form that people have it in, whole and in part, and what is said of one that is not whole."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd.config.catalog import RECIPES
from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.datasets import data_spec, load_images
from raykd.data.imagenet import find_imagenet
from raykd.data.imagenet_labels import all_wnids, common_words
from raykd.errors import CorruptError, UsageError
from raykd.recipe.recipe import load_recipe
from raykd.spec import ClassSubset
from tests import made_imagenet

LABELS = range(40, 46)
FORMS = made_imagenet.FORMS
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("forms")
    for form in FORMS:
        made_imagenet.write(root / form, form, LABELS, 3, 24)
    return {form: root / form for form in FORMS}


@pytest.fixture
def class_list(tmp_path: Path) -> Path:
    path = tmp_path / "six.txt"
    path.write_text("\n".join(all_wnids()[label] for label in LABELS))
    return path


def stored(folder: Path, split: str) -> dict[bytes, int]:
    """Every image's bytes with its label."""
    rows = [row for file in parquet.find_files(folder, split) for row in pq.read_table(file).to_pylist()]
    return {row["image"]: row["label"] for row in rows}


TRUTH = {
    "train": {content: label - LABELS[0] for label, _, content in made_imagenet.train_images(LABELS, 3, 24)},
    "test": {content: label - LABELS[0] for label, _, content in made_imagenet.val_images(LABELS, 24)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_byte_for_byte(
    sources: dict[str, Path], form: str, class_list: Path, tmp_path: Path
) -> None:
    made = convert("imagenet", sources[form], tmp_path / "out", class_list=class_list)
    assert (made.name, made.counts) == ("six", {"train": 18, "test": 6})
    for split, truth in TRUTH.items():
        assert stored(made.folder, split) == truth
    header = parquet.read_header(parquet.find_files(made.folder, "train")[0])
    assert [name.partition(",")[0] for name in header.classes] == [common_words()[label] for label in LABELS]
    metadata = parquet.read_metadata(parquet.find_files(made.folder, "train")[0])
    assert all_wnids()[LABELS[0]] in metadata["wnids"]


def test_a_set_of_some_classes_is_shown_as_imagenet_is(
    sources: dict[str, Path], class_list: Path, tmp_path: Path
) -> None:
    convert("imagenet", sources["tars"], tmp_path, class_list=class_list)
    spec, whole = data_spec("six", data_root=tmp_path), data_spec("imagenet")
    assert (spec.size, spec.mean, spec.std, spec.crop_pct) == (224, whole.mean, whole.std, 0.875)
    assert (spec.num_classes, spec.shorter_side) == (6, 256)


def test_recipes_say_how_imagenet_is_cut_out_and_others_keep_their_images() -> None:
    """A default that moved would give a run that was interrupted other images under the same id."""
    assert data_spec("imagenet").crop_pct == 1.0
    packaged = [load_recipe(name) for name in RECIPES.files()]
    found = {recipe.name: recipe.data.crop_pct for recipe in packaged if recipe.data.name == "imagenet"}
    assert len(found) >= 8
    assert set(found.values()) == {0.875}


@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_some_classes_are_not_called_as_a_known_set(
    sources: dict[str, Path], class_list: Path, tmp_path: Path, name: str
) -> None:
    """Its labels would be taken for those of the whole."""
    renamed = class_list.rename(tmp_path / f"{name}.txt")
    with pytest.raises(UsageError, match=f"would be called '{name}' as its list of classes, .*: rename the list"):
        convert("imagenet", sources["folders"], tmp_path / "out", class_list=renamed)
    assert not (tmp_path / "out").exists()


def test_some_classes_in_a_folder_that_was_renamed_are_not_taken_for_imagenet(
    sources: dict[str, Path], class_list: Path, tmp_path: Path
) -> None:
    folder = convert("imagenet", sources["folders"], tmp_path, class_list=class_list).folder
    folder.rename(tmp_path / "imagenet")
    with pytest.raises(UsageError, match="has 6 classes, some of a larger set's, and 'imagenet' is known to have 1000"):
        load_images("imagenet", "train", data_spec("imagenet"), tmp_path)


def test_training_images_are_mixed_and_test_images_are_not(
    sources: dict[str, Path], class_list: Path, tmp_path: Path
) -> None:
    """Whoever streams a set mixes neighbours: class by class, a batch would be of a few classes."""
    folder = convert("imagenet", sources["folders"], tmp_path, class_list=class_list).folder
    assert list(stored(folder, "train")) != list(TRUTH["train"])
    assert list(stored(folder, "test").values()) == sorted(TRUTH["test"].values())


def test_it_can_be_resized_for_good(sources: dict[str, Path], class_list: Path, tmp_path: Path) -> None:
    made = convert("imagenet", sources["kaggle"], tmp_path, class_list=class_list, size=8)
    assert made.name == "six-8"
    assert load_images("six-8", "train", data_spec("six-8", data_root=tmp_path), tmp_path).pixels.shape == (18, 3, 8, 8)
    spec, whole = data_spec("six-8", data_root=tmp_path), data_spec("imagenet")
    assert (spec.mean, spec.std, spec.part_of) == (whole.mean, whole.std, ClassSubset(1000, tuple(LABELS)))


def test_labels_of_another_set_around_it_are_not_looked_at(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "meta.bin").write_bytes(b"of another program")
    shutil.copytree(sources["folders"], tmp_path / "below" / "set")
    wnids = [all_wnids()[label] for label in LABELS]
    assert find_imagenet(tmp_path / "below" / "set", wnids).count("train") == 18


def test_classes_that_are_missing_are_told(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train has no image of 994 of 1000 classes: n01440764, .*by --classes FILE"):
        convert("imagenet", sources["folders"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_the_original_are_told(sources: dict[str, Path]) -> None:
    notes = find_imagenet(sources["flat"], [all_wnids()[label] for label in LABELS]).notes
    assert notes[0].startswith("train has 18 images; 6 classes have another number than 732 to 1,300: n01")
    assert notes[1].startswith("val has 6 images; 6 classes have another number than 50: n01")


def test_folders_of_other_classes_are_told(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "train" / "cats").mkdir(parents=True)
    with pytest.raises(UsageError, match="train has folders of none of ImageNet's 1000 classes: cats; move"):
        find_imagenet(tmp_path)


def test_a_missing_kit_is_told(tmp_path: Path) -> None:
    made_imagenet.write_folders(tmp_path / "set", LABELS, 1, 16, flat=True)
    with pytest.raises(UsageError, match=r"nothing says which class an image has: put ILSVRC2012_devkit_t12\.tar\.gz"):
        find_imagenet(tmp_path / "set")


def test_a_validation_image_of_another_name_is_told(tmp_path: Path) -> None:
    made_imagenet.write(tmp_path / "set", "flat", LABELS, 1, 16)
    next((tmp_path / "set" / "val").iterdir()).rename(tmp_path / "set" / "val" / "photo.JPEG")
    with pytest.raises(UsageError, match=r"does not say which class 'photo' has; use the original names"):
        find_imagenet(tmp_path / "set")


def test_what_is_no_image_is_left_out_and_told(tmp_path: Path) -> None:
    made_imagenet.write_folders(tmp_path / "set", LABELS, 1, 16)
    folder = tmp_path / "set" / "train" / all_wnids()[LABELS[0]]
    for name in (".DS_Store", "notes.txt"):
        (folder / name).touch()
    (folder / "an odd name, ü\n.JPEG").write_bytes(next(folder.glob("n*.JPEG")).read_bytes())
    found = find_imagenet(tmp_path / "set", [all_wnids()[label] for label in LABELS])
    assert found.count("train") == 7
    assert any("left out, no image: " in note and "notes.txt" in note for note in found.notes)


def test_no_imagenet_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ImageNet in .*; put there train/WNID"):
        find_imagenet(tmp_path)


def test_an_archive_of_something_else_is_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("n01440764.zip"))
    with pytest.raises(CorruptError, match="'n01440764.zip' is no archive of a class of ImageNet"):
        find_imagenet(tmp_path)


def rename_classes(source: Path, target: Path, names: list[str]) -> Path:
    """Write Parquet shards again, with other names of classes."""
    target.mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    for path in source.rglob("*.parquet"):
        table: pa.Table = pq.read_table(path)
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(table.replace_schema_metadata(metadata), target / path.name)
    return target


def test_shards_whose_classes_are_permuted_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    permuted = rename_classes(sources["parquet"], tmp_path / "set", list(common_words()[::-1]))
    with pytest.raises(UsageError, match="its classes in another order: class 0 is 'toilet tissue', .* 'tench'"):
        find_imagenet(permuted, [all_wnids()[label] for label in LABELS])


@pytest.mark.parametrize("pairs", [1, 25])
def test_shards_of_which_a_few_classes_are_swapped_are_refused(
    sources: dict[str, Path], tmp_path: Path, pairs: int
) -> None:
    names = [f"{word}, made" for word in common_words()]
    for k in range(pairs):
        names[600 + 2 * k], names[601 + 2 * k] = names[601 + 2 * k], names[600 + 2 * k]
    swapped = rename_classes(sources["parquet"], tmp_path / "set", names)
    with pytest.raises(UsageError, match=f"another order: class 600 is {names[600]!r}, the name of {all_wnids()[601]}"):
        find_imagenet(swapped, [all_wnids()[label] for label in LABELS])


def test_names_that_nobody_knows_are_excused_as_is_one_that_is_also_anothers(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    names = list(common_words())
    names[744] = "projectile, missile"
    names[:20] = [f"unheard of {k}" for k in range(20)]
    wnids = [all_wnids()[label] for label in LABELS]
    assert find_imagenet(rename_classes(sources["parquet"], tmp_path / "set", names), wnids).count("train") == 18
    names[:60] = [f"unheard of {k}" for k in range(60)]
    with pytest.raises(UsageError, match="another order: class 0 is 'unheard of 0', and in the order"):
        find_imagenet(rename_classes(sources["parquet"], tmp_path / "more", names), wnids)


def test_labels_from_1_on_without_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    table = pa.table({"image": [{"bytes": b"x", "path": "x"}] * 3, "label": [1, 1000, 2]})
    pq.write_table(table, tmp_path / "set" / "train-00000-of-00001.parquet")
    with pytest.raises(UsageError, match=r"of-00001\.parquet: row 1 has label 1000, and ImageNet's are 0 to 999"):
        find_imagenet(tmp_path / "set")


def test_shards_that_number_wnids_in_another_order_are_mapped(sources: dict[str, Path], tmp_path: Path) -> None:
    mapped = rename_classes(sources["parquet"], tmp_path / "set", list(all_wnids()[::-1]))
    found = find_imagenet(mapped, [all_wnids()[999 - label] for label in reversed(LABELS)])
    piece = found.pieces["train"][0]
    labels = [record.label for record in piece.records(found.source)]
    names = [record.image for record in piece.records(found.source)]
    assert labels == [5 - TRUTH["train"][image] for image in names]


def test_shards_of_fewer_classes_without_ids_are_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    few = rename_classes(sources["parquet"], tmp_path / "set", ["a", "b"])
    with pytest.raises(UsageError, match="has 2 classes, ImageNet has 1000, and their names are no WNIDs"):
        find_imagenet(few)
