"""Stand-ins for runs that do not exist yet, so that what builds on them can be tried: right in size, random in content.

They are written into a store of their own, in which runs that do exist are links.
"""

from pathlib import Path

import torch

from raykd.artifacts.bank import finish_bank, open_bank, product_name, write_products
from raykd.artifacts.calibration import BY_PRODUCT
from raykd.artifacts.class_statistics import save_statistics
from raykd.artifacts.synthetic_set import MANIFEST, PixelRange, SyntheticFolder
from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.build import build, build_network, load_teacher, spec_of
from raykd.engine.synthetic_sets import set_folder
from raykd.errors import UsageError
from raykd.generators import GeneratorBank, GeneratorConfig
from raykd.methods.base import BankMethod
from raykd.models.moments import MomentTeacher
from raykd.recipe.recipe import Recipe, bank_run, teacher_run, without_test
from raykd.recipe.sections import BankConfig, CalibrationConfig, NetworkConfig
from raykd.spec import DataSpec
from raykd.store.checkpoint import save_weights
from raykd.store.workspace import Workspace

_WEIGHTS = "student.safetensors"
_BATCHES = 4  # of images that stand in for a frozen set


def make_placeholders(recipe: Recipe, workspace: Workspace, store: Path) -> tuple[Recipe, list[str]]:
    """Fill ``store`` with what the recipe builds on; return the recipe to build there, and what is a stand-in.

    Raises:
        UsageError: where sections of the recipe do not fit together.
    """
    store.mkdir(parents=True, exist_ok=True)
    told = [*_supply_teacher(recipe, workspace, store), *_supply_bank(recipe, workspace, store)]
    recipe, more = _with_small_sets(recipe, workspace, store)
    return _with_statistics(recipe, workspace, store), [*told, *more]


def _supply_teacher(recipe: Recipe, workspace: Workspace, store: Path) -> list[str]:
    source = teacher_run(recipe)
    if source is None or source.student is None or _linked(source.run_id, _WEIGHTS, workspace, store):
        return []
    folder = store / source.run_id
    if not folder.is_dir():
        plain = NetworkConfig(**source.student.model_dump(exclude={"weights"}))
        network = build_network(plain, spec_of(source.data, workspace), workspace, "teacher")
        folder.mkdir()
        save_weights(network.state_dict(), folder / _WEIGHTS)
    return [f"run {source.run_id} is not there: random weights stand in for its network"]


def _supply_bank(recipe: Recipe, workspace: Workspace, store: Path) -> list[str]:
    if recipe.bank is not None and recipe.bank.images is not None:
        return []
    source = bank_run(recipe)
    run_id = source.run_id if source else recipe.bank.run if recipe.bank else None
    if run_id is None or _linked(run_id, "bank/manifest.json", workspace, store):
        return []
    if source is None:
        open_bank(workspace.store / run_id)  # says what is wrong with it
        return []
    inner, _ = make_placeholders(source, workspace, store)
    built = build(without_test(inner), World.alone(), Runtime(), Workspace(workspace.data, store))
    if not isinstance(built.method, BankMethod):
        raise UsageError(f"bank recipe {source.name!r} trains no bank of generators")
    manifest = built.method.products_manifest()
    one = one_member(manifest)
    label = manifest["classes"][0]
    folder = store / run_id
    folder.mkdir()
    write_products(folder, {product_name(label): one.member_state(label)})
    first = folder / "bank" / f"{product_name(label)}.safetensors"
    for other in manifest["classes"][1:]:
        first.with_name(f"{product_name(other)}.safetensors").hardlink_to(first)
    finish_bank(folder, {**manifest, "teacher_sha256": built.teacher_sha256}, World.alone())
    return [f"run {run_id} is not there: untrained generators stand in for its bank"]


def _with_small_sets(recipe: Recipe, workspace: Workspace, store: Path) -> tuple[Recipe, list[str]]:
    """Let random images stand in for a frozen set that is not there, or link the one that is."""
    told, most = [], _BATCHES * recipe.schedule.global_batch
    spec = spec_of(recipe.data, workspace)
    for role in ("bank", "referee"):
        generators: BankConfig | None = getattr(recipe, role)
        if generators is None or generators.images is None:
            continue
        real = set_folder(generators, workspace.store)
        if (real / MANIFEST).is_file():
            (store / real.parent.name).mkdir(exist_ok=True)
            if not (link := store / real.parent.name / real.name).is_symlink():
                link.symlink_to(real.absolute())
            continue
        small = generators.model_copy(update={"images": min(generators.images, most)})
        recipe = recipe.model_copy(update={role: small})
        _write_random_set(set_folder(small, store), spec, min(generators.images, most))
        told.append(f"the set {real.name} is not there: {min(generators.images, most):,} random images stand in for it")
    return recipe, told


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
    bank = GeneratorBank(classes[:1], config, channels=channels, size=size, conditions=conditions)
    bank.initialise(0)
    return bank


def _with_statistics(recipe: Recipe, workspace: Workspace, store: Path) -> Recipe:
    """Let the teacher's running statistics stand in for those by class: measuring these takes images and minutes."""
    wanted, source = recipe.calibration, teacher_run(recipe)
    if wanted is None or wanted.file is not None or recipe.teacher is None:
        return recipe
    if wanted.from_teacher and source and (workspace.store / source.run_id / BY_PRODUCT).is_file():
        return recipe
    spec = spec_of(recipe.data, workspace)
    teacher, digest = load_teacher(recipe.teacher, spec, Workspace(workspace.data, store))
    moments = MomentTeacher(teacher)
    rows = [(mean.expand(spec.num_classes, -1), var.expand(spec.num_classes, -1)) for mean, var in moments.running()]
    path = store / f"{recipe.run_id}.safetensors"
    with torch.no_grad():
        about = {"teacher_sha256": digest, "data": recipe.data.name, "split": "train", "per_class": 2}
        save_statistics(path, rows, moments.layers, {**about, "mean": spec.mean, "std": spec.std})
    return recipe.model_copy(update={"calibration": CalibrationConfig(file=str(path))})


def _linked(run_id: str, proof: str, workspace: Workspace, store: Path) -> bool:
    """Link a run that exists; tell whether it does."""
    there, link = workspace.store / run_id, store / run_id
    if not (there / proof).is_file():
        return False
    if not link.is_symlink():
        link.symlink_to(there.absolute())
    return True
