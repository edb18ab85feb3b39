"""A command of raykd on its way to a cluster: which run it is about, what it takes along and what it will take."""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.version import Version

import raykd
from raykd.cluster.config import Cluster, choose_cluster, load_cluster
from raykd.cluster.dashboard import ADDRESS_VARIABLE, PRECISION, RUNS, dashboard_address, is_loopback
from raykd.cluster.launcher import read_launcher
from raykd.cluster.package import FOLDER, Package, remote_content
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.config.runtime import Precision
from raykd.errors import UsageError
from raykd.planning.on_cluster import plan_on
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.recipe.table import Table, load_table, table_entries
from raykd.results import SubmissionPlan
from raykd.search.grid import count_trials
from raykd.search.setup import plan_search, shared_sources
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space
from raykd.store.workspace import local_folder
from raykd.surroundings import wait_policy
from raykd.tracking.tracker import TrackerName, tracker_settings

if TYPE_CHECKING:
    from raykd.cluster.jobs import Jobs, SubmittedJob


@dataclass(frozen=True)
class JobRequest:
    """A command of raykd that is to run as a job.

    Attributes:
        argv: the command line, without ``raykd``.
        run: the id of the run, search or table that it is about, with all options that change what is trained.
        digest: of the content.
        runs: ids of the runs that no other job may train at the same time. The runs that they build on are left out,
            since many jobs may share them.
        experiment: the run, or one trial of the search; None for a table.
        run_count: how many such runs there are.
        shared_runs: ids of the runs that all of them build on, trained once.
        note: a remark on the cost, for the user.
        precision: instead of the cluster's; None: the cluster's.
        trackers: beside the cluster's.
    """

    argv: tuple[str, ...]
    run: str
    digest: str
    runs: tuple[str, ...]
    experiment: Experiment | None = None
    run_count: int = 1
    shared_runs: frozenset[str] = frozenset()
    note: str = ""
    precision: Precision | None = None
    trackers: tuple[TrackerName, ...] = ()


def parse_request(name: str, arguments: tuple[str, ...], values: Mapping[str, Any], working_dir: Path) -> JobRequest:
    """Read a command ``train``, ``tune`` or ``table`` into a request; relative paths are in the working directory.

    Raises:
        UsageError: for a slip in the recipe, the space or the table, as the command itself would say.
    """
    caller_folder = Path.cwd()
    os.chdir(working_dir)
    try:
        subject = str(values.get("recipe") or values.get("space") or values.get("name"))
        if "/" in subject or subject.endswith((".yaml", ".yml")):
            _check_travels(Path(subject), Path.cwd())
        argv = (name, *arguments)
        if name == "train":
            request = _train_request(argv, resolve(load_recipe(subject, values["overrides"])), values["seeds"])
        elif name == "tune":
            request = _tune_request(argv, load_space(subject, values["overrides"], values["trials"]), values["trials"])
        else:
            request = _table_request(argv, load_table(subject), values["quick"], values["seeds"])
        return replace(request, precision=values["precision"], trackers=values["tracker"])
    finally:
        os.chdir(caller_folder)


def _train_request(argv: tuple[str, ...], experiment: Experiment, seeds: int) -> JobRequest:
    first = experiment.recipe.seed
    # Two seeds at least: the runs that they have in common are those that all seeds build on.
    each = [[run.run_id for run in experiment.with_seed(first + more).runs] for more in range(max(2, seeds))]
    shared_runs = frozenset(each[0]) & frozenset(each[1])
    runs = tuple(run for ids in each[:seeds] for run in ids if run not in shared_runs)
    name = experiment.run_id + _several(seeds)
    return JobRequest(argv, name, experiment.content_hash, runs, experiment, seeds, shared_runs)


def _tune_request(argv: tuple[str, ...], space: SearchSpace, trials: int | None) -> JobRequest:
    planned = plan_search(space, Path())
    name, space = planned.folder.name, planned.space
    return JobRequest(
        argv,
        name if trials is None else f"{name}-{trials}trials",
        name.rpartition("-")[2],
        (name,),
        space.make_experiment({}),
        count_trials(space) * space.seeds,
        frozenset(run.run_id for run in shared_sources(space)),
        "the second stage is not in these figures" if space.then else "",
    )


def _table_request(argv: tuple[str, ...], table: Table, quick: bool, seeds: int | None) -> JobRequest:
    entries = table_entries(table, quick=quick, seeds=seeds)
    runs = tuple(sorted({run for entry in entries for run in entry.run_ids}))
    canonical = json.dumps([table.model_dump(mode="json"), runs], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    count = max((len(entry.runs) for entry in entries), default=1)
    name = f"{table.name}-{digest}{'-quick' if quick else ''}{_several(count)}"
    return JobRequest(argv, name, digest, runs, note="a table's cost is not told; `raykd plan` tells that of a recipe")


def _several(seeds: int) -> str:
    return f"-{seeds}seeds" if seeds > 1 else ""


def _check_travels(path: Path, folder: Path) -> None:
    if path.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{str(path)!r} does not go along: a job has the working directory {folder}, so put the file there and "
            "name it from there"
        )


