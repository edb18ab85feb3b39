"""Two workers do what one does; the workers are processes of their own, joined as by torchrun."""

import json
from functools import partial
from typing import Any

import pytest
import torch

from raykd.distributed.simulated import SimulatedWorld
from raykd.distributed.world import World
from raykd.errors import CorruptError, UsageError
from tests.distributed import two_workers
from tests.worker_pair import run_two_workers

Saved = dict[str, Any]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[Saved]:
    """What each of two workers saved."""
    folder = tmp_path_factory.mktemp("workers")
    run_two_workers("tests.distributed.two_workers", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_close(one: Saved, other: Saved, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=tolerance, msg=name)


def test_workers_joined_one_world(workers: list[Saved]) -> None:
    assert [worker["place"] for worker in workers] == [(0, 2), (1, 2)]
    assert [worker["heard"] for worker in workers] == [{"from": 0}] * 2
    for worker in workers:
        assert worker["sum"].tolist() == [2.0, 1.0]
        assert worker["gathered"].tolist() == [[0.0], [1.0]]


def test_workers_draw_different_noise_and_together_that_of_one(workers: list[Saved]) -> None:
    rows = [worker["rows"] for worker in workers]
    assert not any(torch.equal(row, other) for row in rows[0] for other in rows[1])
    alone = World.alone().randn(two_workers.BATCH, 3, seed=7, step=2)
    assert torch.equal(torch.cat(rows), alone)
    assert not torch.equal(alone, World.alone().randn(two_workers.BATCH, 3, seed=7, step=3))


def test_workers_end_with_the_same_weights(workers: list[Saved]) -> None:
    for name in ("distilled", "ddp", "balanced"):
        parameters = [dict(worker[name]) for worker in workers]
        for key in parameters[0]:
            if "running" not in key:
                assert torch.equal(parameters[0][key], parameters[1][key]), (name, key)


def test_workers_begin_alike_whatever_they_were_initialised_from(workers: list[Saved]) -> None:
    assert_close(workers[1]["synchronised"], workers[0]["synchronised"], 0.0)
    assert_close(workers[0]["synchronised"], two_workers.network(10, "lenet5_bn").state_dict(), 0.0)


def test_two_workers_distil_like_one_where_no_batch_normalisation_is(workers: list[Saved]) -> None:
    alone = two_workers.distilled(World.alone()).state_dict()
    assert_close(workers[0]["distilled"], alone, 1e-5)
    start = two_workers.network(1).state_dict()
    assert max((alone[key] - start[key]).abs().max() for key in alone) > 1e-2


def test_a_term_of_the_global_mean_has_the_gradient_of_one_worker(workers: list[Saved]) -> None:
    alone = two_workers.balanced(World.alone()).state_dict()
    assert_close(workers[0]["balanced"], alone, 1e-5)
    start = two_workers.network(2).state_dict()
    assert max((alone[key] - start[key]).abs().max() for key in alone) > 1e-3


def test_updater_equals_torch_ddp(workers: list[Saved]) -> None:
    for worker in workers:
        assert_close(worker["normalised"], worker["ddp"], 1e-6)


def test_rows_go_where_they_are_sent(workers: list[Saved]) -> None:
    for rank, worker in enumerate(workers):
        expected = [[sender, rank, number] for sender in range(2) for number in range(rank + 1)]
        assert worker["exchanged"].tolist() == expected
    rows = torch.randn(3, 2)
    assert torch.equal(World.alone().exchange(rows, [3], [3]), rows)


@pytest.fixture(scope="module")
def alone() -> Saved:
    """What one worker makes of the whole bank."""
    return two_workers.distilled_from_bank(World.alone(), range(two_workers.CLASSES))


@pytest.mark.parametrize("way", ["bank_copy", "bank_exchange"])
def test_two_workers_learn_from_a_bank_like_one_however_it_is_held(
    workers: list[Saved], alone: Saved, way: str
) -> None:
    rows = torch.cat([worker[way]["images"] for worker in workers], dim=1)
    torch.testing.assert_close(rows, alone["images"], rtol=1e-5, atol=1e-5)
    assert (alone["images"].flatten(0, 1).flatten(1).std(0) > 1e-2).any()  # rows that could be confused
    for worker in workers:
        assert_close(worker[way]["weights"], alone["weights"], 1e-5)
        torch.testing.assert_close(worker[way]["sheet"], alone["sheet"], rtol=1e-5, atol=1e-5)
    assert torch.equal(workers[0][way]["sheet"], workers[1][way]["sheet"])
    start = two_workers.network(1).state_dict()
    assert max((alone["weights"][key] - start[key]).abs().max() for key in start) > 1e-3


def test_images_that_travel_in_bfloat16_are_nearly_the_same(workers: list[Saved], alone: Saved) -> None:
    rows = torch.cat([worker["bank_bfloat16"]["images"] for worker in workers], dim=1)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, rows.bfloat16().float())
    assert (rows - alone["images"]).abs().max() < 0.05 * alone["images"].abs().max()


