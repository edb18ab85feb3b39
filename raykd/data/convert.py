"""Convert a torchvision set, a folder of images or Parquet files of others to a Parquet set."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.error import URLError

from PIL import Image

from raykd.data import foreign_parquet, imagenet, parquet
from raykd.data.datasets import DATASETS, EMBEDDED
from raykd.data.imagenet_labels import read_class_list
from raykd.data.sharded import DAMAGED, write_sharded
from raykd.data.sources import SOURCES, Source, open_celeba
from raykd.data.split import Split, checked, describe_remark, resized
from raykd.errors import RaykdError, SetupError, UsageError, unknown
from raykd.files import as_text, check_depth, is_text

logger = logging.getLogger(__name__)


class Converted(NamedTuple):
    """A set that was written: its name, its folder, and the number of images of each split."""

    name: str
    folder: Path
    counts: dict[str, int]


def convert(
    name: str,
    source_dir: Path | None,
    out_dir: Path,
    *,
    splits: Sequence[str] | None = None,
    download: bool = False,
    attribute: str | None = None,
    set_name: str | None = None,
    size: int | None = None,
    class_list: Path | None = None,
    workers: int = 1,
    skip_damaged: bool = False,
) -> Converted:
    """Write ``<out_dir>/<name>/{split}-*.parquet``, so that ``out_dir`` serves as data root.

    Args:
        name: a key of ``SOURCES``; ``imagefolder`` takes any folder of class folders, ``parquet`` files of others.
        source_dir: where the set's files lie, or are downloaded to; of ``parquet`` a file or a folder. Without it they
            are downloaded to a temporary folder in ``out_dir``.
        out_dir: the data root to write to.
        splits: of "train" and "test"; "test" is the validation split of sets without a labelled
            test. If None, both; of ``parquet`` those that are there.
        download: fetch missing files from the set's site. Nothing is fetched otherwise.
        attribute: of celeba, the attribute that makes its two classes ("Male" if None).
        set_name: what the set is to be called. If None, ``name``, or for an image folder or Parquet files their
            folder's name, and then the size, as in ``imagenet-32``.
        size: side in pixels to which images are resized now, once and for all; None leaves them as they are.
        class_list: of imagenet, a file that lists the classes that are wanted; the set is called as that.
        workers: of imagenet, processes that convert.
        skip_damaged: of imagenet, whether images that cannot be decoded are left out, and listed beside the set.

    Raises:
        UsageError: if name, split or attribute is unknown, files of the source are missing or of a kind that cannot be
            taken, or the set is there already.
        SetupError: if a download fails.
        CorruptError: if a file of the source is damaged; each is decoded. Nothing is left of the set then, but for
            imagenet, whose finished shards are kept for the next time.
    """
    source = _select_source(name, source_dir, splits, download, attribute)
    wnids = _select_classes(name, class_list)
    set_name = set_name or _default_name(name, source_dir, size, class_list)
    _check_name(set_name, out_dir, class_list)
    folder = out_dir / set_name
    if name == "imagenet" and size is None and splits is None:
        assert source_dir is not None, "it cannot be downloaded"
        return _convert_imagenet(source_dir, folder, wnids, workers, skip_damaged)
    if (workers, skip_damaged) != (1, False):
        raise UsageError("several workers, and leaving out damaged images, are for imagenet in its own size only")
    if wnids is not None:
        source = replace(
            source,
            open=partial(imagenet.open_split, wnids=wnids),
            splits=partial(imagenet.find_splits, wnids=wnids),
        )
    if splits is None:
        splits = source.splits(source_dir) if source.splits and source_dir else ("train", "test")
    for split in splits:
        if parquet.find_files(folder, split):
            raise UsageError(f"{folder} holds {split}-*.parquet already; remove them or choose another --out")
    with _source_folder(source_dir, out_dir) as root, warnings.catch_warnings():
        # Up to its limit PIL only warns of many pixels; beyond it an image is refused.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened: dict[str, Split] = {}
        for split in splits or ("train",):
            with _explaining_failures(name, source, root, download):
                original = source.open(root, split, download)
                if name == "imagenet":
                    original = replace(original, mean=DATASETS[name].mean, std=DATASETS[name].std)
                opened[split] = resized(original, size) if size else checked(original)
        _check_splits(opened, set_name)
        counts = _write(folder, opened, set_name, name, imagenet.part_of(wnids) if wnids else {})
    for line in dict.fromkeys(line for data in opened.values() for line in data.remarks.lines()):
        logger.warning("%s", line)
    if "test" not in counts and source.splits:
        logger.warning("there is no split to test on: recipes on this set need data.test=false")
    return Converted(set_name, folder, counts)


def _convert_imagenet(
    source: Path, folder: Path, wnids: Sequence[str] | None, workers: int, skip_damaged: bool
) -> Converted:
    """Write ImageNet, or some of its classes, shard by shard, or go on with that."""
    if folder.exists():
        raise UsageError(f"{folder} is there already; remove it or choose another --out")
    found = imagenet.find_imagenet(source, wnids)
    for line in found.notes:
        logger.warning("%s", line)
    splits = imagenet.sharded_splits(found, folder.name, DATASETS["imagenet"])
    made = write_sharded(folder, source, splits, workers=workers, skip_damaged=skip_damaged)
    for remark, (count, first) in made.remarks.items():
        logger.warning("%s", describe_remark(remark, count, first))
    if made.damaged:
        logger.warning("%d images cannot be decoded and are left out: %s", len(made.damaged), folder / DAMAGED)
    return Converted(folder.name, folder, made.counts)


def _select_classes(name: str, class_list: Path | None) -> tuple[str, ...] | None:
    if class_list is None:
        return None
    if name != "imagenet":
        raise UsageError(f"a list of classes is for imagenet; {name} is converted with all of its own")
    return read_class_list(class_list)


def _default_name(name: str, source: Path | None, size: int | None, class_list: Path | None) -> str:
    if class_list is not None:
        name = class_list.stem
    if source is not None and name == "imagefolder":
        name = source.resolve().name
    elif source is not None and name == "parquet":
        name = foreign_parquet.set_name(source)
    return f"{name}-{size}" if size else name


def _check_name(name: str, out_dir: Path, class_list: Path | None) -> None:
    """Refuse a name by which no recipe could ask for the set, or would be given labels of another.

    Raises:
        UsageError: saying what to rename.
    """
    if not is_text(name) or not is_text(str(out_dir)):
        raise UsageError(f"{as_text(out_dir / name)}: the name is no UTF-8 text, as a set's must be: rename the folder")
    if not name or name.startswith(".") or name in EMBEDDED:
        what = "comes with raykd" if name in EMBEDDED else "is no name of a set: it is empty, or begins with a dot"
        raise UsageError(f"the set would be called as its folder, and {name!r} {what}: rename the folder")
    if class_list is not None and name in DATASETS:
        raise UsageError(
            f"the set would be called {name!r} as its list of classes, {as_text(class_list)}, and that is the name of "
            "a known set with labels of its own: rename the list, to some_classes.txt for example"
        )


def _write(
    folder: Path, opened: Mapping[str, Split], set_name: str, source: str, more: Mapping[str, str]
) -> dict[str, int]:
    """Write all splits, or none, with ``more`` metadata: return how many images each has."""
    constants = next(iter(opened.values()))
    counts: dict[str, int] = {}
    try:
        for split, data in opened.items():
            counts[split] = 0
            records = ((record.image, record.label) for record in data.records)
            metadata = {**_metadata(set_name, split, data, constants, source), **more}
            counts[split] = parquet.write(folder, split, records, metadata)
    except BaseException:
        for split in counts:
            for path in parquet.find_files(folder, split):
                path.unlink()
        raise
    return counts


def _select_source(
    name: str, source_dir: Path | None, splits: Sequence[str] | None, download: bool, attribute: str | None
) -> Source:
    if name not in SOURCES:
        raise unknown("data source", name, SOURCES)
    source = SOURCES[name]
    for split in splits or ():
        if split not in ("train", "test"):
            raise unknown("split", split, ("train", "test"))
    if download and not source.downloads:
        raise UsageError(f"{name} cannot be downloaded; give --source with {source.expects}")
    if source_dir is None and not download:
        download_hint = ", or --download to fetch it" if source.downloads else ""
        raise UsageError(f"{name} needs --source DIR with {source.expects}{download_hint}")
    if attribute is None:
        return source
    if name != "celeba":
        raise UsageError(f"attribute={attribute!r} is for celeba only; {name} has classes of its own")
    return Source(partial(open_celeba, attribute=attribute), source.expects)


@contextmanager
def _source_folder(source_dir: Path | None, out_dir: Path) -> Iterator[Path]:
    if source_dir is not None:
        yield source_dir
        return
    check_depth(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".download-", dir=out_dir) as folder:
        yield Path(folder)


@contextmanager
def _explaining_failures(name: str, source: Source, root: Path, download: bool) -> Iterator[None]:
    """Turn torchvision's exceptions into errors that say what the user has to do."""
    try:
        yield
    except RaykdError:
        raise
    except (URLError, ModuleNotFoundError) as error:
        raise SetupError(f"{name} could not be fetched or read: {error}") from error
    except (RuntimeError, OSError, EOFError) as error:
        if download:
            raise SetupError(f"{name} could not be downloaded: {error}") from error
        download_hint = ", or pass --download" if source.downloads else ""
        raise UsageError(
            f"{name} cannot be read from {as_text(root)}: {error}; put there {source.expects}{download_hint}"
        ) from error


