"""Write a synthetic set from a run's generators: images, their target classes, and the teacher's logits.

Files are written one by one: what is held in memory is one file's content, one group of members, one batch of images.
"""

import hashlib
import json
import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from raykd.artifacts.bank import BankFiles, open_bank
from raykd.artifacts.synthetic_set import PixelRange, SyntheticFolder, locked_folder
from raykd.distributed.world import World
from raykd.engine.build import build_spec, load_teacher
from raykd.engine.disk import set_bytes
from raykd.engine.image_sources import BankSource, ImageSource, MethodSource, PoolSource, makes_images
from raykd.errors import CorruptError, UsageError
from raykd.files import (
    MANIFEST,
    damaged,
    is_file,
    locked,
    make_folder,
    parse_content,
    read_json,
    sha256_of,
    write_json,
    writing,
)
from raykd.methods import METHODS
from raykd.methods.base import PoolMethod
from raykd.models.permission import permit, require_permission
from raykd.models.teacher import Teacher
from raykd.recipe.experiment import Experiment, ImageSet, check_pool_images
from raykd.results import SyntheticSet
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.space import require_room
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)


def synthesize(
    run: RunDirectory, images: int, out: Path, data_root: Path | None, world: World, *, allow_code: bool = False
) -> SyntheticSet:
    """Write a set of so many images of a run's generators to ``out``, or what is missing of it; return what it is.

    ``run`` is the directory of a bank's run, of a run that learned from a bank in the same store, or of a finished run
    whose method trains a generator beside its student or keeps a pool of images. The same call continues after the last
    whole file, and a finished set is only checked. With ``allow_code`` code that the runs name may run.

    Raises:
        CodeRefused: for networks whose code nobody has permitted.
        UsageError: for a run without generators or with fewer images, a teacher that is not there or another, or a
            folder in use otherwise.
        CorruptError: if the bank or what is in ``out`` is damaged.
        SetupError: if the disk does not take the set.
    """
    if images < 1:
        raise UsageError(f"images is {images}; a set has 1 image or more")
    origin = find_generators(run)
    experiment, workspace = origin.experiment(), Workspace(data_root, origin.path.resolve().parent)
    if allow_code:
        permit(experiment.networks, remember=False)
    check_pool_images(experiment.recipe, images)
    source, teacher, facts = open_source(origin, workspace, world)
    spec = build_spec(experiment.recipe.data, workspace)
    folder = SyntheticFolder(out, spec, images, facts, origin.data_opened())
    with locked_folder(out):
        present = folder.present()
        finished = len(present) == len(folder.files) and is_file(out / MANIFEST)
        if finished:
            logger.info("%s is finished already: checking its files", out)
            _verify(out)
        else:
            folder.check(present)
            missing = sum(len(rows) for path, rows in folder.files.items() if path not in present)
            largest = max(map(len, folder.files.values()))
            elsewhere = "name another disk's folder"
            require_room(f"the set {out.name}", out, set_bytes(missing, spec), set_bytes(largest, spec), elsewhere)
            with writing(f"into {out}"):
                (out / MANIFEST).unlink(missing_ok=True)
            bounds = folder.read_range(present[0]) if present else source.pixel_range()
            stored_spec = replace(spec, mean=bounds.mean, std=bounds.std)
            teacher = teacher.to(world.device)
            for path, rows in folder.files.items():
                if path in present:
                    continue
                pixels, labels, logits = _make_file(source, teacher, stored_spec, bounds, rows)
                folder.write(path, pixels, labels, logits, bounds)
                logger.info("%s: images %s to %s of %s", path.name, f"{rows[0]:,}", f"{rows[-1]:,}", f"{images:,}")
            _write_manifest(folder, bounds)
    return SyntheticSet(
        set=out.resolve().name,
        folder=str(out),
        images=images,
        files=len(folder.files),
        written=0 if finished else len(folder.files) - len(present),
        **facts,
    )


def open_source(
    origin: RunDirectory, workspace: Workspace, world: World
) -> tuple[ImageSource, Teacher, dict[str, str]]:
    """Return the images of a run that has generators or a pool, its teacher, and which images these are.

    Raises:
        CodeRefused: for networks whose code nobody has permitted.
        UsageError: if it is not finished, or its teacher is not there or another.
        CorruptError: if what it has is damaged.
    """
    experiment = origin.experiment()
    for network in experiment.networks:
        require_permission(network, f"run {origin.name}")
    recipe, spec = experiment.recipe, build_spec(experiment.recipe.data, workspace)
    source: ImageSource
    if issubclass(METHODS[recipe.method.name], PoolMethod):
        source = PoolSource(origin, spec)
        teacher, digest = load_teacher(experiment, spec, workspace, sha256=source.teacher_sha256)
        source_sha256 = source.sha256
    elif origin.has_bank or not makes_images(recipe):
        bank = open_bank(origin)
        teacher, digest = _load_bank_teacher(bank, experiment, spec, workspace)
        source_sha256 = hashlib.sha256(json.dumps(dict(bank.manifest), sort_keys=True).encode()).hexdigest()
        source = BankSource(bank, recipe.seed, world.device)
    else:
        source = MethodSource(origin, world, workspace)
        teacher, digest, source_sha256 = source.teacher, source.teacher_sha256, source.sha256
    facts = {"bank": origin.name, "bank_sha256": source_sha256, "teacher_sha256": digest, "seed": str(recipe.seed)}
    return source, teacher, facts