def test_a_batch_that_does_not_divide_is_refused_with_what_would() -> None:
    with pytest.raises(UsageError, match=r"10 does not divide among 4 workers.*\[1, 2, 5\]"):
        World(0, 4, torch.device("cpu")).share(10)


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """How each of two workers saw the actions end."""
    folder = tmp_path_factory.mktemp("agreed")
    run_two_workers("tests.distributed.agreeing", folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def failed(error: str, message: str, exit_code: int | None, cause: str | None = None) -> dict[str, Any]:
    return {"error": error, "message": message, "exit_code": exit_code, "cause": cause}


def test_workers_that_agree_have_their_own_result_or_that_of_the_first(agreed: list[dict[str, Any]]) -> None:
    assert [worker["own_results"] for worker in agreed] == [{"result": 0}, {"result": 10}]
    assert [worker["result_of_first"] for worker in agreed] == [{"result": {"from": 0}}] * 2
    assert [worker["still_together"] for worker in agreed] == [[0, 1]] * 2


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("second_fails", failed("CorruptError", "torn", 4)),
        ("first_fails", failed("Interrupted", "stopped at step 3 of 7, saved; the same command continues", 130)),
    ],
)
def test_an_error_of_one_worker_is_that_of_all(agreed: list[dict[str, Any]], case: str, error: dict[str, Any]) -> None:
    assert [worker[case] for worker in agreed] == [error] * 2


def test_of_two_errors_that_of_the_lower_rank_is_raised_from_the_other(agreed: list[dict[str, Any]]) -> None:
    error = failed("SetupError", "disk", 3)
    assert [worker["both_fail"] for worker in agreed] == [error, {**error, "cause": "MissingData"}]


def test_a_bug_is_raised_where_it_is_and_named_elsewhere(agreed: list[dict[str, Any]]) -> None:
    bug = failed("KeyError", "'x'", None)

    def named(rank: int) -> dict[str, Any]:
        return failed("WorkerFailed", f"worker {rank} failed with KeyError: 'x'; its output has the traceback", 1)

    assert [worker["bug_of_second"] for worker in agreed] == [named(1), bug]
    assert [worker["bug_of_first"] for worker in agreed] == [bug, named(0)]
    assert [worker["error_and_bug"] for worker in agreed] == [failed("CorruptError", "torn", 4), bug]


def test_who_waits_for_a_worker_knows_how_long(agreed: list[dict[str, Any]]) -> None:
    first, second = (worker["waited"] for worker in agreed)
    assert first > 0.4
    assert second < first


def test_a_worker_that_is_left_alone_says_so_in_one_line(agreed: list[dict[str, Any]]) -> None:
    told = agreed[0]["left_alone"]
    assert (told["error"], told["exit_code"]) == ("WorkerFailed", 1)
    assert told["message"].startswith("another worker ended, or did not answer in time, behind step 0")
    assert "the same command continues" in told["message"]


@pytest.mark.parametrize("on_first", [False, True])
@pytest.mark.parametrize("world", [World.alone(), SimulatedWorld(0, 4, torch.device("cpu"))])
def test_a_worker_without_others_agrees_with_itself(world: World, on_first: bool) -> None:
    own, bug = CorruptError("torn"), KeyError("x")

    def fail(error: Exception) -> None:
        raise error

    assert world.agree(lambda: 5, on_first=on_first) == 5
    for error in (own, bug):
        with pytest.raises(type(error)) as caught:
            world.agree(partial(fail, error), on_first=on_first)
        assert caught.value is error
