"""What KubeRay's pods have, by the limits of Ray's container."""

from typing import Any

import pytest

from raykd.cluster.kuberay import WorkerGroup


def group(**resources: Any) -> WorkerGroup:
    beside = {"name": "logs", "resources": {"limits": {"cpu": "9"}}}
    return WorkerGroup(template={"spec": {"containers": [{"name": "ray", "resources": resources}, beside]}})


@pytest.mark.parametrize(
    ("resources", "amounts"),
    [
        ({}, {}),
        ({"limits": {"cpu": "500m"}}, {"CPU": 0.5, "GPU": 0}),
        ({"limits": {"cpu": 8, "nvidia.com/gpu": 2, "amd.com/gpu": "1", "memory": "4Gi"}}, {"CPU": 8, "GPU": 3}),
        ({"limits": {"cpu": "2"}, "claims": [{"name": "gpu"}]}, {"CPU": 2}),
    ],
)
def test_limits_are_counted_as_kubernetes_writes_them(resources: dict[str, Any], amounts: dict[str, float]) -> None:
    assert group(**resources).resources() == amounts


@pytest.mark.parametrize("cpu", ["2k", "-1", "1e3", "", "m"])
def test_a_limit_that_is_no_number_of_cpus_is_refused(cpu: str) -> None:
    with pytest.raises(ValueError, match="got"):
        group(limits={"cpu": cpu}).resources()