@dataclass(frozen=True)
class Submission:
    """A job to be sent: the request, the files that go along, and the cluster."""

    request: JobRequest
    package: Package
    cluster: Cluster

    @classmethod
    def create(cls, request: JobRequest, package: Package, cluster: Cluster) -> "Submission":
        """Make a submission, if the cluster can take jobs.

        Raises:
            UsageError: if its file does not fit a job.
        """
        remote_content(cluster)
        return cls(request, package, cluster)

    @property
    def entrypoint(self) -> str:
        """Return the job's command line, quoted for a shell: no name in it is ever a command."""
        cluster_path = f"{FOLDER}/{self.cluster.name}.yaml"
        return shlex.join(["python", "-m", "raykd", *self.request.argv, "--cluster", cluster_path])

    @property
    def runtime(self) -> dict[str, Any]:
        """Return Ray's runtime environment of the job, without the working directory."""
        trackers = self._place.trackers
        pinned = _pinned(self.cluster, trackers) if self.cluster.dependencies == "pinned" else None
        environment = {"env_vars": dict([wait_policy()]) | (tracker_settings() if trackers else {})}
        return {**environment, "pip": pinned} if pinned else environment

    @property
    def metadata(self) -> dict[str, str]:
        """Return the metadata of the job on the cluster: nothing of this machine or its environment."""
        return {
            "raykd": raykd.__version__,
            "command": self.request.argv[0],
            "recipe_hash": self.request.digest,
            RUNS: "\n".join(self.request.runs),
            PRECISION: self._place.precision,
        }

    @property
    def _place(self) -> Cluster:
        """Return the cluster, with the command's own precision and trackers."""
        request = self.request
        return choose_cluster(self.cluster, workers=0, precision=request.precision, trackers=request.trackers)

    def send(self, jobs: "Jobs", folder: Path) -> tuple["SubmittedJob", bool]:
        """Upload and submit, unless the run is at work; the upload is put together in ``folder``."""
        self.package.write(folder, self.cluster)
        return jobs.submit(
            self.request.run, self.entrypoint, {**self.runtime, "working_dir": str(folder)}, self.metadata
        )

    def summary(self) -> dict[str, Any]:
        """Return the job that will be sent, and its address, to be shown to the user."""
        return {
            "run": self.request.run,
            "to": dashboard_address(self.cluster),
            "entrypoint": self.entrypoint,
            "working directory": f"{self.package.root}: {len(self.package.files)} files, {self.package.total:,} bytes",
            "dependencies": ", ".join(self.runtime.get("pip", [])) or "as installed on the nodes",
            "storage": self.cluster.storage,
            "metadata": self.metadata,
        }

    def plan(self) -> SubmissionPlan:
        """Predict the cost of the run, or of one trial of a search (see ``raykd plan``), and of all of them in sum."""
        request, note = self.request, self.request.note or None
        if request.experiment is None:
            return SubmissionPlan(note=note)
        root = local_folder(self.cluster.data_root) if self.cluster.data_root else None
        estimate = plan_on(request.experiment, self._place, store=local_folder(self.cluster.storage), data_root=root)
        if request.run_count == 1:
            return SubmissionPlan(estimate, note=note)
        names = estimate.total.keys() - ({"hours"} if request.argv[0] == "tune" else set())  # trials are parallel
        times = [(run, 1 if run.run in request.shared_runs else request.run_count) for run in estimate.runs]
        total = {name: sum((getattr(run, name) or 0.0) * count for run, count in times) for name in sorted(names)}
        return SubmissionPlan(estimate, {"runs": request.run_count, **total}, note)


def load_job_cluster(name: str | None) -> Cluster:
    """Load the cluster that takes a job, by its name or file; None: the Ray of this machine, with runs in ./runs.

    Raises:
        UsageError: as ``load_cluster``, or if the cluster takes no jobs; without a name, if Ray's variable sends jobs
            to another machine, where ./runs is not, or holds no address.
    """
    if name is not None:
        cluster = load_cluster(name)
        # Without a dashboard the address would be that of this machine.
        instead = read_launcher(name).instead_of_jobs if cluster.launcher and not cluster.dashboard else None
        if instead:
            raise UsageError(f"cluster {cluster.name!r} takes no jobs, it starts for one command and ends: {instead}")
        return cluster
    cluster = Cluster(name="here", address="auto", storage=str(Path("runs").absolute()))
    if not is_loopback(dashboard_address(cluster)):
        raise UsageError(
            f"jobs go to {dashboard_address(cluster)} ({ADDRESS_VARIABLE}): --cluster says where runs are kept there"
        )
    return cluster


def connect(cluster: Cluster) -> "Jobs":
    """Connect to the dashboard that takes the jobs of a cluster.

    Raises:
        SetupError: without Ray, or if no dashboard answers.
    """
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.cluster.jobs import Jobs
    return Jobs(dashboard_address(cluster))


def _pinned(cluster: Cluster, trackers: Sequence[TrackerName]) -> list[str]:
    """List raykd's dependencies for pip, pinned to the versions installed here, without Ray, which the cluster has.

    A build such as 2.9.0+cpu is pinned to its version alone, since an index has no such builds.
    """
    installed = {dist.metadata["Name"].lower() for dist in distributions()}
    extras = {"", "ray", *trackers} | ({"postgres"} if (cluster.study or "").startswith("postgres") else set())
    pinned = set()
    for requirement in map(Requirement, requires("raykd") or ()):
        needed = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if needed and requirement.name.lower() != "ray":
            extra = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            exact = (
                f"=={Version(version(requirement.name)).public}"
                if requirement.name.lower() in installed
                else str(requirement.specifier)
            )
            pinned.add(f"{requirement.name.lower()}{extra}{exact}")
    return sorted(pinned)
