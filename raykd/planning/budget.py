"""Share a time among candidates: how long each one's schedule is, and up to which step each round trains it.

In round 1 all candidates get equally many seconds, a control half of them. Then, where there is time for it, the
leader's settings are varied, each for as long; the two best go on, and the best to the end of its schedule. A schedule
is as long as all the time buys that its candidate would have in the end, so a round trains a prefix of it (successive
halving, Jamieson and Talwalkar 2016, arXiv 1502.07943).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raykd.methods import METHODS
from raykd.planning.timing import RunTiming
from raykd.recipe.recipe import Recipe

_FIRST, _FINALISTS = 0.2, 0.05  # of the time: all candidates of round 1 together, and each of two finalists
_FIRST_ALONE = 0.3  # the former where there is no time to vary settings
_CONTROL = 0.5  # of another candidate's seconds: what learns from noise is soon as good as it will be
_SETTINGS = 0.12  # of the time, that varied settings take at most
_LEAST_SLICE = 20.0  # seconds that a setting must be tried for, so that it tells anything
_MOST_SETTINGS = 3
_CLOSING = 0.04  # of the time: the test split, the export, the pages
_JUDGING = 0.03
_REPORTS = 0.08  # of a run's time that its reports may take
_FEWEST_REPORTS, _MOST_REPORTS = 12, 30
_FEWEST_STEPS, _MOST_STEPS = 12, 10**8

WithSchedule = Callable[[int, int], Recipe]
"""From steps and ``report_every`` to a recipe."""


@dataclass(frozen=True)
class Entrant:
    """A candidate before its schedule is known: how long its run takes, and its recipe for any budget."""

    name: str
    timing: RunTiming
    with_schedule: WithSchedule
    variants: int
    is_control: bool


@dataclass(frozen=True)
class Slot:
    """A candidate with its schedule, the steps at which rounds leave it, and the seconds up to these and in all."""

    recipe: Recipe
    first: int
    finalist: int
    first_seconds: float
    finalist_seconds: float
    seconds: float


@dataclass(frozen=True)
class Budget:
    """A time, shared.

    Attributes:
        slots: by name, of candidates that the time suffices for; ``left_out`` says of the others why.
        settings: how many variants of the leader are tried; 0 for none, which ``why_no_settings`` tells.
        finalists: how many go on behind the first rounds.
        seconds: of all rounds and what is between them, as expected.
    """

    slots: Mapping[str, Slot]
    left_out: Mapping[str, str]
    settings: int
    why_no_settings: str | None
    finalists: int
    seconds: float


def share_budget(entrants: Sequence[Entrant], seconds: float, spent: float) -> Budget:
    """Share what is left of a time among candidates.

    Args:
        entrants: with the control.
        seconds: in all.
        spent: of these already.
    """
    rivals = [one for one in entrants if not one.is_control]
    finalists = min(2, len(rivals)) if len(rivals) > 1 else 1
    building = max((one.timing.build for one in entrants), default=0.0)
    starts = len(entrants) + finalists + 2
    left = max(0.0, seconds * (1 - _CLOSING - _JUDGING) - spent - starts * building)
    shares = len(rivals) + _CONTROL * (len(entrants) - len(rivals))
    first = _FIRST * left / shares if len(entrants) > 1 else 0.0
    settings, why = _settings(rivals, first, left, building)
    if not settings:
        first *= _FIRST_ALONE / _FIRST
    extra = _FINALISTS * left if finalists > 1 else 0.0
    left -= settings * building
    others = first * (shares - 1 + settings) + extra * (finalists - 1)
    slots, left_out = {}, {}
    for one in entrants:
        own = _CONTROL * first if one.is_control else first
        slot = _slot(one, max(0.0, left - others), own, extra)
        if isinstance(slot, str):
            left_out[one.name] = slot
        else:
            slots[one.name] = slot
    expected = spent + (starts + settings) * building + seconds * (_CLOSING + _JUDGING) + left
    return Budget(slots, left_out, settings, why, finalists, min(expected, seconds) if slots else spent)


def _settings(rivals: Sequence[Entrant], first: float, left: float, building: float) -> tuple[int, str | None]:
    """Return how many settings of a leader may be tried, and why none if it is none."""
    possible = min(_MOST_SETTINGS, max((one.variants for one in rivals), default=0))
    if not possible:
        return 0, "there are none to vary"
    if first < _LEAST_SLICE:
        return 0, (
            f"the budget does not suffice to vary settings: each would have {first:.0f} s, and {_LEAST_SLICE:.0f} s is "
            "the least that tells anything"
        )
    return max(1, min(possible, int(_SETTINGS * left / (first + building)))), None


def _slot(entrant: Entrant, whole: float, first: float, extra: float) -> Slot | str:
    """Return a candidate's schedule for ``whole`` seconds, of which round 1 has ``first``; or why it has none."""
    timing = entrant.timing

    def fits(steps: int, every: int, limit: float) -> bool:
        return steps <= _MOST_STEPS and timing.seconds(entrant.with_schedule(steps, every)) <= limit

    shortest = entrant.with_schedule(_FEWEST_STEPS, 1)
    least = timing.seconds(shortest)
    if not whole:
        return "the time was over before its first step; give more --minutes"
    if least > whole:
        return (
            f"a step takes {timing.step:.2g} s, and {_FEWEST_STEPS} of them with their reports {least:.0f} s: more "
            f"than its {whole:.0f} s; give more --minutes"
        )
    wanted = _FEWEST_REPORTS if not first else max(_FEWEST_REPORTS, round(whole / first))
    reports = min(_MOST_REPORTS, max(wanted, int(_REPORTS * whole / max(timing.report, 1e-6))))
    every = 1
    while fits(reports * every * 2, every * 2, whole):
        every *= 2
    step = every
    while step := step // 2:
        if fits(reports * (every + step), every + step, whole):
            every += step
    every = _rounded(every)
    while reports > 1 and not fits(reports * every, every, whole):
        reports -= 1
    recipe = entrant.with_schedule(reports * every, every)
    ends = _end(timing, recipe, first), _end(timing, recipe, first + extra)
    spent = [timing.seconds(recipe, end) for end in ends]
    return Slot(recipe, *ends, spent[0], spent[1], timing.seconds(recipe))


def _end(timing: RunTiming, recipe: Recipe, seconds: float) -> int:
    """Return the step of the last report that is there by then; at least a report's worth of the last phase is.

    Before that phase a method may not have begun with its student.
    """
    every, steps = recipe.schedule.report_every, recipe.schedule.steps
    begin = METHODS[recipe.method.name].phases(recipe.method, steps)[-1].start
    reports = -(-begin // every) + 1
    while every * (reports + 1) < steps and timing.seconds(recipe, every * (reports + 1)) <= seconds:
        reports += 1
    return min(every * reports, steps - every) or steps


def _rounded(count: int) -> int:
    """Return a count down to two digits that matter: what a clock has measured has no more."""
    unit = 1
    while count // unit >= 100:
        unit *= 10
    return count // unit * unit
