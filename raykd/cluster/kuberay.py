"""Manifests of KubeRay's operator (ray.io/v1): what raykd reads of them. The operator checks the rest itself."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raykd.cluster.foreign import LARGEST, Count, ForeignConfig


class Metadata(ForeignConfig):
    """The name of the cluster or the job."""

    name: str = Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")


class AuthOptions(ForeignConfig):
    """Who may use the cluster."""

    mode: str | None = None


class HeadGroup(ForeignConfig):
    """The pod of Ray's head."""

    template: dict[str, Any]


class WorkerGroup(ForeignConfig):
    """Pods of workers that are alike."""

    replicas: Count | None = None
    minReplicas: Count = 0
    maxReplicas: Count = LARGEST
    numOfHosts: Count = 1
    template: dict[str, Any]

    def resources(self) -> dict[str, float]:
        """Return the CPUs and GPUs of a pod by the limits of its first container, which is Ray's.

        Raises:
            ValueError: for a limit that is no number of CPUs or GPUs.
        """
        container: dict[str, Any] = next(iter(self.template["spec"]["containers"]), {})
        resources = container.get("resources", {})
        limits = resources.get("limits", {})
        amounts = {"CPU": _quantity(limits["cpu"])} if "cpu" in limits else {}
        # As KubeRay counts them: nvidia.com/gpu, amd.com/gpu. A claim (dynamic resource allocation) tells no number.
        if limits and "claims" not in resources:
            amounts["GPU"] = sum(_quantity(amount) for name, amount in limits.items() if str(name).endswith("gpu"))
        return amounts


class ClusterSpec(ForeignConfig):
    """The pods of a cluster, and its settings."""

    rayVersion: str | None = None
    authOptions: AuthOptions = AuthOptions()
    enableInTreeAutoscaling: bool = False
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = []

    def templates(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every pod template with its key in the spec."""
        yield "headGroupSpec.template", self.headGroupSpec.template
        for number, group in enumerate(self.workerGroupSpecs):
            yield f"workerGroupSpecs.{number}.template", group.template


class JobSpec(ForeignConfig):
    """What a job runs, and on which cluster of its own."""

    entrypoint: str
    rayClusterSpec: ClusterSpec


class _Manifest(ForeignConfig):
    apiVersion: Literal["ray.io/v1"]
    metadata: Metadata


class RayCluster(_Manifest):
    """A cluster that stays."""

    spec: ClusterSpec


class RayJob(_Manifest):
    """A job with a cluster of its own."""

    spec: JobSpec


def _quantity(text: Any) -> float:
    """Return the number that a Kubernetes quantity of CPUs or devices says, as in 500m."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(m?)", str(text))
    if match is None:
        raise ValueError(f"got {text!r}")
    return float(match[1]) / (1000 if match[2] else 1)
