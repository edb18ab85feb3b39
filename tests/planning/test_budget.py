"""A time is shared so that rounds are prefixes of schedules, and the whole fits."""

import pytest

from raykd.planning.budget import Budget, Entrant, share_budget
from raykd.planning.timing import RunTiming
from raykd.recipe.candidates import Candidate, candidates

BY_NAME: dict[str, Candidate] = {one.name: one for one in reversed(candidates())}


def entrant(name: str, step: float, report: float = 0.1, warm: float | None = None, build: float = 0.5) -> Entrant:
    candidate = BY_NAME[name]
    recipe = candidate.load()
    phases = [step] if warm is None else [warm, step]
    variants = len(candidate.variants(recipe))
    return Entrant(
        name,
        RunTiming(build, phases, report),
        lambda steps, every: candidate.with_schedule(recipe, steps, every),
        variants,
        candidate.control,
    )


def entrants() -> list[Entrant]:
    return [entrant("fast", 0.9, warm=0.4), entrant("dafl", 0.03), entrant("dfad", 0.2), entrant("noise", 0.02)]


def total(budget: Budget, names: list[str]) -> float:
    """Seconds of the search and of the slowest winner."""
    first = sum(slot.first_seconds for slot in budget.slots.values())
    variants = budget.settings * max(slot.first_seconds for slot in budget.slots.values())
    ways = [budget.slots[name] for name in names]
    further = sum(slot.finalist_seconds - slot.first_seconds for slot in ways[:2])
    return first + variants + further + max(slot.seconds - slot.finalist_seconds for slot in ways)


@pytest.mark.parametrize("minutes", [2, 3, 10, 60])
def test_all_rounds_together_fit_and_use_the_time(minutes: float) -> None:
    budget = share_budget(entrants(), 60 * minutes, spent=5.0)
    assert not budget.left_out
    rivals = ["fast", "dafl", "dfad"]
    assert 0.6 * 60 * minutes < total(budget, rivals) <= 60 * minutes
    assert budget.seconds <= 60 * minutes
    for slot in budget.slots.values():
        every, steps = slot.recipe.schedule.report_every, slot.recipe.schedule.steps
        assert steps % every == slot.first % every == slot.finalist % every == 0
        assert 0 < slot.first <= slot.finalist < steps
        assert len(str(every).rstrip("0")) <= 2, "no more digits than a clock is worth"


def test_the_search_takes_less_than_half_and_the_candidates_alike() -> None:
    budget = share_budget(entrants(), 600, spent=5.0)
    best = budget.slots["dafl"]
    assert best.seconds > 0.5 * 600
    firsts = {name: slot.first_seconds for name, slot in budget.slots.items()}
    noise = firsts.pop("noise")
    assert max(firsts.values()) < 2.5 * min(firsts.values()), "up to a report"
    assert noise < 0.8 * max(firsts.values())


@pytest.mark.parametrize("minutes", [2, 10])
def test_a_slice_is_not_over_before_the_student_learns(minutes: float) -> None:
    entrants = [entrant("fast", 0.9, warm=0.8), entrant("dafl", 0.03), entrant("noise", 0.02)]
    slot = share_budget(entrants, 60 * minutes, spent=5.0).slots["fast"]
    warm = getattr(slot.recipe.method, "warmup_calls")  # noqa: B009
    assert slot.first >= warm + slot.recipe.schedule.report_every


def test_settings_are_varied_only_where_there_is_time() -> None:
    short, long = (share_budget(entrants(), 60 * minutes, spent=5.0) for minutes in (3, 20))
    assert short.settings == 0
    assert short.why_no_settings is not None
    assert "does not suffice to vary settings" in short.why_no_settings
    assert 1 <= long.settings <= 3


def test_what_takes_too_long_is_left_out_and_said() -> None:
    budget = share_budget(
        [entrant("fast", 60.0, warm=9.0), entrant("dafl", 0.03), entrant("noise", 0.02)], 120, spent=1.0
    )
    assert set(budget.slots) == {"dafl", "noise"}
    assert "a step takes 60 s" in budget.left_out["fast"]
    assert "give more --minutes" in budget.left_out["fast"]


def test_what_grows_with_the_schedule_is_in_its_cost() -> None:
    slot = share_budget(entrants(), 3600, spent=5.0).slots["fast"]
    method = slot.recipe.method
    assert getattr(method, "warmup_calls") == round(0.03 * slot.recipe.schedule.steps)  # noqa: B009
    warm, rest = 0.4 * method.warmup_calls, 0.9 * (slot.recipe.schedule.steps - method.warmup_calls)  # type: ignore[union-attr]
    reports = 0.1 * slot.recipe.schedule.steps / slot.recipe.schedule.report_every
    assert slot.seconds == pytest.approx(warm + rest + reports)


def test_one_candidate_alone_has_all_but_its_control_s_part() -> None:
    budget = share_budget([entrant("dafl", 0.03), entrant("noise", 0.02)], 300, spent=2.0)
    assert budget.finalists == 1
    assert budget.slots["dafl"].seconds > 0.6 * 300


def test_no_time_buys_more_steps_than_a_schedule_may_have() -> None:
    budget = share_budget([entrant("dafl", 1e-6, report=1e-6), entrant("noise", 1e-6, report=1e-6)], 6e6, spent=5.0)
    assert 10**7 < budget.slots["dafl"].recipe.schedule.steps <= 10**8
