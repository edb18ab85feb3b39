"""Plan a recipe for a cluster: a worker's memory and time, from trials on this machine. Importable without Ray."""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from raykd.cluster.config import Cluster
from raykd.cluster.workers import fitting_workers
from raykd.distributed.memory import free_memory
from raykd.errors import RaykdError, RunFailed, UsageError
from raykd.planning.plan import Network, WorkerBudget, plan
from raykd.planning.predict import TrialSite
from raykd.recipe.experiment import Experiment
from raykd.results import Plan
from raykd.store.workspace import Workspace


def compare_workers(
    experiment: Experiment, cluster: Cluster, counts: Sequence[int], *, store: Path, data_root: Path | None
) -> dict[int, Plan | RaykdError]:
    """Return the plans of a recipe's own run on so many workers, each with cores of its own, or why there is none.

    Raises:
        UsageError, RunFailed: if there is none at all, the first one's.
    """
    plans: dict[int, Plan | RaykdError] = {}
    if cluster.workers == 0 and torch.cuda.is_available():  # as the one process without a cluster would use it
        cluster = cluster.model_copy(update={"gpus_per_worker": max(1.0, cluster.gpus_per_worker)})
    # Workers that do not share this machine's cores.
    address = "auto" if cluster.address == "local" else cluster.address
    for count in counts:
        there = cluster.model_copy(update={"workers": count, "address": address})
        try:
            plans[count] = plan_on(experiment, there, store=store, data_root=data_root, alone=True)
        except (UsageError, RunFailed) as error:
            plans[count] = error
    refused = [one for one in plans.values() if isinstance(one, RaykdError)]
    if len(refused) == len(plans):
        raise refused[0]
    return plans


def plan_on(
    experiment: Experiment, cluster: Cluster, *, store: Path, data_root: Path | None, alone: bool = False
) -> Plan:
    """Return the plan of a recipe on the largest number of workers that the cluster allows and that fits.

    ``alone`` leaves out the runs that it builds on.

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
        network=_network(cluster),
    )
    runtime = cluster.runtime.model_copy(update={"threads": threads})
    found = plan(experiment, runtime, site, budget, alone=alone)
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


def _network(cluster: Cluster) -> Network | None:
    if cluster.network_gbit_per_s is None:
        return None
    return Network(cluster.network_gbit_per_s, cluster.network_latency_us)


def _notes(cluster: Cluster, is_local: bool, gpu: bool, budget: WorkerBudget) -> list[str]:
    notes = []
    if budget.workers > 1 and budget.network is None:
        notes.append("times are without the network between workers: network_gbit_per_s in the cluster file counts it")
    elif budget.workers > 1:
        notes.append(
            f"a network of {cluster.network_gbit_per_s:g} Gbit/s a worker and {cluster.network_latency_us:g} us a "
            "message, not hidden behind the computation"
        )
    if not is_local or (cluster.gpus_per_worker > 0 and not gpu):
        notes.append("measured on this machine; on the cluster's hardware expect another time")
    if budget.memory is None:
        notes.append("memory_per_worker_gib is not set in the cluster file, so nothing is said of what fits")
    if not is_local and cluster.wave is None:
        notes.append("where `wave` is not set, a worker chooses it by its free memory: here as this machine would")
    if budget.crowding > 1:
        notes.append(f"the workers share this machine's cores: steps are taken as {budget.crowding:.1f} times slower")
    return notes
