"""Ray's settings, which are environment variables; some are read when ``ray`` is imported, so not here."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.cluster.config import Cluster
from raykd.config.data_root import expanded
from raykd.errors import SetupError
from raykd.surroundings import name_user

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers run at nice 15 by default, and lose to everything else on a shared machine.
    "RAY_worker_niceness": "0",
    # ray.train.report() returns after the controller's next poll: by default two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Endless by default, and a hang would look like a slow step.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
}
_before_import: dict[str, str] = {}
"""What was set when Ray was not imported yet: its processes are given the same later, wherever that was taken back."""
_START_SECONDS = 60
GROWTH_SECONDS = 1800
"""How long machines are waited for that an autoscaler adds: to be found, to boot, and to install what they need."""


def apply_ray_settings(cluster: Cluster) -> None:
    """Set Ray's variables that the user has not set; call it before ``ray`` is imported, which reads the token ones."""
    name_user()  # Ray looks into the home directory, whether or not there is one
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(expanded(path, "RAY_AUTH_TOKEN_PATH"))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    start_seconds = GROWTH_SECONDS if cluster.grows_to else _START_SECONDS
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(start_seconds))
    if "ray" in sys.modules:
        for name, value in _before_import.items():
            os.environ.setdefault(name, value)
        return
    found = dict(os.environ)
    if cluster.address == "local":
        # Ray ends workers, its own controller first, when the machine's memory is 95 % full, whoever fills it.
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
        # Where Ray builds no clusters of several machines, its servers listen on the loopback device only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if token_source() is None:
            # Ray would leave one in the home directory, and later clusters would change their ways by it.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if token_source() is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    _before_import.update({name: value for name, value in os.environ.items() if name not in found})


def token_source() -> str | None:
    """Name where Ray will find its token, in Ray's own order, or return None."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    try:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
        return str(path) if path.is_file() else None
    except (OSError, RuntimeError):  # a home that is not there, or may not be entered
        return None


@contextmanager
def needs_ray(cluster: Cluster) -> Iterator[None]:
    """Within, an import that fails for want of Ray is a SetupError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise SetupError(
            f"cluster {cluster.name!r} needs Ray ({error}); run `pip install 'raykd[ray]'`, or `raykd train` without "
            "a cluster"
        ) from None
