"""Convert a torchvision set or a folder of images to a Parquet set."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.error import URLError

from raykd.data import parquet
from raykd.data.sources import SOURCES, Source, Split, open_celeba, resized
from raykd.errors import RaykdError, SetupError, UsageError, unknown


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
    splits: Sequence[str] = ("train", "test"),
    download: bool = False,
    attribute: str | None = None,
    set_name: str | None = None,
    size: int | None = None,
) -> Converted:
    """Write ``<out_dir>/<name>/{split}-*.parquet``, so that ``out_dir`` serves as data root.

    Args:
        name: a key of ``SOURCES``; ``imagefolder`` takes any folder of class folders.
        source_dir: where the set's files lie, or are downloaded to. Without it they are
            downloaded to a temporary folder in ``out_dir``.
        out_dir: the data root to write to.
        splits: of "train" and "test"; "test" is the validation split of sets without a labelled
            test.
        download: fetch missing files from the set's site. Nothing is fetched otherwise.
        attribute: of celeba, the attribute that makes its two classes ("Male" if None).
        set_name: what the set is to be called. If None, ``name``, or for an image folder its folder's name, and then
            the size, as in ``imagenet-32``.
        size: side in pixels to which images are resized now, once and for all; None leaves them as they are.

    Raises:
        UsageError: if name, split or attribute is unknown, files of the source are missing, or the
            set is there already.
        SetupError: if a download fails.
        CorruptError: if a file of the source is damaged.
    """
    source = _select_source(name, source_dir, splits, download, attribute)
    if set_name is None:
        set_name = source_dir.resolve().name if name == "imagefolder" and source_dir else name
        set_name += f"-{size}" if size else ""
    folder = out_dir / set_name
    for split in splits:
        if parquet.find_files(folder, split):
            raise UsageError(f"{folder} holds {split}-*.parquet already; remove them or choose another --out")
    with _source_folder(source_dir, out_dir) as root:
        opened: dict[str, Split] = {}
        for split in splits:
            with _explaining_failures(name, source, root, download):
                original = source.open(root, split, download)
                opened[split] = resized(original, size) if size else original
        _check_splits(opened, set_name)
        constants = next(iter(opened.values()))
        counts = {
            split: parquet.write(folder, split, data.records, _metadata(set_name, split, data, constants, name))
            for split, data in opened.items()
        }
    return Converted(set_name, folder, counts)


def _select_source(
    name: str, source_dir: Path | None, splits: Sequence[str], download: bool, attribute: str | None
) -> Source:
    if name not in SOURCES:
        raise unknown("data source", name, SOURCES)
    source = SOURCES[name]
    for split in splits:
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
            f"{name} cannot be read from {root}: {error}; put there {source.expects}{download_hint}"
        ) from error


def _check_splits(opened: dict[str, Split], set_name: str) -> None:
    first_name, first = next(iter(opened.items()))
    for split, data in opened.items():
        if not data.count:
            raise UsageError(f"{set_name}: split {split!r} has no images")
        if data.classes != first.classes:
            differing = sorted(set(data.classes) ^ set(first.classes))
            raise UsageError(
                f"{set_name}: splits {first_name!r} and {split!r} have different classes; only one has {differing}"
            )


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
