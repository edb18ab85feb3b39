"""Whether synthetic images show enough of the classes for a student to be judged on them."""

from collections.abc import Mapping

COVERAGE = "blind/coverage"
"""Report key: per cent of the teacher's classes that the images of blind selection show."""

_LEAST = 75.0  # per cent


def why_not_judged(row: Mapping[str, float]) -> str | None:
    """Return why the figures ``blind/...`` of a report are not to be judged; None if they are, or there are none."""
    coverage = row.get(COVERAGE, 100.0)
    if coverage >= _LEAST:
        return None
    return f"not to be judged: to the teacher the synthetic images show {coverage:.0f} % of its classes"
