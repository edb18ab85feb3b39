"""Ray's dashboard, which takes jobs: where it is, and what a job's metadata are called."""

import os
from urllib.parse import urlsplit

from raykd.cluster.config import Cluster, check_dashboard
from raykd.errors import UsageError

HERE = "http://127.0.0.1:8265"
"""Where Ray's dashboard listens unless it is told otherwise."""
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable for the address."""
RUNS = "runs"
"""Key of a job's metadata: what it trains, a line each; of a search the whole of it."""


def is_loopback(url: str) -> bool:
    """Tell whether a URL is one of this machine alone."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def address_of(cluster: Cluster) -> str:
    """Return where a cluster takes jobs: what its file says, else Ray's own variable, else this machine.

    Raises:
        UsageError: if Ray's variable holds no address.
    """
    address = os.environ.get(ADDRESS_VARIABLE)
    if cluster.dashboard or not address:
        return cluster.dashboard or HERE
    try:
        return check_dashboard(address)
    except UsageError as error:
        raise UsageError(f"{ADDRESS_VARIABLE} in the environment: {error}") from None
