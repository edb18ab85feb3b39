"""The student of a run directory as a network, for whoever wants to use it; needs nothing but that directory."""

import json
from pathlib import Path

import torch
from torch import nn

from raykd.engine.build import build_network, build_spec
from raykd.errors import UsageError
from raykd.files import parse_content
from raykd.models.in_memory import copy_network
from raykd.models.permission import permit
from raykd.models.student import Student
from raykd.models.weights import load_weights
from raykd.recipe.sections import NetworkConfig
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tasks.evaluate import build_student, open_run
from raykd.tensors import DESCRIPTION, read_tensor_file

_RESTORE = "give the file itself, or restore it from a backup"


def load_student(run: RunDirectory, network: nn.Module | None = None, *, allow_code: bool = False) -> Student:
    """Return the student that counts of a run, finished or not, on the CPU; no random state is touched.

    Args:
        run: its directory.
        network: of the student's architecture, where the recipe names one that only its program knew; it is copied.
        allow_code: whether a factory that the run names may run.

    Raises:
        CodeRefused: if its architecture is code that nobody has permitted, and there is no graph of it.
        UsageError: if it is no run directory, nothing is saved in it yet, or the architecture is not known here.
        CorruptError: if what it holds is damaged.
    """
    outcome = open_run(run)
    config = outcome.experiment.recipe.student
    assert config is not None, "open_run found its weights"
    workspace = Workspace(None, run.path.resolve().parent)
    spec = run.data() or build_spec(outcome.experiment.recipe.data, workspace)
    if allow_code:
        permit([config], remember=False)
    if network is not None:
        student = copy_network(network)
    else:
        with torch.random.fork_rng(devices=[]):
            student = build_student(run, outcome, spec, workspace)
    outcome.load_into(student)
    return Student(student, spec)


def load_file(path: Path, network: nn.Module | str | None) -> Student:
    """Return the student of a bare ``student.safetensors``, which says how its input is normalised.

    Args:
        path: the file.
        network: its architecture, which the file does not say: a name of ``raykd list models``, or a network.

    Raises:
        UsageError: if the architecture is not given or another, or no run has written the file.
        CorruptError: if it is damaged.
    """
    description = read_tensor_file(path, _RESTORE)[0].get(DESCRIPTION)
    if description is None:
        raise UsageError(f"{path} does not say what its network wants to be shown: give a run's student.safetensors")
    if network is None:
        raise UsageError(f"{path} holds weights alone: give their architecture, as in student='lenet5'")
    spec = parse_content(path, _RESTORE, lambda: DataSpec.from_dict(json.loads(description)))
    if isinstance(network, str):
        student = _build(NetworkConfig(model=network), spec, Workspace(None, path.parent))
    else:
        student = copy_network(network)
    load_weights(student, path)
    return Student(student, spec)


def _build(config: NetworkConfig, spec: DataSpec, workspace: Workspace) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build_network(config, spec, workspace, "student")
