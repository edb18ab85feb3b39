"""All that raykd takes of Ray without Ray's promise to keep it: its private names, of Ray 2.60, in this file alone.

``tests/runners/test_internals.py`` asks the installed Ray for each of them, so that a release without one fails there,
and not in a run.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put
from ray.job_config import JobConfig
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy

from raykd.surroundings import library_folders

HEAD_RESOURCE = "node:__internal_head__"
"""A resource that Ray gives to its head node alone.

A trial of several workers only waits for them: it takes no CPU, and a little of this keeps it on the node that is there
as long as the cluster is. If Ray renames it, no node has it, and such trials never start.
"""

_LOOPBACK = "127.0.0.1"
ON_LOOPBACK: Mapping[str, Any] = MappingProxyType({"_node_ip_address": _LOOPBACK})
"""Options of ``ray.init`` for a Ray of this machine alone.

Its processes listen on the loopback device, and no other machine reaches them. If Ray renames the option, ``ray.init``
refuses to start.
"""


def start_on_loopback(options: Sequence[str]) -> None:
    """Be ``ray start --block`` in this process, for a node that no other machine reaches, with or without a head.

    On Linux, Ray takes 127.0.0.1 for another name of the machine's outer address, on which its servers then listen;
    where ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER`` is 0 it does not, but then starts no node beside a head. If Ray renames
    what is set here, such a node does not start, or is of the outer address and finds no head.
    """
    from ray._private import ray_constants, services
    from ray.scripts.scripts import start

    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = lambda address=None: _LOOPBACK
    start(["--block", "--disable-usage-stats", f"--node-ip-address={_LOOPBACK}", *options])


_NAMESPACE = "raykd"


def write_shared(key: str, value: str) -> None:
    """Write a small value into the table that Ray keeps on its head, which all processes of the cluster see."""
    _internal_kv_put(key, value, namespace=_NAMESPACE)


def read_shared(prefix: str) -> dict[str, str]:
    """Return the values under the keys of that table that begin with ``prefix``."""
    found = {}
    for key in _internal_kv_list(prefix, namespace=_NAMESPACE):
        value = _internal_kv_get(key, namespace=_NAMESPACE)
        if value is not None:  # it was removed just now
            found[key.decode()] = value.decode()
    return found


def remove_shared(prefix: str) -> None:
    """Remove the keys of that table that begin with ``prefix``."""
    _internal_kv_del(prefix, del_by_prefix=True, namespace=_NAMESPACE)


class _WorkerPath(list[str]):
    """The folders that Ray puts, one by one, at the front of a worker's ``sys.path``: the last one comes first."""

    def extend(self, folders: Iterable[str]) -> None:
        """Take the driver's folders, and the standard library after them, so before them on the path.

        The last of them is its working directory, which is left out, since it would come before all that is installed.
        """
        kept = list(folders)
        if kept[-1:] == [os.path.abspath(os.curdir)]:
            kept.pop()
        super().extend([*kept, *reversed(library_folders())])


def behind_library() -> JobConfig:
    """Return options of a job whose workers look for modules in the driver's folder behind the standard library.

    Ray would put it first, and a ``profile.py`` in it would break every worker; the working directory is not searched
    at all, but for a recipe's factory. Folders of the library that a node
    does not have are passed over there. If Ray renames the list, its own order is at work.
    """
    return JobConfig(_py_driver_sys_path=_WorkerPath(reversed(library_folders())))


class FittingPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's elastic policy, rounded down to a number of workers that divides the batch.

    Ray's own takes as many workers as there is room for. Seven of eight cannot share a batch of 256, so after the loss
    of one they would all fail; here four go on. If Ray renames the method that counts, they fail again.
    """

    def __init__(self, scaling_config: Any, fitting: Sequence[int]) -> None:
        """Allow the numbers in ``fitting`` alone."""
        super().__init__(scaling_config)
        self._fitting = tuple(fitting)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((count for count in self._fitting if count <= possible), default=0)


class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
    """TorchTrainer whose elastic range has only the fitting numbers in it.

    A trainer has no public option for its scaling policy: it makes one and hands it to the method overridden here. If
    Ray renames that, Ray's own policy is at work.
    """

    def __init__(self, *arguments: Any, fitting: Sequence[int], **options: Any) -> None:
        """Take what TorchTrainer takes, and the numbers of workers that fit."""
        super().__init__(*arguments, **options)
        self._fitting = tuple(fitting)

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        if len(self._fitting) > 1:
            options["scaling_policy"] = FittingPolicy(self.scaling_config, self._fitting)
        return super()._initialize_and_run_controller(**options)
