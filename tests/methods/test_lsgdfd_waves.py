"""How classes are dealt to workers and waves changes who computes what and when, never what is computed."""

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from raykd.distributed.world import World
from raykd.methods.lsgdfd import Lsgdfd
from tests.methods.patterns import CLASSES, EACH, double_precision, lsgdfd, pattern_setting
from tests.methods.toy import advance, assert_same

STEPS = 6
COSINE = {"name": "adam", "lr": 0.03, "warmup_steps": 2, "schedule": {"name": "cosine"}}
MOMENTUM = {"name": "sgd", "lr": 0.1, "schedule": {"name": "cosine"}}
PLAIN = {"name": "sgd", "lr": 0.1, "momentum": 0.0}
State = tuple[dict[str, Any], dict[str, Tensor]]
Products = dict[str, dict[str, Tensor]]


@pytest.fixture
def double() -> Iterator[None]:
    with double_precision():
        yield


def workers(count: int, wave: int, optim: dict[str, Any] | None = None) -> list[Lsgdfd]:
    """Members of other workers are not looked at, so the workers need not be joined."""
    places = [World(rank, count, torch.device("cpu")) for rank in range(count)]
    settings = [pattern_setting(world=place, wave=wave, steps=STEPS) for place in places]
    return [lsgdfd(context, jitter=2, generator_optim=optim or COSINE) for context in settings]


def run(team: list[Lsgdfd], steps: int | None = None) -> Products:
    """Let all workers make some steps, or all; return what they finish, each thing once."""
    made: Products = {}
    while team[0].steps_done < team[0].total_steps and steps != 0:
        steps = None if steps is None else steps - 1
        for worker in team:
            worker.step({})
        for worker in team:
            assert (worker.milestone, worker.total_steps) == (team[0].milestone, team[0].total_steps)
            assert worker.milestone or not worker.products()
            assert not set(worker.products()) & set(made)
            made.update(worker.products() if worker.milestone else {})
    return made


def saved(team: list[Lsgdfd]) -> State:
    """What the engine writes: the state of one worker and the shards of all, through a file."""
    shards = [worker.shard() for worker in team]
    assert sum(map(len, shards)) == len({name for shard in shards for name in shard})
    states = [worker.state_dict() for worker in team]
    assert all(state == states[0] for state in states)
    buffer = io.BytesIO()
    torch.save((states[0], {name: part for shard in shards for name, part in shard.items()}), buffer)
    buffer.seek(0)
    state, parts = torch.load(buffer, weights_only=True)
    return state, parts


def resumed(state: State, team: list[Lsgdfd]) -> list[Lsgdfd]:
    for worker in team:
        worker.load_state_dict(copy.deepcopy(state[0]))
        worker.load_shard(state[1])
    return team


def assert_close(ours: Products, theirs: Products) -> None:
    assert sorted(ours) == sorted(theirs) == [f"class_{cls:05d}" for cls in range(CLASSES)]
    for name, state in theirs.items():
        for key, tensor in state.items():
            torch.testing.assert_close(ours[name][key], tensor, rtol=1e-6, atol=1e-9, msg=f"{name} {key}")


@pytest.fixture(scope="module")
def undisturbed() -> Products:
    """One worker, all members at once, in double precision."""
    with double_precision():
        return run(workers(1, CLASSES))


