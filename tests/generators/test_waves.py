"""Waves: everybody once, nobody too much, and a plan made anew is the rest of the old one."""

import pytest

from raykd.generators.waves import Wave, member_capacity, plan_waves

STEPS = 10


def sizes(plan: list[Wave]) -> list[int]:
    return [len(wave.classes) for wave in plan]


@pytest.mark.parametrize("members", [1, 2, 7, 10, 100, 1000])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("capacity", [1, 3, 64, 5000])
def test_everybody_is_trained_once_by_somebody_who_has_room(members: int, workers: int, capacity: int) -> None:
    plan = plan_waves(dict.fromkeys(range(members), 0), STEPS, workers, capacity)
    assert [cls for wave in plan for cls in wave.classes] == list(range(members))
    assert len(plan) == -(-members // (workers * capacity))
    for wave in plan:
        shares = [wave.share(rank, workers) for rank in range(workers)]
        assert tuple(cls for share in shares for cls in share) == wave.classes
        lengths = [len(share) for share in shares]
        assert max(lengths) <= capacity
        assert max(lengths) - min(lengths) <= 1
    assert max(sizes(plan)) - min(sizes(plan)) <= 1


def test_the_furthest_come_first_and_the_finished_not_at_all() -> None:
    progress = {0: STEPS, 1: 0, 2: 4, 3: 4, 4: 0, 5: STEPS, 6: 7}
    assert plan_waves(progress, STEPS, 1, 2) == [Wave(7, (6,)), Wave(4, (2, 3)), Wave(0, (1, 4))]


def test_members_of_unequal_progress_never_share_a_wave() -> None:
    plan = plan_waves({cls: cls % 3 for cls in range(9)}, STEPS, 4, 100)
    assert plan == [Wave(2, (2, 5, 8)), Wave(1, (1, 4, 7)), Wave(0, (0, 3, 6))]


def test_nothing_is_left_when_all_are_finished() -> None:
    assert plan_waves(dict.fromkeys(range(5), STEPS), STEPS, 2, 3) == []


@pytest.mark.parametrize("members", [7, 10, 100])
@pytest.mark.parametrize(("workers", "capacity"), [(1, 3), (2, 2), (3, 4)])
def test_a_plan_made_anew_is_the_rest_of_the_old_one(members: int, workers: int, capacity: int) -> None:
    """At every interruption on the way: else a resumed run would not repeat the undisturbed one."""
    progress = dict.fromkeys(range(members), 0)
    whole = plan_waves(progress, STEPS, workers, capacity)
    for number, wave in enumerate(whole):
        for done in (1, STEPS - 1):
            progress.update(dict.fromkeys(wave.classes, done))
            assert plan_waves(progress, STEPS, workers, capacity) == [Wave(done, wave.classes), *whole[number + 1 :]]
        progress.update(dict.fromkeys(wave.classes, STEPS))
        assert plan_waves(progress, STEPS, workers, capacity) == whole[number + 1 :]


def test_more_workers_than_members_leave_some_idle() -> None:
    (wave,) = plan_waves({4: 0, 9: 0}, STEPS, 3, 8)
    assert [wave.share(rank, 3) for rank in range(3)] == [(4,), (9,), ()]


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        # A member of 1000 numbers and 2 images of 500 bytes is 17000 bytes, and 60 % may be used.
        (17_000 * 10, 6),
        (17_000, 1),
        (0, 1),
        (17_000 * 10_000, 256),  # 512 images are enough for a processor
    ],
)
def test_the_capacity_is_what_fits(free: int, expected: int) -> None:
    assert member_capacity(free, 1000, 2, 500, "cpu") == expected


def test_a_gpu_takes_more_images_at_once() -> None:
    assert member_capacity(10**15, 1000, 2, 500, "cuda") == 2048
    assert member_capacity(10**15, 1000, 5000, 500, "cuda") == 1
