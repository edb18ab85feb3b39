"""Writing a large set of image files shard by shard, in several processes, so that what is written stays written.

Which images a shard has is known before the first is read, so a shard is a pure function of the source: a conversion
that was killed goes on with the shards that it lacks, and what it makes in the end is byte for byte what an undisturbed
one makes. Until the last shard is there all lie in a hidden folder beside the set's, which then appears at once.
"""

import json
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from raykd.data import parquet
from raykd.data.decode import examine
from raykd.data.foreign_parquet import Columns, read_group
from raykd.data.split import Record
from raykd.distributed.world import mix
from raykd.errors import CorruptError, SetupError, UsageError
from raykd.files import (
    as_text,
    describe,
    locked,
    make_folder,
    open_regular,
    read_json,
    replacing,
    sha256_of,
    sweep,
    write_json,
    writing,
)

_Result = TypeVar("_Result")
logger = logging.getLogger(__name__)

SHARD_BYTES = 256 * 2**20
"""Of images in a shard."""
DAMAGED = "damaged.json"
"""Beside the shards: the images that were left out since they cannot be decoded."""
_GROUP_BYTES = 8 * 2**20
_ORDER, _ROWS = 0x1A6E, 0x1A6F  # seeds: the order of a set is the same wherever it is made
_LISTED = 10  # damaged images in a message
_ADVICE = "restore it, or leave it out"
_JPEG = b"\xff\xd8\xff"
_NO_JPEG = "another format than JPEG, kept as it is"


class FileRange(NamedTuple):
    """An image: bytes [offset, offset + size) of a file, whose path is relative to the source."""

    path: str
    offset: int
    size: int
    label: int
    member: str = ""
    """Its name within an archive, for messages."""

    def records(self, source: Path) -> Iterator[Record]:
        """Yield the image.

        Raises:
            CorruptError: if it is shorter now than it was.
            UsageError: if it cannot be read.
        """
        path = source / self.path
        name = f"{as_text(path)}: {self.member}" if self.member else as_text(path)
        try:
            with open_regular(path) as file:
                file.seek(self.offset)
                image = file.read(self.size)
        except OSError as error:
            raise UsageError(f"{name} cannot be read ({describe(error)}); complete the source") from None
        if len(image) < self.size:
            raise CorruptError(f"{name} has become shorter while it was read; run the same command again")
        yield Record(image, self.label, name)


class RowGroup(NamedTuple):
    """A row group of a Parquet file of others; ``labels`` maps theirs to the set's, -1 being left out."""

    path: str
    group: int
    first: int
    size: int
    columns: Columns
    labels: tuple[int, ...]

    def records(self, source: Path) -> Iterator[Record]:
        """Yield its images that are wanted.

        Raises:
            CorruptError: if it is damaged.
        """
        for record in read_group(source / self.path, self.columns, self.group, self.first):
            if self.labels[record.label] >= 0:
                yield record._replace(label=self.labels[record.label])


Piece = FileRange | RowGroup


@dataclass(frozen=True)
class ShardedSplit:
    """A split before it is read: its ``count`` of images, and where they lie; ``shuffled`` says whether their order is.

    Whoever streams a set mixes neighbours, and sources have their images class by class.
    """

    count: int
    pieces: Sequence[Piece]
    shuffled: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class ShardedSet:
    """What was written: images of each split, those left out as damaged, and how many had which remark."""

    counts: dict[str, int]
    damaged: list[dict[str, str]]
    remarks: dict[str, tuple[int, str]] = field(default_factory=dict)


class _Shard(NamedTuple):
    """One file to be made of pieces of the source, and the record that vouches for it."""

    source: Path
    split: str
    pieces: tuple[Piece, ...]
    seed: int | None
    metadata: Mapping[str, str]
    file: Path
    record: Path


