"""Cluster: where a run happens. What is computed stays in the recipe, so moving a run keeps its id."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from raykd.config.catalog import CLUSTERS
from raykd.config.data_root import data_place
from raykd.config.runtime import Precision, Runtime
from raykd.config.yaml_file import explain, load_yaml
from raykd.errors import UsageError
from raykd.store.remote import check_address, is_remote
from raykd.tracking.tracker import TrackerName

MOST_WORKERS = 100_000


class Site(NamedTuple):
    """Where a verb works; store and data root are folders or addresses."""

    cluster: "Cluster"
    store: str | Path
    data_root: str | Path | None


class Cluster(Runtime):
    """Workers and what each may use; the settings of the arithmetic (``Runtime``) belong to the machines too."""

    name: str = Field(description="that of its file")
    address: str = Field(
        default="local",
        description="local = start Ray on this machine; auto or HOST:PORT = join a running cluster",
    )
    workers: int | tuple[int, int] = Field(
        default=1, description="0 = in this process, without Ray; [min, max] = elastic"
    )
    grows_to: int | None = Field(
        default=None, gt=0, description="workers with room once an autoscaler has added machines, which are waited for"
    )
    cpus_per_worker: float = Field(default=1, gt=0, description="that Ray sets aside")
    gpus_per_worker: float = Field(default=0, ge=0, description="a part of one, or whole ones")
    storage: str = Field(
        default="runs",
        description="store of runs: a folder that every node sees, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER",
    )
    data_root: str | None = Field(default=None, description="a folder or such an address; default: RAYKD_DATA")
    max_failures: int = Field(default=3, ge=0, description="deaths of workers that a run survives")
    hang_seconds: float = Field(
        default=30, gt=0, description="silence of a worker, or waiting of all others for it, after which it is named"
    )
    on_hang: Literal["wait", "restart", "fail"] = Field(
        default="wait",
        description="of a silent worker: wait = name it every minute (its run goes on from the last checkpoint once "
        "the others have waited 10 minutes), restart = do that at once (one of max_failures), fail = end, exit code 3",
    )
    memory_per_worker_gib: float | None = Field(
        default=None, gt=0, description="what a worker may use, for `raykd plan`; default: its part of this machine's"
    )
    study: str | None = Field(
        default=None,
        description="Optuna storage of searches, a URL or journal:FILE; default: SQLite in storage",
    )
    dashboard: str | None = Field(
        default=None, description="http(s)://HOST:PORT of Ray's dashboard, which takes jobs; default: port 8265 here"
    )
    launcher: str | None = Field(
        default=None, description="beside this file: for `ray up` or `kubectl apply` (YAML), or for sbatch (a script)"
    )
    dependencies: Literal["installed", "pinned"] = Field(
        default="installed",
        description="of a submitted job: what the nodes have, or what pip installs there in the versions of here",
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=(), description="that are told how runs go: mlflow (MLFLOW_TRACKING_URI), wandb (offline by default)"
    )
    network_gbit_per_s: float | None = Field(
        default=None, gt=0, description="that a worker can send to others, for `raykd plan`; default: not counted"
    )
    network_latency_us: float = Field(
        default=50, ge=0, description="microseconds of a message between workers, for `raykd plan`"
    )
    price_per_hour: float | None = Field(
        default=None, ge=0, description="of one worker, in your currency, for `raykd plan`"
    )

    @field_validator("address")
    @classmethod
    def _valid_ray_address(cls, address: str) -> str:
        host, colon, port = address.rpartition(":")
        if address not in ("local", "auto") and not (host and colon and port.isdecimal()):
            raise ValueError("an address is local, auto or HOST:PORT (that of `ray start`, often 6379)")
        if "://" in address:
            raise ValueError("Ray Client (ray://) cannot train; give HOST:PORT or submit a job")
        return address

    @field_validator("dashboard")
    @classmethod
    def _valid_dashboard(cls, dashboard: str | None) -> str | None:
        return None if dashboard is None else check_dashboard(dashboard)

    @field_validator("storage", "data_root")
    @classmethod
    def _valid_address(cls, address: str | None) -> str | None:
        if address is None or not is_remote(address):
            return address
        try:
            return check_address(address)
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("workers")
    @classmethod
    def _ordered(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        low, high = (workers, workers) if isinstance(workers, int) else workers
        if low < 0 or high < low or (low == 0 and not isinstance(workers, int)):
            raise ValueError("workers is a number from 0, or [min, max] with 1 <= min <= max")
        if high > MOST_WORKERS:
            raise ValueError(f"at most {MOST_WORKERS:,} workers")
        return workers

    @model_validator(mode="after")
    def _whole_gpus(self) -> "Cluster":
        if self.gpus_per_worker % 1 and self.worker_range[1] > 1:
            raise ValueError("several workers need whole GPUs: NCCL lets no two share one")
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError("gpus_per_worker is a part of one GPU, or a whole number of them")
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """Return the least and the largest number of workers."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @property
    def runtime(self) -> Runtime:
        """Return the settings of the arithmetic alone."""
        return Runtime(**self.model_dump(include=set(Runtime.model_fields)))


