"""What this machine has for a run, and what is broken."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raykd.data.datasets import DATASETS, data_spec, find_split, load_images
from raykd.data.parquet import find_splits, read_header
from raykd.distributed.host import compile_obstacle, prepare_host, usable_cores
from raykd.distributed.memory import free_memory
from raykd.distributed.provenance import describe_environment
from raykd.distributed.world import World
from raykd.errors import CorruptError, RaykdError, UsageError
from raykd.files import as_text, is_text
from raykd.spec import DataSpec

_GIB = 2**30
_LITTLE_DISK = 2 * _GIB
_SPLITS = ["train", "test"]

Check = dict[str, Any]


def diagnose(data_root: Path | None, store: Path) -> dict[str, Any]:
    """Return ``{"ok": ..., "checks": [...]}``; a check has name, value, state and advice.

    The state is ok, missing (something optional), or broken (something needed, so not ok).
    """
    world = World.current()
    environment = describe_environment(world)
    packages = environment["packages"]
    checks = [
        _check(
            "versions",
            ", ".join(f"{n} {v}" for n, v in {"python": environment["python"], **packages}.items()),
        ),
        _check(
            "processor",
            f"{environment['cpu']}, {usable_cores()} of {environment['cores']} cores usable",
        ),
        _check("idle threads", os.environ.get("OMP_WAIT_POLICY", "spin: OMP_WAIT_POLICY is not set")),
        _memory(),
        _check("GPU", environment["gpu"] or "none"),
        *_arithmetic(world),
        _compiler(world),
        _ray(packages.get("ray")),
        *_data(data_root),
        _disk(store),
    ]
    return {"ok": all(check["state"] != "broken" for check in checks), "checks": checks}


class DataSet(NamedTuple):
    """A data set that is known here: its spec, the splits that can be read, or the ``fault`` for which none can be."""

    name: str
    spec: DataSpec | None
    splits: list[str]
    fault: RaykdError | None = None


def data_sets(data_root: Path | None) -> Iterator[DataSet]:
    """Yield the data sets known here, also those under the data root that cannot be read."""
    folders: dict[str, list[str]] = {}
    if data_root is not None and data_root.is_dir():
        for path in sorted(data_root.iterdir()):
            if path.is_dir() and not path.name.startswith(".") and (splits := find_splits(path)):
                folders[path.name] = list(splits)
    for spec in DATASETS.values():
        if spec.name in folders:
            yield _found(spec.name, folders.pop(spec.name), data_root)
        else:
            yield DataSet(spec.name, spec, _without_files(spec))
    for name, splits in folders.items():
        yield _found(name, splits, data_root)


def _found(name: str, splits: list[str], data_root: Path | None) -> DataSet:
    if not is_text(name):
        return DataSet(as_text(Path(name)), None, [], UsageError("its name is no UTF-8 text: rename the folder"))
    try:
        for split in splits:
            read_header(find_split(name, split, data_root)[0])
        return DataSet(name, data_spec(name, data_root=data_root), splits)
    except RaykdError as error:
        return DataSet(name, None, [], error)


def _without_files(spec: DataSpec) -> list[str]:
    """Return the splits of a set that comes with a library, [] for one that wants a data root."""
    try:
        load_images(spec.name, "test", spec, None)
    except RaykdError:
        return []
    return _SPLITS


def _check(name: str, value: object, state: str = "ok", advice: str | None = None) -> Check:
    return {"name": name, "value": str(value), "state": state, "advice": advice}


def _memory() -> Check:
    free = free_memory()
    return _check("memory", "unknown" if free is None else f"{free / _GIB:.1f} GiB free")


def _arithmetic(world: World) -> Iterator[Check]:
    """Probe the allocator and the products, and see whether a product on the device is right."""
    report = asdict(prepare_host())
    yield _check("threads", report["threads"])
    yield _check("allocator", report["allocator"])
    products, error = report["matmul"], report["matmul_error"]
    if error is not None:
        products += f", relative error {error:.1e}" if products == "onednn" else f" (oneDNN's are off by {error:.1e})"
    yield _check("products", products)
    try:
        ones = torch.ones(64, 64, device=world.device)
        fault = None if bool((ones @ ones == 64).all()) else "a product of ones is wrong"
    except RuntimeError as failure:
        fault = str(failure).splitlines()[0]
    if fault is None:
        yield _check("torch", f"works on {world.device}")
    else:
        yield _check(
            "torch",
            f"fails on {world.device}: {fault}",
            "broken",
            "reinstall torch for this device",
        )


def _compiler(world: World) -> Check:
    obstacle = compile_obstacle(world.device.type)
    if obstacle is None:
        return _check("torch.compile", "can be used")
    return _check("torch.compile", "cannot be used", "missing", f"{obstacle}; long runs are slower")


def _ray(version: str | None) -> Check:
    if version is None:
        return _check("ray", "not installed", "missing", "for clusters: pip install 'raykd[ray]'")
    return _check("ray", version)


def _data(data_root: Path | None) -> Iterator[Check]:
    if data_root is None:
        yield _check("data root", "none", "missing", "set RAYKD_DATA to the folder of the data sets")
    elif not data_root.is_dir():
        yield _check("data root", data_root, "broken", f"RAYKD_DATA names no folder: {data_root}")
        data_root = None
    else:
        yield _check("data root", data_root)
    sets = list(data_sets(data_root))
    for each in sets:
        if isinstance(each.fault, CorruptError):
            advice = "make that set again: raykd data NAME --source FOLDER --out DIR"
            yield _check(f"data set {each.name}", each.fault, "broken", advice)
        elif each.fault is not None:
            yield _check(f"data set {each.name}", "not as raykd reads it", "missing", str(each.fault))
    there = [f"{each.name} ({', '.join(each.splits)})" for each in sets if each.splits]
    yield _check("data sets", ", ".join(there) or "none")


def _disk(store: Path) -> Check:
    place = next(path for path in (store.absolute(), *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    value = f"{free / _GIB:.1f} GiB free for {store}/"
    if not os.access(place, os.W_OK):
        return _check("disk", f"{place} is not writable", "broken", "start elsewhere, or use --out")
    if free < _LITTLE_DISK:
        return _check("disk", value, "broken", "make room, or use --out on another disk")
    return _check("disk", value)
