"""Files of ``ray up``: what raykd reads of them; the rest Ray checks by its own schema before it starts anything."""

from typing import Any

from raykd.cluster.foreign import Count, ForeignConfig


class Provider(ForeignConfig):
    """The provider of the machines."""

    type: str
    worker_ips: list[Any] = []


class Resources(ForeignConfig):
    """The CPUs and GPUs of a machine."""

    CPU: Count | None = None
    GPU: Count | None = None


class NodeType(ForeignConfig):
    """A group of machines that are alike."""

    max_workers: Count | None = None
    resources: Resources = Resources()


class RayUp(ForeignConfig):
    """A cluster of machines over SSH, or of a cloud's."""

    provider: Provider
    max_workers: Count | None = None
    head_node_type: str | None = None
    available_node_types: dict[str, NodeType] = {}
    file_mounts: dict[str, Any] = {}
    head_start_ray_commands: list[str] = []
    worker_start_ray_commands: list[str] = []
