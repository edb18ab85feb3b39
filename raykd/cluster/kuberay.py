"""Manifests of KubeRay's operator (ray.io/v1): their own fields here, pods by Kubernetes' schemas, all offline.

Fields are those of KubeRay 1.6. ``kubernetes-validate`` carries the schemas of the pods.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raykd.config.base import Config

Labels = dict[str, str]


class AuthOptions(Config):
    """Who may use the cluster."""

    mode: Literal["disabled", "token"]
    enableK8sTokenAuth: bool | None = None
    secretName: str | None = None


class HeadGroup(Config):
    """The pod of Ray's head."""

    serviceType: str | None = None
    headService: dict[str, Any] | None = None
    enableIngress: bool | None = None
    resources: Labels = {}
    labels: Labels = {}
    rayStartParams: Labels = {}
    template: dict[str, Any]


class WorkerGroup(Config):
    """Pods of workers that are alike."""

    groupName: str
    replicas: int | None = Field(default=None, ge=0)
    minReplicas: int = Field(default=0, ge=0)
    maxReplicas: int = Field(default=2147483647, ge=0)
    numOfHosts: int = Field(default=1, ge=1)
    idleTimeoutSeconds: int | None = Field(default=None, ge=0)
    suspend: bool | None = None
    scaleStrategy: dict[str, Any] | None = None
    resources: Labels = {}
    labels: Labels = {}
    rayStartParams: Labels = {}
    template: dict[str, Any]


class ClusterSpec(Config):
    """What a cluster is made of."""

    rayVersion: str | None = None
    authOptions: AuthOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: dict[str, Any] | None = None
    gcsFaultToleranceOptions: dict[str, Any] | None = None
    headServiceAnnotations: Labels = {}
    managedBy: str | None = None
    suspend: bool | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: tuple[WorkerGroup, ...] = ()

    def templates(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every pod template with where it stands."""
        yield "headGroupSpec.template", self.headGroupSpec.template
        for number, group in enumerate(self.workerGroupSpecs):
            yield f"workerGroupSpecs.{number}.template", group.template


class JobSpec(Config):
    """What a job runs, and on which cluster of its own."""

    entrypoint: str = Field(min_length=1)
    rayClusterSpec: ClusterSpec
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"] | None = None
    jobId: str | None = None
    metadata: Labels = {}
    runtimeEnvYAML: str | None = None
    backoffLimit: int | None = Field(default=None, ge=0)
    activeDeadlineSeconds: int | None = Field(default=None, ge=1)
    preRunningDeadlineSeconds: int | None = Field(default=None, ge=1)
    shutdownAfterJobFinishes: bool | None = None
    ttlSecondsAfterFinished: int | None = Field(default=None, ge=0)
    deletionStrategy: dict[str, Any] | None = None
    submitterPodTemplate: dict[str, Any] | None = None
    submitterConfig: dict[str, Any] | None = None
    entrypointNumCpus: float | None = Field(default=None, ge=0)
    entrypointNumGpus: float | None = Field(default=None, ge=0)
    entrypointResources: str | None = None
    managedBy: str | None = None
    suspend: bool | None = None


class _Manifest(Config):
    apiVersion: Literal["ray.io/v1"]
    metadata: dict[str, Any]


class RayCluster(_Manifest):
    """A cluster that stays."""

    kind: Literal["RayCluster"]
    spec: ClusterSpec

    @property
    def cluster(self) -> tuple[str, ClusterSpec]:
        """Return the cluster's part, and where it stands."""
        return "spec", self.spec


class RayJob(_Manifest):
    """A job with a cluster of its own."""

    kind: Literal["RayJob"]
    spec: JobSpec

    @property
    def cluster(self) -> tuple[str, ClusterSpec]:
        """Return the cluster's part, and where it stands."""
        return "spec.rayClusterSpec", self.spec.rayClusterSpec


def quantity(text: Any) -> float:
    """Return the number that a Kubernetes quantity of CPUs or devices says, as in 500m.

    Raises:
        ValueError: if it says none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", str(text))
    if match is None:
        raise ValueError(f"got {text!r}")
    return float(match[1]) / (1000 if match[2] else 1)