def write_sharded(
    folder: Path,
    source: Path,
    splits: Mapping[str, ShardedSplit],
    *,
    workers: int,
    skip_damaged: bool,
    shard_bytes: int = SHARD_BYTES,
) -> ShardedSet:
    """Write ``folder/{split}-*.parquet``, or go on with writing them; ``folder`` appears when all are there.

    Args:
        folder: of the set; it must not be there.
        source: what paths of pieces are relative to.
        splits: by name.
        workers: processes that read, decode and write; each takes about three times ``shard_bytes`` of memory.
        skip_damaged: leave out images that cannot be decoded, and list them in ``DAMAGED``.
        shard_bytes: of images in a file.

    Raises:
        CorruptError: naming and counting damaged images, or a class of which all are; finished shards stay for the
            next time.
        InProgress: if another process is at the same set.
        SetupError: if the disk does not take it, or a process was killed.
    """
    staging = folder.with_name(f".{folder.name}.converting")
    with writing(f"the set {folder}"):
        make_folder(staging / "records")
        make_folder(staging / folder.name)
    with locked(staging / "lock", wait=False, busy=f"another process is writing {folder}; wait for it"):
        shards = [
            shard
            for name, split in splits.items()
            for shard in _shards(name, split, source, staging, folder, shard_bytes)
        ]
        _sweep(staging, folder, shards)
        records = _convert(shards, workers)
        counts = {name: 0 for name in splits}
        for shard, record in zip(shards, records, strict=True):
            counts[shard.split] += record["images"]
        damaged = [one for record in records for one in record["damaged"]]
        if damaged and not skip_damaged:
            raise CorruptError(_told(damaged, len(shards)))
        if damaged:
            _check_classes(splits, shards, records)
        _recount_all(shards, records, counts, workers)
        with writing(f"the set {folder}"):
            if damaged:
                write_json(staging / folder.name / DAMAGED, {"images": damaged})
            (staging / folder.name).rename(folder)
            rmtree(staging)
    return ShardedSet(counts, damaged, _merged(records))