def make_image_sets(experiment: Experiment, world: World, workspace: Workspace) -> int:
    """Make, on rank 0, what is missing of the frozen sets that a run uses; every worker must call it.

    Another process that needs the same set waits and finds it finished.

    Returns:
        How many images are in the sets that were made now.

    Raises:
        RaykdError: on all workers, as ``synthesize``.
    """
    permit(experiment.networks)
    sets = experiment.image_sets
    # Rank 0 works alone here: a collective of the run's world would wait for the others.
    single = World.alone(world.device, world.precision)
    count = world.agree(lambda: sum(_make_image_set(images, workspace, single) for images in sets), on_first=True)
    workspace.pull([images.name for images in sets], world)
    return count


def _make_image_set(images: ImageSet, workspace: Workspace, world: World) -> int:
    folder, run = workspace.store / images.name, workspace.run(images.run)
    with ExitStack() as held:
        with writing(f"the set {images.name} into {workspace.store}"):
            make_folder(folder.parent)
            held.enter_context(locked(folder.parent / f".{folder.name}.lock", wait=True))
        workspace.pull([images.name], world)
        if is_file(folder / MANIFEST):
            return 0
        if not run.has_bank:  # a generator beside a student is in the checkpoint
            workspace.pull([images.run], world, checkpoints="all")
        logger.info("%s images of %s are made once and kept", f"{images.images:,}", images.run)
        synthesize(run, images.images, folder, workspace.data, world)
        workspace.push(images.name, world)
    return images.images


def find_generators(run: RunDirectory) -> RunDirectory:
    """Return the directory of the run that trained the generators of a run, itself if that has some.

    Raises:
        UsageError: if there are none, or their run is not beside it.
    """
    experiment = run.experiment()
    if run.has_bank or experiment.recipe.student is None or makes_images(experiment.recipe):
        return run
    if experiment.bank_id is None:
        raise UsageError(
            f"run {run.name} has no bank of generators, nor did it learn from one; give the directory of a run whose "
            "recipe trains generators, or of a student of a bank (`raykd list recipes`)"
        )
    store = run.path.resolve().parent
    origin = RunDirectory(store / experiment.bank_id)
    if not origin.exists:
        raise UsageError(
            f"run {run.name} learned from the bank of run {origin.name}, which is not beside it in {store}; "
            "give the directory of that run"
        )
    return origin


def _load_bank_teacher(
    bank: BankFiles, experiment: Experiment, spec: DataSpec, workspace: Workspace
) -> tuple[Teacher, str]:
    if not bank.matches(spec):
        raise UsageError(
            f"the bank in {bank.folder.parent.name} was trained for other images than data {spec.name!r} has now "
            f"({spec.num_classes} classes, {spec.channels}x{spec.size}x{spec.size}, {spec.mean}/{spec.std}); "
            "bring the data set back, or train the bank again"
        )
    if experiment.recipe.teacher is None:
        raise CorruptError(f"the recipe of run {bank.folder.parent.name} names no teacher; restore it")
    return load_teacher(experiment, spec, workspace, sha256=bank.manifest.get("teacher_sha256"))


def _make_file(
    source: ImageSource, teacher: Teacher, stored_spec: DataSpec, bounds: PixelRange, rows: range
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one file's pixels, labels and teacher logits; ``stored_spec`` normalises the pixels as stored."""
    pixels = torch.empty(len(rows), stored_spec.channels, stored_spec.size, stored_spec.size, dtype=torch.uint8)
    for positions, images in source.images(rows):
        pixels[positions] = bounds.store(images).cpu()
    device = next(teacher.parameters()).device
    logits = torch.empty(len(rows), stored_spec.num_classes)
    with torch.no_grad():
        for batch, answers in zip(pixels.split(source.batch), logits.split(source.batch), strict=True):
            answers.copy_(teacher(stored_spec.normalise(batch.to(device).float() / 255))[0])
    return pixels, source.targets(rows) if source.labelled else logits.argmax(1), logits


def _write_manifest(folder: SyntheticFolder, bounds: PixelRange) -> None:
    manifest = {
        "rows": folder.rows,
        **folder.facts,
        "normalisation": {"mean": bounds.mean, "std": bounds.std},
        "pixel_range": {"low": bounds.low, "high": bounds.high},
        "files": {path.name: sha256_of(path) for path in folder.files},
    }
    with writing(f"{MANIFEST} into {folder.folder}"):
        write_json(folder.folder / MANIFEST, manifest)


def _verify(folder: Path) -> None:
    advice = "delete it and run this again"
    manifest = read_json(folder / MANIFEST, advice)
    sums = parse_content(folder / MANIFEST, advice, lambda: dict(manifest["files"]))
    for name, expected in sums.items():
        if not is_file(folder / name) or sha256_of(folder / name) != expected:
            raise damaged(folder / name, "it differs from its checksum", advice)
