"""What raykd takes of Ray without a promise is there in the Ray that is installed, and does what it is taken for."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest


def test_the_resource_of_the_head_node_is_the_one_that_ray_gives_it() -> None:
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    from raykd.runners.ray.internals import HEAD_RESOURCE

    assert HEAD_RESOURCE == HEAD_NODE_RESOURCE_NAME


def test_ray_knows_the_options_that_keep_it_on_the_loopback_device() -> None:
    import ray

    from raykd.runners.ray.internals import ON_LOOPBACK

    handler = signal.getsignal(signal.SIGTERM)  # which Ray replaces before it refuses to start
    try:
        with pytest.raises(RuntimeError, match=r"Unknown keyword argument\(s\): _no_such_option$"):
            ray.init(address="local", _no_such_option=1, **ON_LOOPBACK)
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_workers_search_the_drivers_folders_behind_the_library() -> None:
    from raykd.runners.ray.internals import behind_library
    from raykd.surroundings import library_folders

    folders = behind_library()._py_driver_sys_path
    folders.extend(["/program", os.getcwd()])  # where the program lies, and where it was started
    path = ["/packages"]
    for folder in folders:  # as a worker does
        path.insert(0, folder)
    library = library_folders()
    assert path[: len(library) + 1] == [*library, "/program"]
    assert os.getcwd() not in path[: -len(library)]


def test_elastic_training_takes_only_numbers_that_fit() -> None:
    from ray.train import ScalingConfig

    from raykd.runners.ray.internals import FittingPolicy

    options: dict[str, Any] = {"num_workers": (2, 8), "resources_per_worker": {"CPU": 2}}
    policy = FittingPolicy(ScalingConfig(**options), [2, 4, 8])
    nodes = [{"a": {"CPU": cpus}} for cpus in (1, 4, 7, 8, 14, 16, 100)]
    assert [policy._count_possible_workers(node) for node in nodes] == [0, 2, 2, 4, 4, 8, 8]


def test_ray_asks_the_method_that_is_overridden_how_many_workers_are_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import ScalingConfig
    from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

    from raykd.runners.ray.internals import FittingPolicy

    options: dict[str, Any] = {"num_workers": (2, 8), "resources_per_worker": {"CPU": 1}}
    policy = FittingPolicy(ScalingConfig(**options), [2, 4, 8])
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: {"a": {"CPU": 7.0}})
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 4


@pytest.mark.parametrize(("fitting", "policy"), [([2, 4], "FittingPolicy"), ([2], "FixedScalingPolicy")])
def test_a_trainer_hands_its_scaling_policy_to_the_method_that_is_overridden(
    monkeypatch: pytest.MonkeyPatch, fitting: list[int], policy: str
) -> None:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api import data_parallel_trainer

    from raykd.runners.ray.internals import ElasticTrainer

    handed: dict[str, Any] = {}

    def take(trainer: Any, **options: Any) -> SimpleNamespace:
        handed.update(options)
        return SimpleNamespace(error=None)

    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", take)
    monkeypatch.setattr(data_parallel_trainer, "ObjectRefWrapper", lambda function: function)  # it would start a Ray
    workers: Any = fitting[0] if len(fitting) == 1 else (fitting[0], fitting[-1])
    ElasticTrainer(print, fitting=fitting, scaling_config=ScalingConfig(num_workers=workers)).fit()
    assert type(handed["scaling_policy"]).__name__ == policy


def test_ray_start_takes_the_loopback_device_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    from raykd.runners.ray.internals import start_on_loopback

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    monkeypatch.setattr(services, "get_node_ip_address", services.get_node_ip_address)
    seen: list[list[str]] = []
    monkeypatch.setattr(scripts, "start", seen.append)
    start_on_loopback(["--head"])
    assert seen == [["--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", "--head"]]
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
