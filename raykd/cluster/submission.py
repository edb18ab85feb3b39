"""A command of raykd on its way to a cluster: which run it is about, what it takes along and what it will take."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

import raykd
from raykd.cluster.config import Cluster, load_cluster
from raykd.cluster.environment import prepare_environment
from raykd.cluster.grid import target_of
from raykd.cluster.package import FOLDER, Package, remote_content
from raykd.cluster.plan import plan_on
from raykd.cluster.train import needs_ray
from raykd.cluster.tune import plan_search
from raykd.engine.roots import local_side
from raykd.errors import UsageError
from raykd.recipe import Recipe, load_recipe
from raykd.search_file import load_space
from raykd.table import load_table

if TYPE_CHECKING:
    from raykd.cluster.jobs import Job, Jobs

_HERE = "http://127.0.0.1:8265"
"""Where Ray's dashboard listens unless it is told otherwise."""
_ADDRESS = "RAY_API_SERVER_ADDRESS"


@dataclass(frozen=True)
class Asked:
    """A command of raykd: its words, the run or search that it is about, and the recipe of that or of one trial."""

    words: tuple[str, ...]
    run: str
    recipe: Recipe | None
    digest: str
    times: int


def asked_of(name: str, arguments: tuple[str, ...], values: Mapping[str, Any], working_dir: Path) -> Asked:
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
        if name == "train":
            recipe = load_recipe(subject, values["overrides"])
            seeds = int(values["seeds"])
            run = recipe.run_id + (f"-{seeds}seeds" if seeds > 1 else "")
            return Asked((name, *arguments), run, recipe, recipe.content_hash, seeds)
        if name == "tune":
            space = load_space(subject, values["overrides"], values["trials"])
            planned = plan_search(space, Path())
            digest = planned.folder.name.rpartition("-")[2]
            return Asked((name, *arguments), planned.folder.name, planned.space.recipe_of({}), digest, target_of(space))
        table = load_table(subject)
        return Asked((name, *arguments), f"{table.name}{'-quick' if values['quick'] else ''}", None, "", 1)
    finally:
        os.chdir(here)


def _inside(path: Path, folder: Path) -> None:
    if path.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{str(path)!r} does not go along: a job has the working directory {folder}, so put the file there and "
            "name it from there"
        )


@dataclass(frozen=True)
class Submission:
    """All that is sent."""

    asked: Asked
    package: Package
    cluster: Cluster

    @classmethod
    def of(cls, asked: Asked, package: Package, cluster: Cluster) -> "Submission":
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
        pinned = _pinned() if self.cluster.dependencies == "pinned" else None
        return {"pip": pinned} if pinned else {}

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the job's record says: nothing of this machine or its environment."""
        return {"raykd": raykd.__version__, "command": self.asked.words[0], "recipe_hash": self.asked.digest}

    def send(self, jobs: "Jobs", folder: Path) -> tuple["Job", bool]:
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
        """Return what the run, or one trial of a search, would need; see ``raykd plan``."""
        if self.asked.recipe is None:
            return {}
        root = local_side(self.cluster.data_root) if self.cluster.data_root else None
        found = plan_on(self.asked.recipe, self.cluster, store=local_side(self.cluster.storage), data_root=root)
        if self.asked.times == 1:
            return {"plan": found}
        total = {name: self.asked.times * value for name, value in found["total"].items()}
        figures = ", ".join(f"{value:.3g} {name.replace('_', '-')}" for name, value in total.items())
        return {"plan": found, "in all": f"{self.asked.times} of these, one after the other: {figures}"}


def cluster_of(name: str | None) -> Cluster:
    """Return a cluster by its name or file; without one, the Ray that runs on this machine, with runs in ./runs.

    Raises:
        UsageError: as ``load_cluster``; without a name, if jobs go to another machine, where ./runs is not.
    """
    if name is not None:
        return load_cluster(name)
    here = Cluster(name="here", address="auto", storage=str(Path("runs").absolute()))
    if not is_loopback(address_of(here)):
        raise UsageError(f"jobs go to {address_of(here)} ({_ADDRESS}): --cluster says where runs are kept there")
    return here


def is_loopback(url: str) -> bool:
    """Tell whether a URL is one of this machine alone."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def address_of(cluster: Cluster) -> str:
    """Return where a cluster takes jobs: what its file says, else Ray's own variable, else this machine."""
    return cluster.dashboard or os.environ.get(_ADDRESS) or _HERE


def api_of(cluster: Cluster) -> "Jobs":
    """Return the jobs of a cluster.

    Raises:
        SetupError: without Ray, or where nobody answers.
    """
    prepare_environment(cluster)
    with needs_ray(cluster):
        from raykd.cluster.jobs import Jobs
    return Jobs(address_of(cluster))


def _pinned() -> list[str]:
    """Return what raykd needs in the versions of here, without Ray, which the cluster has."""
    here = {dist.metadata["Name"].lower() for dist in distributions()}
    wanted = [Requirement(line) for line in requires("raykd") or ()]
    names = {one.name.lower() for one in wanted if one.marker is None or "ray" in str(one.marker)} - {"ray", "raykd"}
    return sorted(f"{name}=={version(name)}" for name in names & here)
