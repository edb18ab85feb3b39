"""Placeholders for runs that do not exist yet, so that others can be tried on them: right in size, random in content.

They are written into a store of their own, in which runs that do exist are links.
"""

from pathlib import Path

import torch

from raykd.artifacts.bank import finish_bank, open_bank, output_of, product_name, product_path, write_products
from raykd.artifacts.class_statistics import input_metadata, save_statistics
from raykd.artifacts.synthetic_set import PixelRange, SyntheticFolder
from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.build import build, build_network, build_spec, load_teacher
from raykd.errors import UsageError
from raykd.files import MANIFEST
from raykd.generators import GeneratorBank, GeneratorConfig
from raykd.methods.base import BankMethod
from raykd.models.moments import MomentTeacher
from raykd.models.permission import permit
from raykd.recipe.experiment import Experiment, ImageSet
from raykd.recipe.recipe import Recipe, without_test
from raykd.recipe.sections import CalibrationConfig, NetworkConfig
from raykd.spec import DataSpec
from raykd.store.checkpoint import save_weights
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

_BATCHES = 4  # of random images in place of a frozen set


def make_placeholders(experiment: Experiment, workspace: Workspace, store: Path) -> tuple[Experiment, list[str]]:
    """Fill ``store`` with what a run builds on; return the run to build there, and a note per placeholder.

    Raises:
        UsageError: where sections of the recipe do not fit together.
    """
    permit(experiment.networks)
    store.mkdir(parents=True, exist_ok=True)
    scratch = Workspace(workspace.data, store)
    notes = [*_supply_teacher(experiment, workspace, scratch), *_supply_bank(experiment, workspace, scratch)]
    experiment, more = _with_small_sets(experiment, workspace, scratch)
    return _with_statistics(experiment, workspace, scratch), [*notes, *more]


def _supply_teacher(experiment: Experiment, workspace: Workspace, scratch: Workspace) -> list[str]:
    source = experiment.teacher
    if source is None or source.recipe.student is None:
        return []
    if _link_if_present(workspace.run(source.run_id), scratch, workspace.run(source.run_id).student):
        return []
    run = scratch.run(source.run_id)
    if not run.path.is_dir():
        config = NetworkConfig(**source.recipe.student.model_dump(exclude={"weights"}))
        network = build_network(config, build_spec(source.recipe.data, workspace), workspace, "teacher")
        run.path.mkdir()
        save_weights(network.state_dict(), run.student)
    return [f"run {source.run_id} is not there: random weights stand in for its network"]


def _supply_bank(experiment: Experiment, workspace: Workspace, scratch: Workspace) -> list[str]:
    run_id, source = experiment.bank_id, experiment.bank
    if run_id is None or experiment.training_set is not None:
        return []
    if _link_if_present(workspace.run(run_id), scratch, workspace.run(run_id).bank / MANIFEST):
        return []
    if source is None:
        open_bank(workspace.run(run_id))  # says what is wrong with it
        return []
    prepared, _ = make_placeholders(source, workspace, scratch.store)
    built = build(prepared.with_recipe(without_test(prepared.recipe)), World.alone(), Runtime(), scratch)
    if not isinstance(built.method, BankMethod):
        raise UsageError(f"bank recipe {source.recipe.name!r} trains no bank of generators")
    manifest = built.method.products_manifest()
    member = one_member(manifest)
    first_class = manifest["classes"][0]
    run = scratch.run(run_id)
    run.path.mkdir()
    write_products(run, {product_name(first_class): member.member_state(first_class)})
    first = product_path(run, product_name(first_class))
    for cls in manifest["classes"][1:]:
        product_path(run, product_name(cls)).hardlink_to(first)
    finish_bank(run, {**manifest, "teacher_sha256": built.teacher_sha256}, World.alone())
    return [f"run {run_id} is not there: untrained generators stand in for its bank"]


