"""A bank of generators on the disk: written member by member while a run trains it, read by many students.

<run>/bank/  class_00000.safetensors ...  manifest.json (last: it holds what is common, and the files' sha256 sums)
"""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from raykd.config.runtime import Runtime
from raykd.distributed.memory import free_device_memory
from raykd.distributed.world import World
from raykd.errors import CorruptError, UsageError
from raykd.files import (
    MANIFEST,
    damaged,
    is_file,
    is_folder,
    make_folder,
    parse_content,
    read_json,
    replacing,
    sha256_of,
    write_json,
)
from raykd.generators import EVERY, STANDARDISED, GeneratorBank, GeneratorConfig, Kind, Output, member_parameters
from raykd.generators.waves import Wave
from raykd.recipe.experiment import Experiment
from raykd.spec import DataSpec
from raykd.store.checkpoint import save_weights
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tensors import checksum_metadata, read_tensors

logger = logging.getLogger(__name__)

_RESTORE = "restore it from a backup, or move the bank's run away and train it again"
_HEADER_BYTES = 3000
"""Of a member's file: names and shapes of its tensors, their sum, and running statistics."""
_COPY_SHARE = 0.25
"""Part of a worker's free memory that a frozen copy of a bank may take."""


def write_products(run: RunDirectory, products: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write finished members into the run directory, each under its name only once it is whole."""
    folder = run.bank
    make_folder(folder)
    for name, tensors in products.items():
        with replacing(product_path(run, name)) as staging:
            save_weights(tensors, staging, checksum_metadata(tensors))


def product_path(run: RunDirectory, name: str) -> Path:
    """Return where a finished member lies."""
    return run.bank / f"{name}.safetensors"


def check_products(run: RunDirectory, world: World) -> None:
    """See whether the members that are there are whole; each worker reads a share. Every worker must call it.

    Raises:
        CorruptError: on all workers, if one of them finds a damaged member.
    """

    def check_share() -> None:
        if run.has_bank:
            for path in sorted(run.bank.glob("*.safetensors"))[world.rank :: world.size]:
                read_tensors(path, _RESTORE)

    world.agree(check_share)


def finish_bank(run: RunDirectory, manifest: Mapping[str, Any], world: World) -> None:
    """Write the manifest on rank 0; each worker sums a share of the files. Every worker must call it.

    Raises:
        CorruptError: on all workers, if one of them misses a member's file, or finds it damaged.
    """
    folder = run.bank
    names = [_file(label) for label in manifest["classes"]]

    def sum_share() -> dict[str, str]:
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CorruptError(
                f"{folder / missing[0]} is missing ({len(missing)} files in all); restore the run's folder from a "
                "backup, or move it away and train it again"
            )
        mine = names[world.rank :: world.size]
        for name in mine:
            _read_member(folder / name)
        return {name: sha256_of(folder / name) for name in mine}

    sums = {name: digest for part in world.gather_objects(world.agree(sum_share)) for name, digest in part.items()}
    complete = {**manifest, "files": dict(sorted(sums.items()))}

    def write() -> None:
        with run.writing():
            write_json(folder / MANIFEST, complete)

    world.agree(write, on_first=True)  # others read it next


def bank_bytes(manifest: Mapping[str, Any]) -> int:
    """Return how many bytes the members of a bank of this manifest take on the disk."""
    config = GeneratorConfig.model_validate(manifest["generator"])
    numbers = member_parameters(config, manifest["channels"], manifest["size"], manifest["conditions"])
    return len(manifest["classes"]) * (4 * numbers + _HEADER_BYTES)


@dataclass(frozen=True)
class BankFiles:
    """A finished bank: what its manifest says, and its members on demand."""

    folder: Path
    manifest: Mapping[str, Any]
    config: GeneratorConfig

    @property
    def classes(self) -> tuple[int, ...]:
        """Return the classes that have a member; (EVERY,) for a single generator."""
        return tuple(self.manifest["classes"])

    @property
    def num_classes(self) -> int:
        """Return the number of classes of the data."""
        return int(self.manifest["num_classes"])

    @property
    def numbers(self) -> int:
        """Return the parameters of all members together."""
        manifest = self.manifest
        return len(self.classes) * member_parameters(
            self.config, manifest["channels"], manifest["size"], manifest["conditions"]
        )

    def matches(self, spec: DataSpec) -> bool:
        """Tell whether the images are those of a network of ``spec``."""
        theirs = [self.manifest[key] for key in ("num_classes", "channels", "size", "mean", "std")]
        return theirs == [spec.num_classes, spec.channels, spec.size, list(spec.mean), list(spec.std)]

    def load(self, classes: Iterable[int], *, dtype: torch.dtype | None = None) -> GeneratorBank:
        """Return the members of ``classes``, frozen, in evaluation mode, on the CPU (default: in torch's dtype).

        Raises:
            CorruptError: if a file differs from its sum in the manifest.
        """
        manifest = self.manifest
        labels = tuple(classes)
        bank = GeneratorBank(
            labels,
            self.config,
            channels=manifest["channels"],
            size=manifest["size"],
            conditions=manifest["conditions"],
            output=output_of(manifest),
        ).to(dtype or torch.get_default_dtype())
        for label in labels:
            path = self.folder / _file(label)
            tensors = _read_member(path)
            if sha256_of(path) != manifest["files"][path.name]:
                raise damaged(path, "it differs from its checksum", _RESTORE)
            parse_content(path, _RESTORE, partial(bank.load_member, label, tensors))
        return bank.eval().requires_grad_(False)


def output_of(manifest: Mapping[str, Any]) -> Output:
    """Return the output of a bank's members; that of a manifest that names none is the published one."""
    kind = manifest.get("output", STANDARDISED.kind)
    if kind not in get_args(Kind):
        raise ValueError(f"its output is {kind!r}")
    return Output.of(kind, manifest["mean"], manifest["std"])


def open_bank(run: RunDirectory) -> BankFiles:
    """Read the bank of a run directory.

    Raises:
        UsageError: if there is no such run, or it has none, or has not finished it.
        CorruptError: if its manifest is damaged.
    """
    require_run(run)
    file = run.bank / MANIFEST
    if not run.has_bank or not is_file(file):
        if run.is_finished:
            raise CorruptError(f"{file} is missing, though the run is finished; {_RESTORE}")
        state = "has not finished its bank" if run.has_bank else "has no bank"
        raise UsageError(f"run {run.name} {state}; `raykd train` makes one of a recipe for it, and goes on with one")
    manifest = read_json(file, _RESTORE)
    return parse_content(file, _RESTORE, lambda: _parse_manifest(run.bank, manifest))  # type: ignore[no-any-return]


def _parse_manifest(folder: Path, manifest: Mapping[str, Any]) -> BankFiles:
    """Return the bank of a manifest.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    files = BankFiles(folder, manifest, GeneratorConfig.model_validate(manifest["generator"]))
    numbers = [manifest[key] for key in ("num_classes", "channels", "size", "conditions")]
    if not all(isinstance(number, int) for number in (*numbers, *files.classes)):
        raise ValueError("a number is none")
    if missing := {_file(label) for label in files.classes} - dict(manifest["files"]).keys():
        raise ValueError(f"it has no sum of {min(missing)}")
    if not isinstance(manifest.get("teacher_sha256"), str | None):  # banks of earlier releases do not tell it
        raise ValueError("its teacher's sum is none")
    for key in ("mean", "std"):
        if len(list(map(float, manifest[key]))) != manifest["channels"]:
            raise ValueError(f"{key} has not one number for each channel")
    output_of(manifest)
    return files


def require_run(run: RunDirectory) -> None:
    """Refuse a run that is named for its generators and is not in the store.

    Raises:
        UsageError: if its directory does not exist.
    """
    if not is_folder(run.path):
        raise UsageError(
            f"run {run.path.name} does not exist: there is no directory {run.path}; give the name of one in that "
            "store, or 'recipe' in place of 'run' to have it trained"
        )


def load_bank(
    experiment: Experiment, spec: DataSpec, world: World, runtime: Runtime, workspace: Workspace
) -> GeneratorBank:
    """Return the recipe's bank as this worker needs it: all members (a copy), or its share of the classes.

    A copy is in float32 where that takes little of the free memory, else in bfloat16. With too little memory for that
    on any worker, each keeps its classes only and images are exchanged.

    Raises:
        UsageError: if there is no such bank, or it is one of other data.
        CorruptError: if it is damaged.
    """
    assert experiment.bank_id is not None, "validated by the recipe"
    run = workspace.run(experiment.bank_id)
    files = world.agree(lambda: open_bank(run))
    if not files.matches(spec):
        manifest = files.manifest
        raise UsageError(
            f"the bank of {run.name} makes images of {manifest['num_classes']} classes, {manifest['channels']} x "
            f"{manifest['size']} x {manifest['size']}, normalised by {manifest['mean']} / {manifest['std']}; "
            f"this recipe's data {spec.name!r} has {spec.num_classes}, {spec.channels} x {spec.size} x {spec.size}, "
            f"{list(spec.mean)} / {list(spec.std)}. They must agree: set data.size, mean and std"
        )
    classes, dtype = choose_members(files, world, runtime)
    if world.size > 1:
        kind = "exchanges images" if classes != files.classes else f"has a copy in {str(dtype).removeprefix('torch.')}"
        logger.info("bank of %d members: every worker %s", len(files.classes), kind)
    return world.agree(lambda: files.load(classes, dtype=dtype)).to(world.device)


def choose_members(files: BankFiles, world: World, runtime: Runtime) -> tuple[tuple[int, ...], torch.dtype]:
    """Choose what this worker holds of a bank, all workers alike."""
    numbers = files.numbers
    free = free_device_memory(world.device)
    if world.device.type != "cuda":
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    room = min(world.gather_objects(int(_COPY_SHARE * free)))
    dtype = torch.get_default_dtype() if 4 * numbers <= room else torch.bfloat16
    one_suffices = world.size == 1 or files.classes == (EVERY,)
    if one_suffices or runtime.bank == "copy" or (runtime.bank == "auto" and 2 * numbers <= room):
        return files.classes, dtype
    return Wave(0, files.classes).share(world.rank, world.size), torch.get_default_dtype()


def _read_member(path: Path) -> dict[str, Tensor]:
    """Return a member's tensors.

    Raises:
        CorruptError: if the file is damaged, or holds a number that is not finite, as of a run of an earlier release.
    """
    tensors = read_tensors(path, _RESTORE)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise damaged(path, "it holds numbers that are not finite", "move the bank's run away and train it again")
    return tensors


def _file(label: int) -> str:
    return f"{product_name(label)}.safetensors"


def product_name(label: int) -> str:
    """Return the name of a member's file, without its ending."""
    return "class_every" if label == EVERY else f"class_{label:05d}"
