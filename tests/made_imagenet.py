"""Make a set of ImageNet's shape in seconds: all 1000 classes, a few JPEGs each, in every form that people have it in.

Sizes are odd, one image in ten is grey and one in twenty CMYK; one file that is called .JPEG is a PNG, as one of the
real set is. Colours tell the class, roughly.

    python -m tests.made_imagenet FOLDER [--form folders|tars|kaggle|parquet] [--per-class 3] [--classes 1000]
"""

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raykd.data.imagenet_labels import DEVKIT, MAPPING, SOLUTION, all_wnids, common_words

FORMS = ("folders", "flat", "tars", "kaggle", "parquet")
_CMYK, _GREY = 20, 10  # one image in so many
_PNG = 7  # the number of the image that is called .JPEG and is none


def draw(label: int, number: int, side: int) -> bytes:
    """Return a file of an image of odd size whose colours and stripes are those of its class."""
    rng = np.random.default_rng([label, number])
    height, width = (int(side * scale) for scale in rng.uniform(0.7, 1.6, 2))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bits = [(label >> shift) & 7 for shift in (0, 3, 6)]
    waves = [np.sin((bit + 1) * (x / width + (k - 1) * y / height) * 3) for k, bit in enumerate(bits)]
    levels = np.stack([30 * bit + 20 + 20 * wave for bit, wave in zip(bits, waves, strict=True)], 2)
    image = Image.fromarray((levels + rng.normal(0, 12, levels.shape)).clip(0, 255).astype(np.uint8))
    running = label * 3 + number
    if running % _CMYK == 3:
        image = image.convert("CMYK")
    elif running % _GREY == 5:
        image = image.convert("L")
    file = io.BytesIO()
    image.save(file, "PNG" if running == _PNG else "JPEG", **({} if running == _PNG else {"quality": 85}))
    return file.getvalue()


def train_images(labels: range, per_class: int, side: int) -> Iterator[tuple[int, str, bytes]]:
    """Yield label, name and file of the training images, class by class."""
    for label in labels:
        for number in range(per_class):
            yield label, f"{all_wnids()[label]}_{number * 7 + 1}.JPEG", draw(label, number, side)


def val_images(labels: range, side: int) -> Iterator[tuple[int, str, bytes]]:
    """Yield label, name and file of one validation image a class, the classes mixed."""
    for place, label in enumerate(np.random.default_rng(1).permutation(labels).tolist(), 1):
        yield label, f"ILSVRC2012_val_{place:08d}.JPEG", draw(label, 1000, side)


def write_devkit(folder: Path, val_labels: list[int]) -> None:
    """Write the development kit, which numbers the classes in an order of its own, groups of classes after them."""
    from scipy.io import savemat  # type: ignore[import-untyped]

    numbers = np.random.default_rng(2).permutation(len(all_wnids())) + 1  # ILSVRC2012_ID by label
    kind = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    rows = [(int(numbers[k]), wnid, f"{common_words()[k]}, made", 0) for k, wnid in enumerate(all_wnids())]
    rows.append((1001, "n00001740", "entity", 2))
    synsets = np.array(sorted(rows), dtype=kind)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets[:, None]})
    truth = "".join(f"{numbers[label]}\n" for label in val_labels).encode()
    with tarfile.open(folder / f"{DEVKIT}.tar.gz", "w:gz") as archive:
        _add(archive, f"{DEVKIT}/data/meta.mat", meta.getvalue())
        _add(archive, f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt", truth)


def write_folders(folder: Path, labels: range, per_class: int, side: int, *, flat: bool = False) -> list[int]:
    """Write train/WNID/* and val/, whose images lie in folders of classes or ``flat``; return its labels."""
    for label in labels:
        (folder / "train" / all_wnids()[label]).mkdir(parents=True)
    for label, name, content in train_images(labels, per_class, side):
        (folder / "train" / all_wnids()[label] / name).write_bytes(content)
    val_labels = []
    for label, name, content in val_images(labels, side):
        path = folder / "val" / ("" if flat else all_wnids()[label]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        val_labels.append(label)
    return val_labels


def write_tars(folder: Path, labels: range, per_class: int, side: int) -> None:
    """Write the original archives: one of archives of the classes, one of all validation images, and the kit."""
    folder.mkdir(parents=True)
    by_class: dict[int, list[tuple[str, bytes]]] = {}
    for label, name, content in train_images(labels, per_class, side):
        by_class.setdefault(label, []).append((name, content))
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as archive:
        for label, files in by_class.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as of_class:
                for name, content in files:
                    _add(of_class, name, content)
            _add(archive, f"{all_wnids()[label]}.tar", inner.getvalue())
    val_labels = []
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for label, name, content in val_images(labels, side):
            _add(archive, name, content)
            val_labels.append(label)
    write_devkit(folder, val_labels)


def write_kaggle(folder: Path, labels: range, per_class: int, side: int) -> None:
    """Write ILSVRC/Data/CLS-LOC/{train,val} and the lists beside it."""
    val_labels = write_folders(folder / "ILSVRC" / "Data" / "CLS-LOC", labels, per_class, side, flat=True)
    mapping = zip(all_wnids(), common_words(), strict=True)
    (folder / MAPPING).write_text("".join(f"{wnid} {words}\n" for wnid, words in mapping))
    rows = [f"ILSVRC2012_val_{k:08d},{all_wnids()[label]} 1 2 3 4 " for k, label in enumerate(val_labels, 1)]
    (folder / SOLUTION).write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")


def write_parquet(folder: Path, labels: range, per_class: int, side: int, shards: int = 3) -> None:
    """Write shards of structs of bytes and path, with the names of the classes, as Hugging Face's hub has them."""
    (folder / "data").mkdir(parents=True)
    names = [f"{words}, made" for words in common_words()]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    splits = {"train": list(train_images(labels, per_class, side)), "validation": list(val_images(labels, side))}
    splits["test"] = [(-1, name, content) for _, name, content in splits["validation"][:3]]
    for split, images in splits.items():
        for shard in range(shards):
            some = images[shard::shards]
            structs = [{"bytes": content, "path": name} for _, name, content in some]
            table = pa.table({"image": structs, "label": pa.array([label for label, *_ in some], pa.int64())})
            file = folder / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            pq.write_table(table.replace_schema_metadata(metadata), file, row_group_size=100)


def write(folder: Path, form: str, labels: range, per_class: int, side: int) -> None:
    """Write the set in a form."""
    if form == "tars":
        write_tars(folder, labels, per_class, side)
    elif form == "kaggle":
        write_kaggle(folder, labels, per_class, side)
    elif form == "parquet":
        write_parquet(folder, labels, per_class, side)
    else:
        val_labels = write_folders(folder, labels, per_class, side, flat=form == "flat")
        if form == "flat":
            write_devkit(folder, val_labels)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", choices=FORMS, default="folders")
    parser.add_argument("--per-class", type=int, default=3)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=96, help="pixels, about")
    given = parser.parse_args()
    write(given.folder, given.form, range(given.classes), given.per_class, given.side)
