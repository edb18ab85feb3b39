"""A connection to Ray for as long as a run lasts: a private instance on this machine, or a running cluster."""

import logging
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import GROWTH_SECONDS, token_source
from raykd.errors import SetupError
from raykd.files import describe, held, sweep_folders
from raykd.runners.ray.internals import ON_LOOPBACK, behind_library
from raykd.surroundings import wait_policy

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
_BUSY_SECONDS = 20.0
_REMIND_SECONDS = 60.0
_ROUNDING = 1e-9
_OBJECT_STORE_BYTES = 150 * 2**20  # the workers exchange no objects


@contextmanager
def connected(cluster: Cluster, workers: int) -> Iterator[None]:
    """Hold a connection to Ray with room for ``workers``; one that was there before is used and left open.

    Until it is closed, standard output leads to standard error: Ray tells there of processes that died, in the
    middle of the JSON that somebody reads.

    Raises:
        SetupError: if nobody answers, the token is missing or wrong, or the resources do not suffice.
    """
    with redirect_stdout(sys.stderr):
        if ray.is_initialized():
            check_resources(cluster, workers)
            yield
            return
        try:
            with ExitStack() as own:
                if cluster.address == "local":
                    own.enter_context(held(_start(cluster, workers)))
                    own.enter_context(_ending_with_driver())
                else:
                    _join(cluster)
                check_resources(cluster, workers)
                yield
        finally:
            ray.shutdown()


def check_resources(cluster: Cluster, workers: int) -> None:
    """Compare what ``workers`` need with what the cluster has, then wait a little for what is busy.

    A cluster that grows is asked for machines, and waited for; for what is busy there it has others.

    Raises:
        SetupError: with both sums, where Ray Train would wait for ever.
    """
    needs = _needs(cluster)
    needed = _sum_up({name: workers * amount for name, amount in needs.items()})
    if _room_now(cluster) < workers <= (cluster.grows_to or 0):
        _grow(cluster, workers, needed)
    nodes, room = _nodes(), _room_now(cluster)
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in needs}
    logger.info("%d workers need %s; the cluster has %s", workers, needed, _sum_up(total))
    if room < workers:
        raise SetupError(
            f"{workers} workers of cluster {cluster.name!r} need {needed}; {len(nodes)} node(s) with "
            f"{_sum_up(total)} have room for {room}: lower workers, cpus_per_worker or gpus_per_worker"
        )
    if cluster.grows_to:
        return
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        available = ray.available_resources()
        free = {name: float(available.get(name, 0.0)) for name in needs}
        if all(free[name] >= workers * amount for name, amount in needs.items()):
            return
        if time.monotonic() > deadline:
            raise SetupError(
                f"{workers} workers of cluster {cluster.name!r} need {needed}; only {_sum_up(free)} of "
                f"{_sum_up(total)} are free: wait for the other jobs, or lower workers"
            )
        time.sleep(0.2)


def _grow(cluster: Cluster, workers: int, needed: str) -> None:
    """Have the autoscaler add machines until there is room, by a reservation, which Ray drops if this process ends."""
    logger.info("waiting for machines: %d workers need %s", workers, needed)
    reserved = placement_group([_needs(cluster)] * workers)
    deadline = time.monotonic() + GROWTH_SECONDS
    try:
        while not reserved.wait(_REMIND_SECONDS):
            room = _room_now(cluster)
            if time.monotonic() > deadline:
                raise SetupError(
                    f"{workers} workers of cluster {cluster.name!r} need {needed}, and after {GROWTH_SECONDS / 60:.0f} "
                    f"minutes there is room for {room}: `ray status` on its head tells what its autoscaler waits for "
                    "(a quota, spot machines, a launch that fails)"
                )
            logger.info("still waiting for machines: room for %d of %d workers", room, workers)
    finally:
        remove_placement_group(reserved)


def what_is_free(cluster: Cluster, workers: int) -> str:
    """Tell what so many workers need and what of it is free now."""
    available = ray.available_resources()
    needs = _needs(cluster)
    free = {name: float(available.get(name, 0.0)) for name in needs}
    needed = {name: workers * amount for name, amount in needs.items()}
    return f"{_sum_up(needed)}; free are {_sum_up(free)}"


def room_for(cluster: Cluster) -> int:
    """Return how many workers the nodes have room for, whether or not others use it now, and with those to come."""
    return max(_room_now(cluster), cluster.grows_to or 0)


def _room_now(cluster: Cluster) -> int:
    return sum(int(min(_places(node, *need) for need in _needs(cluster).items())) for node in _nodes())


def _places(node: dict[str, float], name: str, amount: float) -> float:
    """Return for how many workers one resource of a node suffices; a part of a GPU is a part of one, not of two."""
    has = node.get(name, 0.0)
    if name == "GPU" and amount < 1:
        return has * math.floor(1 / amount + _ROUNDING)
    return has / amount + _ROUNDING


def _needs(cluster: Cluster) -> dict[str, float]:
    needs = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    return {name: amount for name, amount in needs.items() if amount > 0}


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _start(cluster: Cluster, workers: int) -> Path:
    """Start Ray on this machine; return the folder of its logs, having removed those of such Rays of long ago."""
    # CPUs are what Ray counts, not what it uses: two workers on one core are slow, but they run.
    cpus = max(os.cpu_count() or 1, math.ceil(workers * cluster.cpus_per_worker))
    try:
        context = ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            job_config=behind_library(),
            **ON_LOOPBACK,
        )
    except Exception as error:  # a slow machine's is a plain one
        raise SetupError(f"Ray did not start on this machine: {describe(error)}") from None
    session = Path(context.address_info["session_dir"])
    sweep_folders(session.parent, "session_2")
    return session


@contextmanager
def _ending_with_driver() -> Iterator[None]:
    """Within, end the agents of the Ray that was started here if this process is killed.

    Its other processes end by themselves. These two would wait a minute to tell Ray's control service, which is gone,
    that the node is. A shell waits for the end of a pipe, which comes when nobody is left to write into it.
    """
    agents = [
        agent
        for raylet in _children(os.getpid())
        if "raylet" in _command(raylet)
        for agent in _children(raylet)
        if "agent" in _command(agent).lower()
    ]
    if not agents:  # another system than Linux
        yield
        return
    command = ["/bin/sh", "-c", 'read -r ended || kill -9 "$@"', "raykd", *map(str, agents)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as watcher:
        try:
            yield
        finally:
            watcher.communicate(b"ended\n")


def _children(process: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def _command(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text()
    return ""


def _join(cluster: Cluster) -> None:
    address = cluster.address
    if os.environ.get("RAY_AUTH_MODE") == "token" and token_source() is None:
        raise SetupError(
            f"RAY_AUTH_MODE is token, but there is no token to show to {address}: set RAY_AUTH_TOKEN_PATH "
            "to a copy of the cluster's token file (`ray get-auth-token` prints the token on its head node)"
        )
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would try for a long time before it says so
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
        except OSError as error:
            raise SetupError(
                f"nothing answers at {address} ({error}); is the address of cluster {cluster.name!r} right, "
                "and does its head node run?"
            ) from None
    # A submitted job has its variables from its submission, and Ray takes none twice.
    variables = None if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else {"env_vars": dict([wait_policy()])}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=behind_library(),
            runtime_env=variables,
        )
    except (OSError, RuntimeError, ValueError) as error:
        token = token_source()
        hint = f"the token is the one of {token}" if token else "no token was found: does it ask for one?"
        raise SetupError(f"no Ray cluster can be joined at {address} ({describe(error)}); {hint}") from None


def _sum_up(amounts: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}s" for name, amount in amounts.items())
