"""Workers that must be joined: moments over the images of all of them, and the players of games."""

from typing import Any

import pytest
import torch

from raykd.distributed.world import World
from tests.methods import two_workers
from tests.methods.patterns import CLASSES, double_precision
from tests.methods.toy import made_method, made_setting
from tests.worker_pair import run_two_workers

Saved = dict[str, Any]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[Saved]:
    """What each of two workers saved."""
    folder = tmp_path_factory.mktemp("inverters")
    run_two_workers("tests.methods.two_workers", folder, seconds=240, CUDA_VISIBLE_DEVICES="")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("moments", ["distance", "divergence"])
def test_global_statistics_on_two_workers_train_the_members_of_one(workers: list[Saved], moments: str) -> None:
    assert [worker["place"] for worker in workers] == [(0, 2, 4), (1, 2, 4)]
    with double_precision():
        alone = two_workers.whole_bank(World.alone(), moments)
    first, second = (worker[moments] for worker in workers)
    assert len(first["members"]) == len(second["members"]) == CLASSES // 2
    together = {**first["members"], **second["members"]}
    assert together.keys() == alone["members"].keys()
    for name, state in alone["members"].items():
        for key, tensor in state.items():
            torch.testing.assert_close(together[name][key], tensor, rtol=1e-7, atol=1e-9, msg=f"{name} {key}")
    for name, value in alone["metrics"].items():
        torch.testing.assert_close(first["metrics"][name], value.detach(), check_dtype=False, msg=name)
        torch.testing.assert_close(second["metrics"][name], value.detach(), check_dtype=False, msg=name)


@pytest.mark.parametrize("statistics", ["global", "class"])
def test_the_replicas_of_a_single_generator_stay_equal(workers: list[Saved], statistics: str) -> None:
    first, second = (worker[statistics] for worker in workers)
    for name, tensor in first["parameters"].items():
        assert torch.equal(tensor, second["parameters"][name]), name
    torch.testing.assert_close(first["first"], second["first"])  # a term of all images, so the same everywhere
    assert (first["products"], second["products"]) == (["class_every"], [])


def test_the_moments_of_a_row_are_those_of_all_workers_images(workers: list[Saved]) -> None:
    layers = [layer.clone().requires_grad_() for layer in two_workers.seen()]
    wanted = [(x.transpose(1, 2).flatten(2).mean(2), x.transpose(1, 2).flatten(2).var(2, correction=0)) for x in layers]
    loss = sum(((mean - 0.3).norm() + (var - 2.0).norm() for mean, var in wanted), torch.zeros(()))
    gradients = torch.autograd.grad(loss, layers)
    for worker in workers:
        for (mean, var), (own_mean, own_var) in zip(wanted, worker["rows"]["moments"], strict=True):
            torch.testing.assert_close(own_mean, mean.detach(), check_dtype=False)
            torch.testing.assert_close(own_var, var.detach(), check_dtype=False)
    for layer, gradient in enumerate(gradients):
        parts = [worker["rows"]["gradients"][layer] for worker in workers]
        torch.testing.assert_close(torch.cat(parts, dim=1), gradient, check_dtype=False, rtol=1e-5, atol=1e-6)


def test_all_workers_take_what_fits_the_poorest(workers: list[Saved]) -> None:
    assert [worker["capacity"] for worker in workers] == [2, 2]  # one member each


def test_the_figures_of_a_bank_are_those_of_all_workers_generators(workers: list[Saved]) -> None:
    with double_precision():
        alone = two_workers.figures(World.alone(), "lsgdfd", statistics="class")
        one = two_workers.figures_of_one(World.alone())
    for worker in workers:
        assert worker["figures of a bank"].keys() == alone.keys()
        for name in alone.keys() - {"images/batch_norm_gap"}:  # of the images of a batch, of which a worker has others
            torch.testing.assert_close(worker["figures of a bank"][name], alone[name], msg=name)
        assert worker["figures of one"] == pytest.approx(one)
    for name in ("figures of a conditional generator", "figures of a generator"):
        assert workers[0][name] == workers[1][name]
        assert ("images/hit" in workers[0][name]) == ("conditional" in name)


@pytest.mark.parametrize(("name", "fields"), [("mosaickd", {}), ("adversarial", two_workers.ADVERSARIAL)])
def test_two_workers_play_the_game_of_one(workers: list[Saved], name: str, fields: dict[str, Any]) -> None:
    with double_precision():
        alone = two_workers.game(World.alone(), name, **fields)
        start = made_method(name, made_setting(dropout=0.0), **fields).trained
    for role, network in start.items():
        before = network.state_dict()
        moved = sum(float((tensor - before[key]).abs().sum()) for key, tensor in alone[role].items())
        assert moved > 1e-3, f"the {role} learned nothing"
    for role, state in alone.items():
        for key, tensor in state.items():
            for worker in workers:
                torch.testing.assert_close(worker[name][role][key], tensor, rtol=1e-7, atol=1e-9, msg=f"{role} {key}")


@pytest.mark.parametrize("views", [0, 2])
def test_a_pool_of_two_workers_is_that_of_one_and_teaches_the_same(workers: list[Saved], views: int) -> None:
    alone = two_workers.pooled(World.alone(), views)
    first, second = (worker[f"pool of {views} views"] for worker in workers)
    for mine, halves in zip(alone["drawn"], zip(first["drawn"], second["drawn"], strict=True), strict=True):
        rows = [half.unflatten(0, (two_workers.STEPS, -1)) for half in halves]
        assert torch.equal(torch.cat(rows, dim=1).flatten(0, 1), mine), "each draws its rows of the same draw"
    for worker in (first, second):
        assert torch.equal(worker["held out"], alone["held out"])
        assert len(worker["part"][0]) == len(alone["part"][0]) // 2, "each keeps its half"
    numbers = torch.cat([first["part"][2], second["part"][2]])
    for mine, *both in zip(alone["part"], first["part"], second["part"], strict=True):
        assert torch.equal(torch.cat(both)[numbers.argsort()], mine)
    for name, weights in alone["student"].items():
        torch.testing.assert_close(first["student"][name], weights, rtol=1e-4, atol=1e-6, msg=name)
        assert torch.equal(first["student"][name], second["student"][name]), name


def test_a_pool_is_taken_over_by_more_workers_and_by_fewer(workers: list[Saved]) -> None:
    parts = [worker["pool of 0 views"]["part"] for worker in workers]
    alone = two_workers.taken_over(World.alone(), parts)
    assert torch.equal(torch.cat([worker["taken over"]["images"] for worker in workers]), alone)