def _shards(
    name: str, split: ShardedSplit, source: Path, staging: Path, folder: Path, shard_bytes: int
) -> Iterator[_Shard]:
    """Deal the pieces of a split to shards, as many to each: sizes average out, and a mended image moves no other."""
    pieces = list(split.pieces)
    if split.shuffled:
        order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(_ORDER))
        pieces = [pieces[place] for place in order.tolist()]
    total = min(len(pieces), max(1, round(sum(piece.size for piece in pieces) / shard_bytes)))
    metadata = {**split.metadata, "split": name, "count": str(split.count)}
    for number in range(total):
        some = pieces[number * len(pieces) // total : (number + 1) * len(pieces) // total]
        seed = mix(_ROWS, number) if split.shuffled else None
        file = f"{name}-{number:05d}-of-{total:05d}"
        shard = _Shard(source, name, tuple(some), seed, metadata, Path(), Path())
        yield shard._replace(
            file=staging / folder.name / f"{file}.parquet", record=staging / "records" / f"{file}.json"
        )


def _sweep(staging: Path, folder: Path, shards: Iterable[_Shard]) -> None:
    """Remove what an earlier conversion of another source, or other choices, has left."""
    wanted = {path for shard in shards for path in (shard.file, shard.record)}
    for place in (staging / folder.name, staging / "records"):
        sweep(place)
        for path in place.iterdir():
            if path not in wanted and not path.name.startswith("."):
                path.unlink()


def _convert(shards: Sequence[_Shard], workers: int) -> list[dict[str, Any]]:
    """Make what is not there yet, and return the records of all in order."""
    found: list[dict[str, Any]] = [{}] * len(shards)
    for done, (place, record) in enumerate(_perform(_make, [(shard,) for shard in shards], workers), 1):
        logger.info(
            "shard %d of %d: %s images%s", done, len(shards), record["images"], ", kept" if record["kept"] else ""
        )
        found[place] = record
    return found


def _recount_all(
    shards: Sequence[_Shard], records: Sequence[dict[str, Any]], counts: Mapping[str, int], workers: int
) -> None:
    """See to it that every shard says how many images its split has without those that are left out."""
    wrong = [
        (shard, {key: value for key, value in record.items() if key != "kept"}, counts[shard.split])
        for shard, record in zip(shards, records, strict=True)
        if record["count"] != counts[shard.split]
    ]
    for done, _ in enumerate(_perform(_recount, wrong, workers), 1):
        logger.info("count of shard %d of %d written", done, len(wrong))


def _perform(
    task: Callable[..., _Result], arguments: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, _Result]]:
    """Yield place and result of each call as it is done, by so many processes.

    Raises:
        SetupError: if one of them was killed.
    """
    if workers == 1 or not arguments:
        yield from ((place, task(*some)) for place, some in enumerate(arguments))
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(workers, len(arguments)), context, _begin)
    try:
        futures = {executor.submit(task, *some): place for place, some in enumerate(arguments)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise SetupError(
            "a process that converts was killed, perhaps for want of memory: run the same command with fewer "
            "--workers, which keeps what is finished"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """Prepare a process: it ends with its parent, however that ends, and leaves an interrupt to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a child"

    def end_too() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_too, daemon=True).start()


def _make(shard: _Shard) -> dict[str, Any]:
    """Return the record of a shard, which is written unless it is there, whole, and of the same source."""
    digest = _digest(shard)
    if (record := _finished(shard, digest)) is not None:
        return {**record, "kept": True}
    images, labels, damaged, remarks = [], [], [], _Remarks()
    with warnings.catch_warnings():
        # Up to its limit PIL only warns of many pixels; beyond it an image is refused.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for image in _ordered(shard):
            try:
                found = examine(image.image, image.name, _ADVICE).remarks
            except (CorruptError, UsageError) as error:
                why = str(error).removeprefix(f"{image.name} ").removesuffix(f"; {_ADVICE}")
                damaged.append({"split": shard.split, "image": image.name, "why": why})
                continue
            for remark in (*found, *(() if image.image.startswith(_JPEG) else (_NO_JPEG,))):
                remarks.add(remark, image.name)
            images.append(image.image)
            labels.append(image.label)
    columns = {"image": pa.array(images, pa.binary()), "label": pa.array(labels, pa.int64())}
    with writing(str(shard.file)):
        with replacing(shard.file) as path:
            parquet.write_file(path, columns, shard.metadata, group_bytes=_GROUP_BYTES)
        record = {"source": digest, "content": sha256_of(shard.file), "count": int(shard.metadata["count"])}
        record |= {"images": len(images), "labels": sorted(set(labels)), "damaged": damaged, "remarks": remarks.found}
        write_json(shard.record, record)
    return {**record, "kept": False}


class _Remarks:
    """What is remarkable about images: counted, with the first one's name."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {}

    def add(self, remark: str, name: str) -> None:
        self.found.setdefault(remark, [0, name])[0] += 1


def _merged(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for record in records:
        for remark, (count, name) in record["remarks"].items():
            before, first = found.get(remark, (0, name))
            found[remark] = before + count, first
    return found


def _ordered(shard: _Shard) -> Iterator[Record]:
    """Yield the shard's images; those of row groups, which hold many, are mixed among themselves if they are to be."""
    records = (record for piece in shard.pieces for record in piece.records(shard.source))
    if shard.seed is None or isinstance(shard.pieces[0], FileRange):
        with closing(records):
            yield from records
        return
    held = list(records)
    for place in torch.randperm(len(held), generator=torch.Generator().manual_seed(shard.seed)).tolist():
        yield held[place]


def _digest(shard: _Shard) -> str:
    """Return the sum of all that a shard is made of, but for the content of its images."""
    told = sha256(json.dumps([shard.seed, sorted(shard.metadata.items())]).encode())
    for piece in shard.pieces:
        told.update(os.fsencode(repr(tuple(piece)).encode("utf-8", "surrogateescape")))
    return told.hexdigest()


def _finished(shard: _Shard, digest: str) -> dict[str, Any] | None:
    """Return the record of a shard that is there and as it was written; one with damaged images is made again."""
    try:
        record = read_json(shard.record, "it is made again")
        same = record["source"] == digest and record["content"] == sha256_of(shard.file)
        known = {"count", "images", "labels", "remarks"} <= record.keys()
        return record if same and known and not record["damaged"] else None
    except (FileNotFoundError, CorruptError, KeyError):
        return None


def _recount(shard: _Shard, record: dict[str, Any], count: int) -> None:
    """Write a shard again, with how many images its split has, and vouch for it, so that a kill does not undo it."""
    # In one piece, as it was first written: the size of row groups is reckoned from it.
    table = pq.read_table(shard.file).combine_chunks()
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    with writing(str(shard.file)):
        with replacing(shard.file) as path:
            parquet.write_file(path, columns, {**shard.metadata, "count": str(count)}, group_bytes=_GROUP_BYTES)
        write_json(shard.record, {**record, "content": sha256_of(shard.file), "count": count})


def _check_classes(
    splits: Mapping[str, ShardedSplit], shards: Sequence[_Shard], records: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse to leave a class without images.

    Raises:
        CorruptError: naming such classes.
    """
    for name, split in splits.items():
        pairs = zip(shards, records, strict=True)
        left = {label for shard, record in pairs if shard.split == name for label in record["labels"]}
        empty = [known for label, known in enumerate(json.loads(split.metadata["classes"])) if label not in left]
        if empty:
            more = f" and {len(empty) - _LISTED:,} more" if len(empty) > _LISTED else ""
            raise CorruptError(
                f"{name} has no image that can be decoded of {len(empty)} classes: {'; '.join(empty[:_LISTED])}{more}. "
                "Restore some and run the same command, which keeps what is finished, or make a set of the other "
                "classes by --classes FILE"
            )


def _told(damaged: Sequence[Mapping[str, str]], shards: int) -> str:
    lines = "".join(f"\n  {one['image']} {one['why']}" for one in damaged[:_LISTED])
    more = f"\n  and {len(damaged) - _LISTED:,} more" if len(damaged) > _LISTED else ""
    return (
        f"{len(damaged):,} image{'s' if len(damaged) > 1 else ''} cannot be used:{lines}{more}\nrestore them and run "
        f"the same command, which keeps what is finished of {shards:,} shards, or leave them out by --skip-damaged"
    )
