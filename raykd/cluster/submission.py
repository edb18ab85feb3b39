"""A command of raykd on its way to a cluster: which run it is about, what it takes along and what it will take."""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.version import Version

import raykd
from raykd.cluster.config import Cluster, check_dashboard, load_cluster
from raykd.cluster.launcher import read_launcher
from raykd.cluster.package import FOLDER, Package, remote_content
from raykd.cluster.ray_settings import apply_ray_settings, needs_ray
from raykd.errors import UsageError
from raykd.planning.on_cluster import plan_on
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.recipe.table import Table, load_table, table_entries
from raykd.search.grid import count_trials
from raykd.search.setup import plan_search, shared_sources
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space
from raykd.store.workspace import local_folder

if TYPE_CHECKING:
    from raykd.cluster.jobs import Jobs, SubmittedJob

_HERE = "http://127.0.0.1:8265"
"""Where Ray's dashboard listens unless it is told otherwise."""
_ADDRESS = "RAY_API_SERVER_ADDRESS"
RUNS = "runs"
"""Metadata of a job: what it trains, a line each; of a search the whole of it."""


@dataclass(frozen=True)
class JobRequest:
    """A command of raykd.

    Attributes:
        words: as they were given.
        run: the id of the run, search or table that it is about, with all options that change what is trained.
        digest: of the content.
        runs: what no other job must train at the same time. What they build on is left out, since many may share it.
        recipe: of the run, or of one trial.
        times: how many such runs there are.
        once: the ids of runs that all of them share.
        note: what is to be said of the cost.
    """

    words: tuple[str, ...]
    run: str
    digest: str
    runs: tuple[str, ...]
    experiment: Experiment | None = None
    times: int = 1
    once: frozenset[str] = frozenset()
    note: str = ""


def asked_of(name: str, arguments: tuple[str, ...], values: Mapping[str, Any], working_dir: Path) -> JobRequest:
    """Return what ``train``, ``tune`` or ``table`` is about; files that it names are those of the working directory.

    Raises:
        UsageError: for a slip in the recipe, the space or the table, as the command itself would say.
    """
    here = Path.cwd()
    os.chdir(working_dir)
    try:
        subject = str(values.get("recipe") or values.get("space") or values.get("name"))
        if "/" in subject or subject.endswith((".yaml", ".yml")):
            _inside(Path(subject), Path.cwd())
        words = (name, *arguments)
        if name == "train":
            return _of_train(words, resolve(load_recipe(subject, values["overrides"])), values["seeds"])
        if name == "tune":
            return _of_tune(words, load_space(subject, values["overrides"], values["trials"]), values["trials"])
        return _of_table(words, load_table(subject), values["quick"], values["seeds"])
    finally:
        os.chdir(here)


def _of_train(words: tuple[str, ...], experiment: Experiment, seeds: int) -> JobRequest:
    first = experiment.recipe.seed
    each = [[run.run_id for run in experiment.with_seed(first + more).runs] for more in range(max(2, seeds))]
    once = frozenset(each[0]) & frozenset(each[1])
    runs = tuple(run for ids in each[:seeds] for run in ids if run not in once)
    name = experiment.run_id + _several(seeds)
    return JobRequest(words, name, experiment.content_hash, runs, experiment, seeds, once)


def _of_tune(words: tuple[str, ...], space: SearchSpace, trials: int | None) -> JobRequest:
    planned = plan_search(space, Path())
    name, space = planned.folder.name, planned.space
    return JobRequest(
        words,
        name if trials is None else f"{name}-{trials}trials",
        name.rpartition("-")[2],
        (name,),
        space.make_experiment({}),
        count_trials(space) * space.seeds,
        frozenset(run.run_id for run in shared_sources(space)),
        "the second stage is not in these figures" if space.then else "",
    )


def _of_table(words: tuple[str, ...], table: Table, quick: bool, seeds: int | None) -> JobRequest:
    entries = table_entries(table, quick=quick, seeds=seeds)
    runs = tuple(sorted({run for entry in entries for run in entry.run_ids}))
    canonical = json.dumps([table.model_dump(mode="json"), runs], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    count = max((len(entry.runs) for entry in entries), default=1)
    name = f"{table.name}-{digest}{'-quick' if quick else ''}{_several(count)}"
    return JobRequest(words, name, digest, runs, note="a table's cost is not told; `raykd plan` tells that of a recipe")


def _several(seeds: int) -> str:
    return f"-{seeds}seeds" if seeds > 1 else ""


def _inside(path: Path, folder: Path) -> None:
    if path.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{str(path)!r} does not go along: a job has the working directory {folder}, so put the file there and "
            "name it from there"
        )


