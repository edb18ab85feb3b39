"""A synthetic set made of a run's generators: images, the classes asked of them, and the teacher's answers.

Files are written one by one: what is held in memory is one file's content, one group of members, one batch of images.
"""

import fcntl
import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raykd.artifacts.bank import FOLDER, BankFiles, open_bank
from raykd.artifacts.synthetic_set import MANIFEST, PixelRange, SyntheticFolder, alone_in
from raykd.config.yaml_file import load_yaml
from raykd.distributed.world import World
from raykd.engine.build import load_teacher, spec_of
from raykd.engine.image_sources import BankRows, MethodRows, Rows, makes_images, sample
from raykd.engine.synthetic_sets import set_folder
from raykd.errors import CorruptError, UsageError
from raykd.models.teacher import Teacher
from raykd.recipe.recipe import Recipe, bank_run, frozen_sets, generators_run, recipe_from_dict
from raykd.recipe.sections import BankConfig
from raykd.spec import DataSpec
from raykd.store.checkpoint import write_text
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)


def synthesize(run: Path, images: int, out: Path, data_root: Path | None) -> dict[str, Any]:
    """Write a set of so many images of a run's generators to ``out``, or what is missing of it; return what it is.

    ``run`` is the directory of a bank's run, of a run that learned from a bank in the same store, or of a finished run
    whose method trains a generator beside its student. The same call goes on behind the last whole file, and a finished
    set is only checked.

    Raises:
        UsageError: for a run without generators, a teacher that is not there or another, or a folder in use otherwise.
        CorruptError: if the bank or what is in ``out`` is damaged.
    """
    if images < 1:
        raise UsageError(f"--images {images}: a set has 1 image or more")
    home, recipe = _find_generators(run)
    workspace = Workspace(data_root, home.parent)
    spec = spec_of(recipe.data, workspace)
    device = World.current().device
    source: Rows
    if (home / FOLDER).is_dir():
        bank = open_bank(home)
        teacher, digest = _teacher_of(bank, recipe, spec, workspace)
        told = hashlib.sha256(json.dumps(dict(bank.about), sort_keys=True).encode()).hexdigest()
        source = BankRows(bank, recipe.seed, device)
    else:
        source = MethodRows(home, recipe, workspace)
        teacher, digest, told = source.teacher, source.teacher_sha256, source.sha256
    facts = {"bank": home.name, "bank_sha256": told, "teacher_sha256": digest, "seed": str(recipe.seed)}
    folder = SyntheticFolder(out, spec, images, facts)
    with alone_in(out):
        present = folder.present()
        finished = len(present) == len(folder.files) and (out / MANIFEST).is_file()
        if finished:
            logger.info("%s is finished already: checking its files", out)
            _verify(out)
        else:
            (out / MANIFEST).unlink(missing_ok=True)
            bounds = folder.read_range(present[0]) if present else PixelRange.of(sample(source))
            shown = replace(spec, mean=bounds.mean, std=bounds.std)
            teacher = teacher.to(device)
            for path, rows in folder.files.items():
                if path in present:
                    continue
                pixels, labels, logits = _make(source, teacher, shown, bounds, rows)
                folder.write(path, pixels, labels, logits, bounds)
                logger.info("%s: images %s to %s of %s", path.name, f"{rows[0]:,}", f"{rows[-1]:,}", f"{images:,}")
            _write_manifest(folder, bounds)
    return {
        "set": out.resolve().name,
        "folder": str(out),
        "images": images,
        "files": len(folder.files),
        "written": 0 if finished else len(folder.files) - len(present),
        **facts,
    }


def make_frozen_sets(recipe: Recipe, world: World, workspace: Workspace) -> int:
    """Make, on rank 0, what is missing of the frozen sets that a recipe names; every worker must call it.

    Who else wants the same set waits and finds it made.

    Returns:
        How many images are in the sets that were made now.

    Raises:
        RaykdError: on all workers, as ``synthesize``.
    """
    made = world.agree(
        lambda: sum(_make_frozen_set(generators, workspace) for generators in frozen_sets(recipe)), on_first=True
    )
    folders = [set_folder(generators, workspace.store) for generators in frozen_sets(recipe)]
    workspace.pull([folder.relative_to(workspace.store).as_posix() for folder in folders], world)
    return made


