"""From a recipe to what the engine runs: networks by role, streams, evaluator. Opens data through the ledger."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd.artifacts.bank import load_bank, open_bank, require_run
from raykd.artifacts.calibration import class_statistics
from raykd.artifacts.embeddings import read_embeddings
from raykd.config.data_root import find_file
from raykd.config.runtime import Runtime
from raykd.data.datasets import data_spec, find_split
from raykd.data.index import best_rows
from raykd.data.ledger import OpenedData
from raykd.data.streams import TrainStream
from raykd.distributed.phases import PhaseClock
from raykd.distributed.world import World, mix
from raykd.engine.class_subset import build_for_subset
from raykd.engine.compiling import choose_compiler
from raykd.engine.evaluator import Evaluator
from raykd.engine.finite import check_teacher
from raykd.engine.loaders import StreamContext, holdout_evaluator, open_streams, sources
from raykd.engine.referee import Referee, open_referee
from raykd.engine.synthetic_sets import on_stored_sets
from raykd.engine.teacher_check import judge_teacher
from raykd.errors import CorruptError, MissingPackage, UsageError
from raykd.files import is_file, sha256_of
from raykd.methods import METHODS, Method
from raykd.methods.base import MethodContext
from raykd.models import build_model
from raykd.models.adapters import adapt, check_images, materialise
from raykd.models.compute import ComputeCounter
from raykd.models.factories import load_factory
from raykd.models.permission import permit, require_permission
from raykd.models.published import TIMM, TRANSFORMERS, is_published, published_file
from raykd.models.teacher import Teacher
from raykd.models.weights import load_weights
from raykd.models.weights_file import sum_of_weights
from raykd.recipe.experiment import Experiment, check_pool_images
from raykd.recipe.recipe import Recipe
from raykd.recipe.sections import DataConfig, NetworkConfig, TeacherConfig
from raykd.spec import DataSpec
from raykd.store.workspace import STORED, Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """Everything ``fit`` needs, and what the run records about its data and its teacher."""

    method: Method
    streams: dict[str, TrainStream]
    teacher: Teacher | None
    evaluator: Evaluator
    referee: Referee | None
    opened: OpenedData
    spec: DataSpec
    teacher_sha256: str | None
    embeddings_sha256: str | None
    """Of the file of labels' embeddings that the method's configuration names, if it does."""
    warnings: list[str]
    """What speaks against every figure of the run before its first step."""


def check(experiment: Experiment, world: World, workspace: Workspace) -> None:
    """Find cheap mistakes before anything is trained for this recipe, its teacher included.

    Raises:
        UsageError: as ``build``, for the batch, the data's description, the student, runs and files that are not there.
    """
    recipe = experiment.recipe
    permit(experiment.networks)
    _check_named_runs(recipe, world, workspace)
    workspace.pull_data(recipe)
    spec = build_spec(recipe.data, workspace)
    data = workspace.located(recipe.data)
    recipe = recipe.model_copy(update={"data": data})
    _check_batch(recipe, spec, world)
    splits = {} if experiment.training_set else dict.fromkeys((name, "train") for name in sources(recipe).values())
    for name, split in [*splits, *([(data.name, "test")] if data.test else [])]:
        find_split(name, split, workspace.data)
    if data.ood is not None and data.ood_index is not None:
        best_rows(data.ood_index, data.ood, data.ood_images, workspace.data, None)
    if recipe.student is not None:
        build_network(recipe.student, spec, workspace, "student")


def _check_named_runs(recipe: Recipe, world: World, workspace: Workspace) -> None:
    """Refuse a recipe whose bank or referee names a run that does not exist."""
    for generators in (recipe.bank, *recipe.referees):
        if generators is not None and generators.run is not None:
            workspace.pull([generators.run], world)
            run = workspace.run(generators.run)
            if generators.images is None:
                open_bank(run)
            else:
                require_run(run)
                check_pool_images(run.experiment().recipe, generators.images)


def build(
    experiment: Experiment,
    world: World,
    runtime: Runtime,
    workspace: Workspace,
    *,
    trained_against: str | None = None,
) -> Built:
    """Build a run. A stream that the method does not declare is never constructed.

    ``trained_against`` is the sha256 of its teacher's weights, where it has been trained; see ``load_teacher``.

    Raises:
        UsageError: where recipe, data and networks do not fit together, or the teacher answers all images alike.
    """
    clock = PhaseClock(world.device)
    workspace.pull_data(experiment.recipe)
    spec = build_spec(experiment.recipe.data, workspace)
    experiment = on_stored_sets(experiment, workspace)
    recipe = experiment.recipe
    _check_batch(recipe, spec, world)
    torch.manual_seed(mix(recipe.seed, 0))
    method_class = METHODS[recipe.method.name]
    teacher, teacher_sha256, probes = None, None, None
    networks: dict[str, nn.Module] = {}
    if recipe.student is not None:
        student = recipe.student
        network = world.agree(lambda: build_network(student, spec, workspace, "student"))
        networks["student"] = network.to(world.device)
    if "teacher" in method_class.roles:
        if recipe.teacher is None:
            raise UsageError(f"recipe {recipe.name!r} needs a 'teacher' section for its method")
        teacher, teacher_sha256 = world.agree(lambda: load_teacher(experiment, spec, workspace, sha256=trained_against))
        networks["teacher"] = teacher = teacher.to(world.device)
        probes = world.agree(partial(check_teacher, teacher))
    if recipe.bank is not None:
        networks["bank"] = load_bank(experiment, spec, world, runtime, workspace)
    opened = OpenedData(workspace.data)
    _inherit_ledgers(experiment, opened, workspace)
    statistics = None
    if recipe.calibration is not None:
        assert teacher is not None, "calibration is a teacher's"
        statistics = class_statistics(experiment, teacher, teacher_sha256, spec, world, opened, workspace)
    stream_context = StreamContext(
        recipe, spec, world, runtime, workspace.data, workspace.store, opened, teacher, teacher_sha256
    )
    streams = open_streams(stream_context)
    test = None
    if recipe.data.test:
        data = recipe.data
        test = world.agree(lambda: opened.open_test(data.name, spec, data.buffer))
    embeddings, embeddings_sha256 = world.agree(lambda: _embeddings(recipe, spec, workspace))
    compute = ComputeCounter()
    images = recipe.schedule.steps * recipe.schedule.global_batch // world.size
    compiler = clock.timing(compute.counting(choose_compiler(runtime.compile, world.device, images)), teacher)
    context = MethodContext(
        spec=spec,
        world=world,
        networks=networks,
        student_optim=recipe.student_optim,
        steps=recipe.schedule.steps,
        global_batch=recipe.schedule.global_batch,
        seed=recipe.seed,
        compiler=compiler,
        runtime=runtime,
        statistics=statistics,
        mirrored=_is_mirrored(experiment),
        compute=compute,
        clock=clock,
        embeddings=embeddings,
    )
    torch.manual_seed(mix(recipe.seed, 1))
    method = method_class(recipe.method, context)
    referee = open_referee(experiment, spec, world, teacher, opened, workspace)
    evaluator = Evaluator(
        test, spec, world, teacher, {"holdout": holdout_evaluator(stream_context), "referee": referee}
    )
    warnings = [] if probes is None else judge_teacher(probes, evaluator, world)
    return Built(
        method, streams, teacher, evaluator, referee, opened, spec, teacher_sha256, embeddings_sha256, warnings
    )


def check_referee(experiment: Experiment, world: World, workspace: Workspace) -> None:
    """Refuse a referee whose images are there and of few classes, before students are trained for it to judge.

    Raises:
        RunFailed: naming the runs that made them.
    """
    if experiment.referee_sets:
        spec = build_spec(experiment.recipe.data, workspace)
        teacher = load_teacher(experiment, spec, workspace)[0].to(world.device)
        referee = open_referee(experiment, spec, world, teacher, OpenedData(workspace.data), workspace)
        assert referee is not None, "there are sets"
        referee.check()


def _inherit_ledgers(experiment: Experiment, opened: OpenedData, workspace: Workspace) -> None:
    """Record what the runs that this one builds on have opened: its generators', its referee's, and its teacher's."""
    for run_id in {experiment.bank_id, *experiment.referee_ids} - {None}:
        opened.inherit(workspace.run(str(run_id)).data_opened())
    if experiment.teacher is not None:
        opened.inherit(workspace.run(experiment.teacher.run_id).data_opened(), of_teacher=True)


