"""A student near chance comes with its likeliest causes, those first of which a sign was measured."""

from typing import Any

import pytest

from raykd.results import RunResult
from raykd.runners.distill.causes import likeliest_causes

HEALTHY: dict[str, Any] = {"batch_norms": 3, "sick": [], "constants": "as given"}
FLAT = [{"blind/agreement": 20.0}] * 8
RISING = [{"blind/agreement": 5.0 * number} for number in range(8)]


def causes(about: dict[str, Any] | None = None, rows: Any = FLAT, steps: int = 1000, **of_run: Any) -> list[str]:
    result = RunResult(run="r", seed=0, **of_run)
    text = likeliest_causes({**HEALTHY, **(about or {})}, result, rows, steps)
    assert text.startswith("the likeliest causes: (1) ")
    return [part.partition(") ")[2] for part in text.removeprefix("the likeliest causes: ").split("; (")]


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({"warnings": ["constants: its first BatchNorm remembers"]}, "are not the teacher's: its first BatchNorm"),
        ({"about": {"batch_norms": 0}}, "without BatchNorm nothing can tell whether that is right"),
        (
            {"about": {"sick": ["never_updated"]}},
            "that images could be made by: those of",
        ),
        ({"not_judged": "to the teacher they show 40 %"}, "few classes, or alike: to the teacher they show 40 %"),
        ({"warnings": ["collapse: few classes"]}, "few classes, or alike: collapse: few classes"),
        ({"rows": RISING}, "the budget is too small: agreement on its own images still rose"),
        ({"steps": 12}, "the budget is too small: it bought 12 steps"),
    ],
)
def test_what_has_a_sign_comes_first(given: dict[str, Any], first: str) -> None:
    found = causes(**given)
    assert len(found) == 3
    assert first in found[0]


def test_without_any_sign_it_is_said_so() -> None:
    assert all("no sign of it was measured" in cause for cause in causes())