def _make_frozen_set(generators: BankConfig, workspace: Workspace) -> int:
    assert generators.images is not None, "it is a frozen set"
    folder = set_folder(generators, workspace.store)
    name = folder.relative_to(workspace.store).as_posix()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workspace.pull([name], World.alone())
        if (folder / MANIFEST).is_file():
            return 0
        source = generators_run(generators)
        run = workspace.store / (source.run_id if source else str(generators.run))
        if not (run / FOLDER).is_dir():  # a generator beside a student is in the checkpoint
            workspace.pull([run.name], World.alone(), checkpoints="all")
        logger.info("%s images of %s are made once and kept", f"{generators.images:,}", run.name)
        synthesize(run, generators.images, folder, workspace.data)
        workspace.push(name, World.alone())
    return generators.images


def _find_generators(run: Path) -> tuple[Path, Recipe]:
    """Return the directory of the run that trained the generators, with its recipe."""
    recipe = _recipe_of(run)
    run = run.resolve()
    if (run / FOLDER).is_dir() or makes_images(recipe):
        return run, recipe
    if recipe.bank is None:
        raise UsageError(
            f"run {run.name} has no bank of generators, nor did it learn from one; give the directory of a run whose "
            "recipe trains generators, or of a student of a bank (`raykd list recipes`)"
        )
    source = bank_run(recipe)
    home = run.parent / (recipe.bank.run or "" if source is None else source.run_id)
    if not (home / FOLDER).is_dir() and not ((home / "recipe.yaml").is_file() and makes_images(_recipe_of(home))):
        raise UsageError(
            f"run {run.name} learned from the bank of run {home.name}, which is not beside it in {run.parent}; "
            "give the directory of that run"
        )
    return home, _recipe_of(home)


def _recipe_of(run: Path) -> Recipe:
    file = run / "recipe.yaml"
    if not file.is_file():
        kind = "is not a run directory: it has no" if run.is_dir() else "does not exist; no"
        raise UsageError(f"{run} {kind} {file.name}; give the directory that `raykd train` printed")
    try:
        return recipe_from_dict(load_yaml(file))
    except UsageError as error:
        raise CorruptError(f"{run.name}/{file.name} is damaged: {error}") from error


def _teacher_of(bank: BankFiles, recipe: Recipe, spec: DataSpec, workspace: Workspace) -> tuple[Teacher, str]:
    if not bank.matches(spec):
        raise UsageError(
            f"the bank in {bank.folder.parent.name} was trained for other images than data {spec.name!r} has now "
            f"({spec.num_classes} classes, {spec.channels}x{spec.size}x{spec.size}, {spec.mean}/{spec.std}); "
            "bring the data set back, or train the bank again"
        )
    if recipe.teacher is None:
        raise CorruptError(f"{bank.folder.parent.name}/recipe.yaml names no teacher; restore it")
    teacher, digest = load_teacher(recipe.teacher, spec, workspace)
    if digest != bank.about["teacher_sha256"]:
        raise UsageError(
            f"the teacher's weights are not those that the bank in {bank.folder.parent.name} was trained against "
            f"(sha256 {bank.about['teacher_sha256']} then, {digest} now): put them back, or train the bank again"
        )
    return teacher, digest


def _make(
    source: Rows, teacher: Teacher, shown: DataSpec, bounds: PixelRange, rows: range
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one file's pixels, labels and teacher logits; ``shown`` normalises what is stored."""
    pixels = torch.empty(len(rows), shown.channels, shown.size, shown.size, dtype=torch.uint8)
    for places, images in source.images(rows):
        pixels[places] = bounds.store(images).cpu()
    device = next(teacher.parameters()).device
    logits = torch.empty(len(rows), shown.num_classes)
    with torch.no_grad():
        for some, answers in zip(pixels.split(source.batch), logits.split(source.batch), strict=True):
            answers.copy_(teacher(shown.normalise(some.to(device).float() / 255))[0])
    return pixels, source.asked(rows) if source.labelled else logits.argmax(1), logits


def _write_manifest(folder: SyntheticFolder, bounds: PixelRange) -> None:
    manifest = {
        "rows": folder.rows,
        **folder.facts,
        "normalisation": {"mean": bounds.mean, "std": bounds.std},
        "pixel_range": {"low": bounds.low, "high": bounds.high},
        "files": {path.name: _sha256(path) for path in folder.files},
    }
    write_text(folder.folder / MANIFEST, json.dumps(manifest, indent=1))


def _verify(folder: Path) -> None:
    try:
        sums = dict(json.loads((folder / MANIFEST).read_text())["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{folder / MANIFEST} is not readable ({error}); delete it and run this again") from error
    for name, expected in sums.items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise CorruptError(f"{folder / name} differs from its checksum; delete it and run this again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