def _check_batch(recipe: Recipe, spec: DataSpec, world: World) -> None:
    """Refuse a batch that leaves a worker, or a class, fewer images than batch normalisation needs."""
    batch = recipe.schedule.global_batch
    if METHODS[recipe.method.name].sharded_by == "classes":
        if batch % spec.num_classes or batch < 2 * spec.num_classes:
            times = max(2, batch // spec.num_classes)
            raise UsageError(
                f"schedule.global_batch {batch} must give each of the {spec.num_classes} classes equally many images, "
                f"2 or more: try {times * spec.num_classes}"
            )
        if world.size > spec.num_classes:
            raise UsageError(f"{world.size} workers share {spec.num_classes} classes: use {spec.num_classes} or fewer")
        return
    if METHODS[recipe.method.name].sharded_by == "jobs":
        return
    share = world.share(recipe.schedule.global_batch)
    if share < 2:
        raise UsageError(
            f"schedule.global_batch {recipe.schedule.global_batch} leaves {share} image to each of "
            f"{world.size} workers; batch normalisation needs 2 or more"
        )


def build_spec(data: DataConfig, workspace: Workspace) -> DataSpec:
    """Return the spec of the recipe's data: from the recipe if it states it in full, else from the data set."""
    if data.num_classes is not None and data.channels is not None and data.size is not None:
        half = (0.5,) * data.channels
        return DataSpec(
            data.name,
            data.num_classes,
            data.channels,
            data.size,
            data.mean or half,
            data.std or half,
            pad=data.pad,
            class_names=data.class_names,
            normalisation_known=data.mean is not None and data.std is not None,
            crop_pct=data.crop_pct or 1.0,
        )
    folder = workspace.located(data).name
    spec = data_spec(
        folder,
        data_root=workspace.data,
        size=data.size,
        mean=data.mean,
        std=data.std,
        pad=data.pad,
        crop_pct=data.crop_pct,
    )
    names = spec.class_names or data.class_names
    if names and len(names) != spec.num_classes:
        raise UsageError(
            f"data.class_names, given or those of the teacher, are {len(names)}, and {data.name!r} has "
            f"{spec.num_classes} classes: they must be as many"
        )
    return replace(spec, name=data.name, class_names=names)  # wherever the store lies


def build_network(config: NetworkConfig | TeacherConfig, spec: DataSpec, workspace: Workspace, role: str) -> nn.Module:
    """Build a network by name or the user's factory, with its weights if the recipe names a file.

    Raises:
        CodeRefused: if nobody has permitted the code of its factory.
        UsageError: if it does not take the data's images, or its logits are not one per class of the data.
    """
    if spec.part_of is not None and config.weights is not None and role == "teacher":
        build_teacher = partial(build_network, workspace=workspace, role=role)
        return build_for_subset(config, spec, spec.part_of, build_teacher)
    sizes = {"num_classes": spec.num_classes, "channels": spec.channels, "size": spec.size}
    shape = (spec.channels, spec.size, spec.size)
    if config.factory is not None:
        require_permission(config, f"the {role}")
        network = load_factory(config.factory, config.factory_args, **sizes)
        materialise(network, shape, role)
    else:
        assert config.model is not None, "validated by the recipe"
        try:
            network = _build_by_name(config, **sizes)
        except UsageError as error:
            raise UsageError(f"{role} {config.model}: {error}") from None
    if config.weights is not None:
        _load(network, config, find_weights(config, workspace))
    if config.factory is not None or str(config.model).startswith((TIMM, TRANSFORMERS)):  # written by others
        return adapt(network, shape, spec.num_classes, role, config.output)
    check_images(network, shape, role)
    return network.to(memory_format=torch.channels_last)  # the faster layout for convolutions


def _load(network: nn.Module, config: NetworkConfig | TeacherConfig, file: Path) -> None:
    if str(config.model).startswith(TRANSFORMERS):
        from raykd.models.transformers_folder import load_saved

        load_saved(network, file)
    else:
        load_weights(network, file, entry=config.entry, map_keys=config.map_keys)


def _build_by_name(config: NetworkConfig | TeacherConfig, **sizes: int) -> nn.Module:
    assert config.model is not None, "validated by the recipe"
    if isinstance(config, TeacherConfig) and config.model.startswith(TRANSFORMERS):
        from raykd.models.transformers_folder import build_transformers

        return build_transformers(
            config.architecture, config.model, num_classes=sizes["num_classes"], channels=sizes["channels"]
        )
    return build_model(config.model, **sizes)


_OWN_FILE: Mapping[str, Any] = {"entry": None, "map_keys": "name"}
"""How files that raykd has written are read, whatever the user's own needed."""


def load_teacher(
    experiment: Experiment, spec: DataSpec, workspace: Workspace, *, sha256: str | None = None
) -> tuple[Teacher, str]:
    """Return the frozen teacher and the sha256 of its weights.

    Args:
        experiment: whose teacher is meant.
        spec: the data's.
        workspace: where its run, or its weights, are.
        sha256: of the weights that a run was trained against. Where the recipe's file is gone, damaged or holds
            others, the copy that the store keeps of these is taken.

    Raises:
        UsageError: if there is no such teacher, or teacher and data differ in classes, channels, size or normalisation.
        CorruptError: if its weights are damaged.
    """
    config, source = experiment.recipe.teacher, experiment.teacher
    assert config is not None, "asked of recipes with a teacher"
    if source is None:
        weights, digest, is_copy = _teacher_weights(config, sha256, workspace)
    else:
        is_copy = False
        config = _trained_network(source, spec, workspace)
        run = workspace.run(source.run_id)
        weights = run.student
        if not is_file(weights):
            raise UsageError(
                f"the teacher's run {source.run_id} has no {weights.name} in {workspace.store}: train it, or put its "
                "run beside this one"
            )
        digest = sha256_of(weights)
        if digest != sha256:  # of which the caller knows
            run.check_student(source.recipe)
    if sha256 not in (None, digest):
        raise UsageError(
            f"the teacher's weights are not those that run {experiment.run_id} was trained against (sha256 {sha256} "
            f"then, {digest} now): put them back"
        )
    update: dict[str, Any] = {"weights": str(weights)}
    if is_copy:
        update |= _OWN_FILE
    network = build_network(config.model_copy(update=update), spec, workspace, "teacher")
    return Teacher(network, channels=spec.channels, size=spec.size), digest


def teacher_file_sum(experiment: Experiment, workspace: Workspace) -> str | None:
    """Return the sha256 of the file that a run's teacher would be read from now; None if there is no such file."""
    config, source = experiment.recipe.teacher, experiment.teacher
    if config is None:
        return None
    try:
        return sum_of_weights(workspace.run(source.run_id).student if source else find_weights(config, workspace))
    except (FileNotFoundError, UsageError, MissingPackage):
        return None


def _trained_network(source: Experiment, spec: DataSpec, workspace: Workspace) -> TeacherConfig:
    """Return the config of the network that a teacher's run trained, if that run's data agree with ``spec``."""
    theirs = build_spec(source.recipe.data, workspace)
    if (theirs.channels, theirs.size, theirs.pad, theirs.num_classes, theirs.mean, theirs.std) != (
        spec.channels, spec.size, spec.pad, spec.num_classes, spec.mean, spec.std
    ):  # fmt: skip
        raise UsageError(
            f"teacher recipe {source.recipe.name!r} has {theirs.num_classes} classes of images "
            f"{theirs.channels}x{theirs.size}x{theirs.size} (pad {theirs.pad}) normalised by {theirs.mean}/"
            f"{theirs.std}; this recipe's data {spec.name!r} has {spec.num_classes} of {spec.channels}x{spec.size}x"
            f"{spec.size} (pad {spec.pad}) by {spec.mean}/{spec.std}. They must agree: set data.size, pad, mean and std"
        )
    if source.recipe.student is None:
        raise UsageError(f"teacher recipe {source.recipe.name!r} trains no network that could teach")
    # The file is given beside it: a run's own student began with whatever weights its recipe names.
    return TeacherConfig(**source.recipe.student.model_dump(exclude={"weights", *_OWN_FILE}), weights="student")


def _teacher_weights(config: TeacherConfig, sha256: str | None, workspace: Workspace) -> tuple[Path, str, bool]:
    """Return a teacher's weights file, its sha256, and whether it is the store's copy: of a file gone or changed."""
    try:
        weights = find_weights(config, workspace)
        digest = sum_of_weights(weights)
    except (UsageError, MissingPackage, CorruptError):
        stored_copy = None if sha256 is None else workspace.kept_weights(sha256)
        if stored_copy is None or sha256 is None:
            raise
        return stored_copy, sha256, True
    stored_copy = None if sha256 in (None, digest) else workspace.kept_weights(str(sha256))
    if stored_copy is None or sha256 is None:
        return weights, digest, False
    return stored_copy, sha256, True


def _embeddings(recipe: Recipe, spec: DataSpec, workspace: Workspace) -> tuple[Tensor | None, str | None]:
    """Return the embeddings of labels in the file that a method's configuration names, if it does, and its sha256."""
    file = _embeddings_file(recipe, workspace)
    return (None, None) if file is None else (read_embeddings(file, spec.num_classes), sum_of_weights(file))


def embeddings_file_sum(recipe: Recipe, workspace: Workspace) -> str | None:
    """Return the sha256 of the file that labels' embeddings would be read from now; None if there is no such file."""
    try:
        file = _embeddings_file(recipe, workspace)
        return None if file is None else sum_of_weights(file)
    except (FileNotFoundError, UsageError):
        return None


def _embeddings_file(recipe: Recipe, workspace: Workspace) -> Path | None:
    name = getattr(recipe.method, "embeddings", None)
    advice = "it is looked for from here and in the data root (RAYKD_DATA)"
    return None if name is None else find_file(name, workspace.data, "embeddings file", advice)


def find_weights(network: NetworkConfig | TeacherConfig, workspace: Workspace) -> Path:
    """Return the file of a network's weights: published ones in the cache of their package, any other by its name.

    Raises:
        UsageError: naming the paths tried.
        MissingPackage: the weights are those of a package that is not installed.
        CorruptError: published weights are damaged.
    """
    if network.weights is None:
        raise UsageError(f"{network.model} names no weights")
    if network.model is not None and is_published(network.model, network.weights):
        return published_file(network.model, network.weights)
    return find_weights_file(network.weights, workspace)


def find_weights_file(name: str, workspace: Workspace) -> Path:
    """Return the file of that name in the current directory, else under the data root; ``store:NAME`` is the store's.

    A recipe's file that lies beside it is named from the current directory already.

    Raises:
        UsageError: naming the paths tried.
    """
    if name.startswith(STORED):
        kept = workspace.kept_weights(name.removeprefix(STORED))
        if kept is None:
            raise UsageError(f"the weights {name!r} are not in {workspace.store}/weights: bring that folder along")
        return kept
    advice = "put it there or beside the recipe, or set the data root by RAYKD_DATA"
    return find_file(name, workspace.data, "weights file", advice)


def _is_mirrored(experiment: Experiment) -> bool:
    recipes = [experiment.recipe, *([experiment.teacher.recipe] if experiment.teacher is not None else [])]
    return any("flip" in recipe.data.augment for recipe in recipes)