def check_dashboard(url: str) -> str:
    """Check the address of a dashboard, and return it without its last slash.

    Raises:
        UsageError: if it is no such address; the message does not repeat it, since it may hold a password.
    """
    try:
        is_valid = re.fullmatch(r"https?://[^/?#@\s]+/?", url) and urlsplit(url).port != 0
    except ValueError:  # of a port
        is_valid = False
    if not is_valid:
        raise UsageError(
            "a dashboard is http://HOST:PORT or https://HOST, without user or path, and a port at most 65535"
        )
    return url.rstrip("/")


def choose_cluster(
    given: str | Path | Cluster | None,
    *,
    workers: int,
    precision: Precision | None = None,
    trackers: Sequence[TrackerName] = (),
) -> Cluster:
    """Return the cluster that a verb is given, by its name or file or itself; default: this machine.

    Args:
        given: what the verb is given.
        workers: of this machine's Ray, if that is meant; 0 for this process, without Ray.
        precision: instead of the cluster's.
        trackers: beside the cluster's.

    Raises:
        UsageError: as ``load_cluster``.
    """
    if given is None:
        cluster = Cluster(name="here", workers=workers)
    else:
        cluster = given if isinstance(given, Cluster) else load_cluster(str(given))
    all_trackers = tuple(dict.fromkeys((*cluster.trackers, *trackers)))
    return cluster.model_copy(update={"precision": precision or cluster.precision, "trackers": all_trackers})


def choose_site(
    cluster: str | Path | Cluster | None, workers: int, out: str | Path | None, data_root: str | Path | None
) -> Site:
    """Return where a verb works: what it is given, else what the cluster says; see ``choose_cluster``."""
    place = choose_cluster(cluster, workers=workers)
    return Site(place, out or place.storage, data_root or data_place(place.data_root))


def load_cluster(source: str) -> Cluster:
    """Load a cluster file: a path, or a name in ./clusters or among the packaged ones.

    Raises:
        UsageError: for an unknown name, key or value, naming the nearest match.
    """
    path = cluster_file(source)
    raw = load_yaml(path)
    if "name" in raw:
        raise UsageError(f"{path}: 'name' is not a field here; a cluster is called like its file")
    try:
        return Cluster.model_validate({**raw, "name": path.stem})
    except ValidationError as error:
        raise explain(error, str(path), Cluster, raw) from None


def cluster_file(source: str) -> Path:
    """Return the file of a cluster by its path, or by its name.

    Raises:
        UsageError: if there is none, naming the nearest match.
    """
    return CLUSTERS.find(source)


def cluster_names() -> list[str]:
    """Return the names that ``load_cluster`` knows from here."""
    return sorted(CLUSTERS.files())