@pytest.mark.parametrize("wave", [1, 2, 3])
def test_a_member_is_the_same_in_waves_of_any_size(wave: int, undisturbed: Products, double: None) -> None:
    (worker,) = team = workers(1, wave)
    assert worker.total_steps == -(-CLASSES // wave) * STEPS
    assert_close(run(team), undisturbed)
    assert worker.steps_done == worker.total_steps


@pytest.mark.parametrize(("count", "wave"), [(2, 2), (2, 1), (3, 4), (5, 1)])
def test_a_member_is_the_same_on_any_number_of_workers(
    count: int, wave: int, undisturbed: Products, double: None
) -> None:
    assert_close(run(workers(count, wave)), undisturbed)


def test_members_of_one_bank_are_different_and_other_seeds_give_others(undisturbed: Products) -> None:
    weights = [undisturbed[name]["conv1.weight"] for name in sorted(undisturbed)]
    assert all(not torch.allclose(one, other) for one, other in zip(weights, weights[1:], strict=False))


@pytest.mark.parametrize(
    "layouts",
    [
        [(2, 2, 3), (1, 4, 1), (3, 2, None)],  # workers, members at once, steps until the next interruption
        [(1, 4, 2), (2, 1, 1), (1, 1, 7), (2, 2, None)],  # less room than before: begun members have to wait
        [(2, 1, 6), (3, 1, None)],  # interrupted between two waves
        [(1, 3, 8), (1, 1, 2), (1, 4, None)],
    ],
)
def test_classes_dealt_anew_go_on_where_they_were(
    layouts: list[tuple[int, int, int | None]], undisturbed: Products, double: None
) -> None:
    made: Products = {}
    state: State | None = None
    for count, wave, steps in layouts:
        team = workers(count, wave)
        if state is not None:
            team = resumed(state, team)
            assert_same(saved(team)[1], state[1])  # nothing is lost by being interrupted at once
        finished = run(team, steps)
        assert not set(finished) & set(made)
        made.update(finished)
        state = saved(team)
    assert_close(made, undisturbed)
    assert state is not None
    assert state[0]["progress"] == dict.fromkeys(range(CLASSES), STEPS)
    assert state[1] == {}


@pytest.mark.parametrize(
    ("optim", "count", "wave", "steps"),
    [(COSINE, 1, 4, 3), (COSINE, 2, 1, 4), (COSINE, 2, 1, 6), (MOMENTUM, 1, 2, 9), (PLAIN, 1, 2, 2)],
)
def test_going_on_in_the_same_places_is_bit_exact(optim: dict[str, Any], count: int, wave: int, steps: int) -> None:
    whole = run(workers(count, wave, optim))
    first = workers(count, wave, optim)
    made = run(first, steps)
    state = saved(first)
    torch.manual_seed(999)
    second = resumed(state, workers(count, wave, optim))
    assert second[0].steps_done == steps
    assert_same({**made, **run(second)}, whole)


def test_every_step_has_its_noise_whoever_draws_it() -> None:
    def drawn(team: list[Lsgdfd], steps: int) -> dict[int, list[Tensor]]:
        """The latents of every class, step by step."""
        found: dict[int, list[Tensor]] = {}
        for _ in range(steps):
            for worker in team:
                worker.step({})
                if worker.members is not None:
                    index = worker._progress[worker.members.bank.classes[0]] - 1
                    for cls, z in zip(worker.members.bank.classes, worker.members.latents(11, index), strict=True):
                        found.setdefault(cls, []).append(z)
        return found

    together = drawn(workers(1, 4), STEPS)
    apart = drawn(workers(2, 1), 2 * STEPS)
    assert together.keys() == apart.keys() == set(range(CLASSES))
    for cls, ours in together.items():
        assert torch.equal(torch.stack(ours), torch.stack(apart[cls]))
    rows = torch.stack([z for found in together.values() for z in found]).flatten(0, 1)
    assert len(rows.unique(dim=0)) == CLASSES * STEPS * EACH


def test_figures_are_those_of_all_members_of_a_wave() -> None:
    """The engine averages over workers, one of which may have two members or none."""
    (alone,) = workers(1, 4)
    expected = advance(alone, 2)
    for count in (3, 5):
        team = workers(count, 4)
        for row in expected:
            rows = [worker.step({}) for worker in team]
            for name, value in row.items():
                assert sum(r[name].item() for r in rows) / count == pytest.approx(value, rel=1e-4), name


def test_waves_are_counted_also_over_an_interruption() -> None:
    (worker,) = team = workers(1, 2)
    assert [row["wave"] for row in advance(worker, STEPS + 1)] == [0.0] * STEPS + [1.0]
    (second,) = resumed(saved(team), workers(1, 2))
    assert advance(second, 1)[0]["wave"] == 1.0
    assert second.images_per_step == 2 * EACH


def test_a_step_makes_images_of_the_members_of_its_wave() -> None:
    (worker,) = workers(1, 3)
    assert worker.images_per_step == 2 * EACH
    assert workers(2, 1)[0].images_per_step == 2 * EACH
    assert workers(1, 4)[0].images_per_step == 4 * EACH