def _with_small_sets(experiment: Experiment, workspace: Workspace, scratch: Workspace) -> tuple[Experiment, list[str]]:
    """Write random images in place of each frozen set that is missing; link each that exists."""
    notes, max_images = [], _BATCHES * experiment.recipe.schedule.global_batch
    spec = build_spec(experiment.recipe.data, workspace)
    for images in experiment.image_sets:
        real = workspace.store / images.name
        if (real / MANIFEST).is_file():
            link = scratch.store / images.name
            link.parent.mkdir(exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(real.absolute())
            continue
        small = images._replace(images=min(images.images, max_images))
        experiment = experiment.with_recipe(_with_fewer_images(experiment, images, small.images))
        _write_random_set(scratch.store / small.name, spec, small.images)
        notes.append(f"the set {real.name} is not there: {small.images:,} random images stand in for it")
    return experiment, notes


def _with_fewer_images(experiment: Experiment, images: ImageSet, count: int) -> Recipe:
    """Return the experiment's recipe with ``count`` images in each place of a frozen set."""
    recipe, fewer = experiment.recipe, {"images": count}
    if recipe.bank is not None and experiment.training_set == images:
        recipe = recipe.model_copy(update={"bank": recipe.bank.model_copy(update=fewer)})
    referees = tuple(
        config.model_copy(update=fewer) if one == images else config
        for config, one in zip(recipe.referees, experiment.referee_sets, strict=True)
    )
    return recipe.model_copy(update={"referee": referees or None})


def _write_random_set(folder: Path, spec: DataSpec, images: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = SyntheticFolder(folder, spec, images, {})
    bounds = PixelRange((-2.0,) * spec.channels, (2.0,) * spec.channels)
    for path, rows in files.files.items():
        pixels = torch.randint(256, (len(rows), spec.channels, spec.size, spec.size), dtype=torch.uint8)
        labels = torch.tensor(rows) % spec.num_classes
        files.write(path, pixels, labels, torch.zeros(len(rows), spec.num_classes), bounds)


def one_member(manifest: dict[str, object]) -> GeneratorBank:
    """Return a bank of the first member alone, freshly initialised."""
    classes, channels, size, conditions = (manifest[key] for key in ("classes", "channels", "size", "conditions"))
    assert isinstance(classes, list) and isinstance(channels, int), "a manifest"
    assert isinstance(size, int) and isinstance(conditions, int), "a manifest"
    config = GeneratorConfig.model_validate(manifest["generator"])
    output = output_of(manifest)
    bank = GeneratorBank(classes[:1], config, channels=channels, size=size, conditions=conditions, output=output)
    bank.initialise(0)
    return bank


def _with_statistics(experiment: Experiment, workspace: Workspace, scratch: Workspace) -> Experiment:
    """Write the teacher's running statistics in place of those by class: measuring these takes images and minutes."""
    recipe, source = experiment.recipe, experiment.teacher
    calibration = recipe.calibration
    if calibration is None or calibration.file is not None or recipe.teacher is None:
        return experiment
    if calibration.from_teacher and source and workspace.run(source.run_id).statistics.is_file():
        return experiment
    spec = build_spec(recipe.data, workspace)
    teacher, digest = load_teacher(experiment, spec, scratch)
    moments = MomentTeacher(teacher)
    rows = [(mean.expand(spec.num_classes, -1), var.expand(spec.num_classes, -1)) for mean, var in moments.running()]
    path = scratch.store / f"{experiment.run_id}.safetensors"
    with torch.no_grad():
        metadata = {"teacher_sha256": digest, "data": recipe.data.name, "split": "train", "per_class": 2}
        save_statistics(path, rows, moments.layers, {**metadata, **input_metadata(spec)})
    return experiment.with_recipe(recipe.model_copy(update={"calibration": CalibrationConfig(file=str(path))}))


def _link_if_present(run: RunDirectory, scratch: Workspace, required_file: Path) -> bool:
    """Link a run if ``required_file`` exists; tell whether it does."""
    link = scratch.store / run.path.name
    if not required_file.is_file():
        return False
    if not link.is_symlink():
        link.symlink_to(run.path.absolute())
    return True
