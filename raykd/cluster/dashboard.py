"""Ray's dashboard, which takes jobs: where it is, and what a job's metadata are called."""

import os
from urllib.parse import urlsplit

from raykd.cluster.config import Cluster, check_dashboard
from raykd.errors import UsageError

LOCAL_DASHBOARD = "http://127.0.0.1:8265"
"""Where Ray's dashboard listens unless it is told otherwise."""
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable for the address."""
RUNS = "runs"
"""Key of a job's metadata: the ids of the runs it trains, one a line; of a search its own id."""
PRECISION = "precision"
"""Key of a job's metadata: the precision that it trains in."""


def is_loopback(url: str) -> bool:
    """Tell whether a URL's host is the loopback device of this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def dashboard_address(cluster: Cluster) -> str:
    """Find the dashboard that takes a cluster's jobs: by its file, else Ray's own variable, else this machine's.

    Raises:
        UsageError: if Ray's variable holds no address.
    """
    address = os.environ.get(ADDRESS_VARIABLE)
    if cluster.dashboard or not address:
        return cluster.dashboard or LOCAL_DASHBOARD
    try:
        return check_dashboard(address)
    except UsageError as error:
        raise UsageError(f"{ADDRESS_VARIABLE} in the environment: {error}") from None
