"""Plan a recipe for a cluster: a worker's memory and time, from trials on this machine. Importable without Ray."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from raykd.cluster.config import Cluster
from raykd.cluster.workers import fitting_workers
from raykd.distributed.memory import free_memory
from raykd.planning.plan import WorkerBudget, plan
from raykd.planning.predict import TrialSite
from raykd.recipe.experiment import Experiment
from raykd.results import Plan
from raykd.store.workspace import Workspace


def plan_on(experiment: Experiment, cluster: Cluster, *, store: Path, data_root: Path | None) -> Plan:
    """Return the plan of a recipe on the largest number of workers that the cluster allows and that fits.

    Raises:
        UsageError: if no allowed number of workers fits, or a worker's part needs more memory than it may use.
        RaykdError: as the run itself would.
    """
    fitting = fitting_workers(experiment, cluster)
    on_ray, workers = cluster.workers != 0, max(1, fitting[-1])
    threads = cluster.threads or (max(1, int(cluster.cpus_per_worker)) if on_ray else None)
    cores = os.cpu_count() or 1
    wants_gpu = cluster.gpus_per_worker > 0 or (not on_ray and torch.cuda.is_available())
    gpu = wants_gpu and torch.cuda.is_available()
    is_local = cluster.address == "local" or not on_ray
    environment = {"LOCAL_WORLD_SIZE": str(workers)} if is_local else {}
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # as Ray tells workers that asked for none
    site = TrialSite(
        workspace=Workspace(data_root and data_root.absolute(), store.absolute()),
        workers=workers,
        imports=("ray.train",) if on_ray and find_spec("ray") else (),
        environment=environment,
    )
    budget = WorkerBudget(
        workers=workers,
        memory=_memory(cluster, workers, is_local, gpu),
        gpus=cluster.gpus_per_worker if on_ray else float(gpu),
        cpus=cluster.cpus_per_worker if on_ray else float(threads or cores),
        price=cluster.price_per_hour,
        crowding=max(1.0, workers * (threads or cores) / cores) if is_local and not wants_gpu else 1.0,
    )
    runtime = cluster.runtime.model_copy(update={"threads": threads})
    found = plan(experiment, runtime, site, budget)
    notes = _notes(cluster, is_local, gpu, budget)
    return replace(found, cluster=cluster.name, allowed_workers=fitting, notes=notes)


def _memory(cluster: Cluster, workers: int, is_local: bool, gpu: bool) -> int | None:
    """Return the bytes that a worker may use, or None where neither the cluster says it nor this machine can tell."""
    if cluster.memory_per_worker_gib is not None:
        return round(cluster.memory_per_worker_gib * 2**30)
    if not is_local or (cluster.gpus_per_worker > 0 and not gpu):
        return None
    if gpu:
        return int(torch.cuda.get_device_properties(0).total_memory)
    free = free_memory()
    return None if free is None else free // workers


def _notes(cluster: Cluster, is_local: bool, gpu: bool, budget: WorkerBudget) -> list[str]:
    notes = ["times are without the network between workers"] if budget.workers > 1 else []
    if not is_local or (cluster.gpus_per_worker > 0 and not gpu):
        notes.append("measured on this machine; on the cluster's hardware expect another time")
    if budget.memory is None:
        notes.append("memory_per_worker_gib is not set in the cluster file, so nothing is said of what fits")
    if not is_local and cluster.wave is None:
        notes.append("where `wave` is not set, a worker chooses it by its free memory: here as this machine would")
    if budget.crowding > 1:
        notes.append(f"the workers share this machine's cores: steps are taken as {budget.crowding:.1f} times slower")
    return notes
