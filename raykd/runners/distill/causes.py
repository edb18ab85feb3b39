"""Why a student is near chance: the likeliest causes, those first of which a sign was measured."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from raykd.results import RunResult

_CAUSES = 3
_RISING = 1.0  # points of blind agreement, from the third quarter of the reports to the last
_FEW_STEPS = 50
_AGREEMENT = "blind/agreement"


class _Cause(NamedTuple):
    """A cause: what it is, and its sign; None where there was none."""

    text: str
    sign: str | None


def likeliest_causes(
    about: Mapping[str, Any], result: RunResult, rows: Sequence[Mapping[str, float]], steps: int
) -> str:
    """Return the three likeliest causes of a student that is near chance, for a reader.

    Args:
        about: what the session knows of teacher and data.
        result: of the student's run.
        rows: of its reports.
        steps: of its schedule.
    """
    kinds = {text.partition(":")[0]: text for text in result.warnings or []}
    causes = [
        _constants(about, kinds),
        _moments(about),
        _collapse(result, kinds),
        _budget(rows, steps),
    ]
    ordered = sorted(causes, key=lambda cause: cause.sign is None)[:_CAUSES]
    parts = [f"({i}) {one.text}: {one.sign or 'no sign of it was measured'}" for i, one in enumerate(ordered, start=1)]
    return f"the likeliest causes: {'; '.join(parts)}"


def _constants(about: Mapping[str, Any], kinds: Mapping[str, str]) -> _Cause:
    sign = kinds.get("constants", "").removeprefix("constants: ") or None
    if sign is None and not about["batch_norms"] and "compared" not in str(about["constants"]):
        sign = f"they are {about['constants']}, and without BatchNorm nothing can tell whether that is right"
    return _Cause("data.mean and data.std are not the teacher's", sign)


def _moments(about: Mapping[str, Any]) -> _Cause:
    sign = None
    if not about["batch_norms"]:
        sign = "it has no BatchNorm layers"
    elif about["sick"]:
        sign = f"those of some layers are {' and '.join(about['sick']).replace('_', ' ')}"
    return _Cause("the teacher remembers nothing of its data that images could be made by", sign)


def _collapse(result: RunResult, kinds: Mapping[str, str]) -> _Cause:
    sign = result.not_judged or kinds.get("collapse") or kinds.get("starvation") or kinds.get("sameness")
    return _Cause("the images that it has learnt from are of few classes, or alike", sign)


def _budget(rows: Sequence[Mapping[str, float]], steps: int) -> _Cause:
    found = [row[_AGREEMENT] for row in rows if _AGREEMENT in row]
    quarter, sign = len(found) // 4, None
    if quarter:
        before, last = (sum(part) / quarter for part in (found[-2 * quarter : -quarter], found[-quarter:]))
        if last - before > _RISING:
            sign = f"agreement on its own images still rose at the end, from {before:.0f} % to {last:.0f} %"
    if sign is None and steps < _FEW_STEPS:
        sign = f"it bought {steps} steps"
    return _Cause("the budget is too small", sign)