def _check_splits(opened: dict[str, Split], set_name: str) -> None:
    first_name, first = next(iter(opened.items()))
    for split, data in opened.items():
        if not data.count:
            raise UsageError(f"{set_name}: split {split!r} has no images")
        if data.classes != first.classes:
            only = [sorted(set(a.classes) - set(b.classes)) for a, b in ((first, data), (data, first))]
            case = [{each.casefold() for each in names} for names in only]
            raise UsageError(
                f"{set_name}: splits {first_name!r} and {split!r} have different classes; only {first_name} has "
                f"{_shortened(only[0])}, only {split} has {_shortened(only[1])}"
                + (", which differ in case alone" if case[0] & case[1] else "")
                + ": give both the same"
            )


def _shortened(names: Sequence[str]) -> str:
    return str(list(names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _metadata(set_name: str, split: str, data: Split, first: Split, source: str) -> dict[str, str]:
    """Describe a split; all carry the first one's shape and constants, so they make one spec."""
    metadata = {
        "name": set_name,
        "split": split,
        "count": str(data.count),
        "shape": json.dumps(first.shape),
        "encoding": data.encoding,
        "classes": json.dumps(data.classes),
        "source": f"raykd data {source}",
        "order": "order of the source",
        "licence": "see the data set's own page",
    }
    if first.mean is not None and first.std is not None:
        metadata |= {"mean": json.dumps(first.mean), "std": json.dumps(first.std)}
    return metadata
