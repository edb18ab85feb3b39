"""Networks and images that a program holds in memory, as what a recipe names: the store keeps them as files.

So a run directory still holds its whole experiment: the run's id tells the weights and the images by their sums, and
the same call resumes. Only the code of a network that Python cannot import stays with the program.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from raykd.cluster.config import Site
from raykd.config.overrides import Overrides, as_pairs
from raykd.config.yaml_file import explain
from raykd.data.arrays import read_arrays, write_arrays
from raykd.distributed.host import preserved_process
from raykd.engine.build import build_spec
from raykd.errors import RaykdError, UsageError
from raykd.methods import METHODS
from raykd.models.factories import load_factory
from raykd.models.in_memory import PREFIX, register, same_network
from raykd.models.permission import permit
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.recipe.sections import DataConfig, TeacherConfig
from raykd.spec import DataSpec
from raykd.store.remote import is_remote
from raykd.store.workspace import STORED, Location, Workspace, local_folder, open_workspace

Network = str | Path | Mapping[str, Any] | nn.Module
"""A name, a section of a recipe, or a network."""
Images = Any
"""A data set's name or folder; or (images, labels), a torch Dataset, or a mapping of "train" and "test" to such."""

_SPLITS = {"train", "test"}
_NAMES = (str, Path, type(None))


def find_experiment(
    recipe: str | Path | Experiment, overrides: Overrides, seed: int | None, site: Site, given: Mapping[str, Any]
) -> Experiment:
    """Resolve what a caller names: a recipe, with overrides and a seed, of which some parts may be ``given``.

    Raises:
        UsageError: as ``experiment_of``, or if a resolved experiment is given more.
    """
    pairs = as_pairs(overrides) + ([] if seed is None else [f"seed={seed}"])
    asked = {name: value for name, value in given.items() if value is not None}
    if isinstance(recipe, Experiment):
        if pairs or asked:
            raise UsageError("an experiment is resolved already: give overrides and the like with a recipe's name")
        return recipe
    if not asked:
        return resolve(load_recipe(str(recipe), pairs))
    with preserved_process():
        return experiment_of(str(recipe), pairs, store=site.store, data_root=site.data_root, **asked)


def experiment_of(
    source: str,
    pairs: Sequence[str],
    *,
    store: Location,
    data_root: Location | None,
    teacher: Network | None = None,
    student: Network | None = None,
    data: Images | None = None,
    ood: Images | None = None,
) -> Experiment:
    """Resolve a recipe of which some parts are given by the caller, names or objects.

    ``pairs`` come last, so that ``data.mean`` says how a network in memory wants images normalised.

    Raises:
        UsageError: if an object is none that can be taken, or does not fit the recipe.
    """
    networks = any(isinstance(network, nn.Module) for network in (teacher, student))
    in_memory = networks or not all(isinstance(images, _NAMES) for images in (data, ood))
    if in_memory and is_remote(store):
        raise UsageError(
            f"what lies in memory is kept in the store as files, and {store} is an object store: give out=FOLDER"
        )
    workspace = open_workspace(store, data_root) if in_memory else Workspace(None, local_folder(store))
    overrides: list[str] = []
    if data is not None:
        streams = METHODS[load_recipe(source, pairs).method.name].streams
        overrides += _data_pairs(data, workspace, default_split="train" if "train" in streams else "test")
    if ood is not None:
        name = str(ood)
        if not isinstance(ood, str | Path):
            name, splits = _store_images(ood, workspace, default_split="train")
            if "train" not in splits:
                raise UsageError("ood is shown in training: give (images, labels), or {'train': ...}")
        overrides.append(_pair("data.ood", name))
    for role, network in (("teacher", teacher), ("student", student)):
        if isinstance(network, nn.Module):
            recipe = load_recipe(source, [*overrides, *pairs])
            workspace.pull_data(recipe, train=False)
            spec = build_spec(recipe.data, workspace)
            overrides.append(_pair(role, network_section(network, spec, workspace)))
        elif isinstance(network, Mapping):
            overrides.append(_pair(role, dict(network)))
        elif isinstance(network, str | Path):
            overrides.append(_pair(role, {"recipe" if role == "teacher" else "model": str(network)}))
        elif network is not None:
            raise UsageError(f"{role} is a {type(network).__name__}: give a name, a section, or an nn.Module")
    return resolve(load_recipe(source, [*overrides, *pairs]))


def network_section(network: nn.Module, spec: DataSpec, workspace: Workspace) -> dict[str, Any]:
    """Keep the weights of a network in the store; return the section that names them and its class."""
    factory = _importable_class(network, spec) or register(network)
    section = TeacherConfig(factory=factory, weights=workspace.keep_network(network))
    permit([section])
    return {"factory": section.factory, "weights": section.weights}


def data_section(data: Images, workspace: Workspace) -> DataConfig:
    """Return what a recipe says of a data set: one of a name, of images in memory, or a section as it stands.

    Raises:
        UsageError: for an unknown or a wrong field, or images that cannot be taken.
    """
    if isinstance(data, str | Path):
        return DataConfig(name=str(data))
    if isinstance(data, Mapping) and "name" in data:
        try:
            return DataConfig.model_validate(dict(data))
        except ValidationError as error:
            raise explain(error, "data", DataConfig, dict(data)) from None
    name, splits = _store_images(data, workspace, default_split="test")
    return DataConfig(name=name, test="test" in splits)


def refuse_networks_of_this_process(experiment: Experiment) -> None:
    """Refuse networks that only this process knows, for workers that are others.

    Raises:
        UsageError: naming the run.
    """
    for run in experiment.runs:
        for section in run.networks:
            if section.factory is not None and section.factory.startswith(PREFIX):
                raise UsageError(
                    f"run {run.run_id} has a network that only this process can make: train it without a cluster, or "
                    "put its class into a module that workers can import"
                )


def _pair(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


def _data_pairs(data: Images, workspace: Workspace, default_split: str) -> list[str]:
    if isinstance(data, str | Path):
        return [_pair("data.name", str(data))]
    name, splits = _store_images(data, workspace, default_split)
    described = {key: None for key in ("num_classes", "channels")}
    fields = {"name": name, "test": "test" in splits, **described}
    return [_pair(f"data.{key}", value) for key, value in fields.items()]


def _store_images(data: Images, workspace: Workspace, default_split: str) -> tuple[str, set[str]]:
    """Write images into the store; return their name there and the splits. A bare pair is of ``default_split``."""
    by_split = dict(data) if isinstance(data, Mapping) else {default_split: data}
    classes = by_split.pop("classes", None)
    if not by_split or not by_split.keys() <= _SPLITS:
        raise UsageError(f"data in memory has the splits {sorted(map(str, by_split))}; give 'train', 'test' or both")
    splits = {split: read_arrays(images) for split, images in by_split.items()}
    return STORED + write_arrays(workspace.store / "data", splits, classes), set(splits)


def _importable_class(network: nn.Module, spec: DataSpec) -> str | None:
    """Name the class of a network where Python, in any process, makes the same network of it."""
    kind = type(network)
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        return None
    target = f"{kind.__module__}:{kind.__qualname__}"
    images = torch.rand(2, spec.channels, spec.size, spec.size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.random.fork_rng(devices=[]):
            sizes = {"num_classes": spec.num_classes, "channels": spec.channels, "size": spec.size}
            network_of_class = load_factory(target, None, **sizes)
        return target if same_network(network_of_class, network, images) else None
    except RaykdError:
        return None
    except Exception:  # of the user's own code, which may want other arguments or images
        return None
