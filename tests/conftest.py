"""What every test shares: quiet, single-threaded processes and one small Ray cluster."""

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.object_store import ENVIRONMENT, Google, Server

CPUS = 2  # logical; Ray only counts them
ROOT = Path(__file__).resolve().parent.parent
SCRATCH = Path(tempfile.mkdtemp(prefix="raykd-tests-"))
TOKEN = SCRATCH / "ray_token"  # of the test cluster, so that the user's own is neither used nor made
TOKEN.write_text(secrets.token_hex(32))

# Before torch and ray are imported, since both read these once. Workers inherit them.
os.environ.update(
    # One thread per process: two gloo workers on two cores otherwise spend their time switching.
    OMP_NUM_THREADS="1",
    # Worker processes unpickle test functions by name.
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=str(TOKEN),
    RAY_AIR_NEW_OUTPUT="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",  # ray.train.report() waits for one of these polls
    RAY_memory_monitor_refresh_ms="0",  # it would kill workers for the memory that neighbours take
    # Ray waits for ever by default; here a hang is a failure with a message.
    RAY_TRAIN_COLLECTIVE_TIMEOUT_S="60",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="60",
    RAY_worker_niceness="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_GLOBAL_CHECKPOINT_S="1",
    RAYKD_REPORT="0",  # what draws takes half a second a run; tests of pages ask for them
    RAYKD_CACHE=str(SCRATCH / "cache"),
    XDG_STATE_HOME=str(SCRATCH / "state"),
    **ENVIRONMENT,
)
os.environ.pop("AWS_PROFILE", None)


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the endurance tests unless ``-m`` names them, whatever else it says."""
    if "endurance" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("endurance")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("endurance")]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[ModuleType]:
    """One local cluster for the whole session, without a dashboard; gives the ``ray`` module."""
    import ray

    ray.init(
        num_cpus=CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=150 * 2**20,
    )
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def returns_its_cpus(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaks CPUs, not the later one that waits for them for ever."""
    yield
    if request.node.get_closest_marker("ray") is None:
        return
    import ray

    if not ray.is_initialized():
        return
    total = ray.cluster_resources()["CPU"]
    deadline = time.monotonic() + 20
    while (free := ray.available_resources().get("CPU", 0)) < total:
        if time.monotonic() > deadline:
            pytest.fail(f"{free:g} of {total:g} Ray CPUs are free 20 s after the test")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """One S3 server for the whole session."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    """One server of Google Cloud Storage for the whole session."""
    server = Google(tmp_path_factory.mktemp("google"))
    yield server
    server.stop()


@pytest.fixture(params=["s3", "google"])
def server(request: pytest.FixtureRequest) -> Server:
    """One kind of object store after the other."""
    found: Server = request.getfixturevalue(request.param)
    return found