@dataclass(frozen=True)
class Submission:
    """All that is sent."""

    asked: JobRequest
    package: Package
    cluster: Cluster

    @classmethod
    def of(cls, asked: JobRequest, package: Package, cluster: Cluster) -> "Submission":
        """Check that the cluster can take jobs.

        Raises:
            UsageError: if its file does not fit a job.
        """
        remote_content(cluster)
        return cls(asked, package, cluster)

    @property
    def entrypoint(self) -> str:
        """Return the job's command line, quoted for a shell: no name in it is ever a command."""
        place = f"{FOLDER}/{self.cluster.name}.yaml"
        return shlex.join(["python", "-m", "raykd", *self.asked.words, "--cluster", place])

    @property
    def runtime(self) -> dict[str, Any]:
        """Return what Ray is told of the job's environment, without the working directory."""
        pinned = _pinned(self.cluster) if self.cluster.dependencies == "pinned" else None
        return {"pip": pinned} if pinned else {}

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the job's record says: nothing of this machine or its environment."""
        return {
            "raykd": raykd.__version__,
            "command": self.asked.words[0],
            "recipe_hash": self.asked.digest,
            RUNS: "\n".join(self.asked.runs),
        }

    def send(self, jobs: "Jobs", folder: Path) -> tuple["SubmittedJob", bool]:
        """Upload and submit, unless the run is at work; ``folder`` is for the upload."""
        self.package.write(folder, self.cluster)
        return jobs.submit(self.asked.run, self.entrypoint, {**self.runtime, "working_dir": str(folder)}, self.metadata)

    def told(self) -> dict[str, Any]:
        """Return what will be sent, and where to."""
        return {
            "run": self.asked.run,
            "to": address_of(self.cluster),
            "entrypoint": self.entrypoint,
            "working directory": f"{self.package.root}: {len(self.package.files)} files, {self.package.total:,} bytes",
            "dependencies": ", ".join(self.runtime.get("pip", [])) or "as installed on the nodes",
            "storage": self.cluster.storage,
            "metadata": self.metadata,
        }

    def plan(self) -> dict[str, Any]:
        """Return what the run, or one trial of a search, would need (see ``raykd plan``), and all of them in sum."""
        asked, note = self.asked, {"note": self.asked.note} if self.asked.note else {}
        if asked.experiment is None:
            return note
        root = local_folder(self.cluster.data_root) if self.cluster.data_root else None
        found = plan_on(asked.experiment, self.cluster, store=local_folder(self.cluster.storage), data_root=root)
        if asked.times == 1:
            return {"plan": found, **note}
        names = found["total"].keys() - ({"hours"} if asked.words[0] == "tune" else set())  # trials are parallel
        times = [(run, 1 if run["run"] in asked.once else asked.times) for run in found["runs"]]
        total = {name: sum(run.get(name, 0.0) * count for run, count in times) for name in sorted(names)}
        return {"plan": found, "in all": {"runs": asked.times, **total}, **note}


def cluster_of(name: str | None) -> Cluster:
    """Return a cluster by its name or file; without one, the Ray that runs on this machine, with runs in ./runs.

    Raises:
        UsageError: as ``load_cluster``, or if it takes no jobs; without a name, if jobs go to another machine, where
            ./runs is not, or Ray's variable holds no address.
    """
    if name is not None:
        cluster = load_cluster(name)
        # Without a dashboard the address would be that of this machine.
        instead = read_launcher(name).instead_of_jobs if cluster.launcher and not cluster.dashboard else None
        if instead:
            raise UsageError(f"cluster {cluster.name!r} takes no jobs, it starts for one command and ends: {instead}")
        return cluster
    here = Cluster(name="here", address="auto", storage=str(Path("runs").absolute()))
    if not is_loopback(address_of(here)):
        raise UsageError(f"jobs go to {address_of(here)} ({_ADDRESS}): --cluster says where runs are kept there")
    return here


def is_loopback(url: str) -> bool:
    """Tell whether a URL is one of this machine alone."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def address_of(cluster: Cluster) -> str:
    """Return where a cluster takes jobs: what its file says, else Ray's own variable, else this machine.

    Raises:
        UsageError: if Ray's variable holds no address.
    """
    told = os.environ.get(_ADDRESS)
    if cluster.dashboard or not told:
        return cluster.dashboard or _HERE
    try:
        return check_dashboard(told)
    except UsageError as error:
        raise UsageError(f"{_ADDRESS} in the environment: {error}") from None


def api_of(cluster: Cluster) -> "Jobs":
    """Return the jobs of a cluster.

    Raises:
        SetupError: without Ray, or where nobody answers.
    """
    apply_ray_settings(cluster)
    with needs_ray(cluster):
        from raykd.cluster.jobs import Jobs
    return Jobs(address_of(cluster))


def _pinned(cluster: Cluster) -> list[str]:
    """Return what raykd needs in the versions of here, without Ray, which the cluster has.

    Of builds such as 2.9.0+cpu the version alone, since an index has no others.
    """
    here = {dist.metadata["Name"].lower() for dist in distributions()}
    extras = {"", "ray"} | ({"postgres"} if (cluster.study or "").startswith("postgres") else set())
    pinned = set()
    for one in map(Requirement, requires("raykd") or ()):
        asked = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
        if asked and one.name.lower() != "ray":
            extra = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
            exact = f"=={Version(version(one.name)).public}" if one.name.lower() in here else str(one.specifier)
            pinned.add(f"{one.name.lower()}{extra}{exact}")
    return sorted(pinned)
