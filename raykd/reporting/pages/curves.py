"""The curves of one run or of several, in families: which figures of a report go into which chart, and their units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from raykd.reporting.pages.charts import Chart, Curve, curve_chart

Rows = Sequence[Mapping[str, float]]
"""The reports of a run."""


@dataclass(frozen=True)
class _Family:
    """A chart: the report keys in it, each with what it is called."""

    title: str
    unit: str
    keys: Mapping[str, str]


_ACCURACY = (
    _Family("Accuracy on the test split", "%", {"accuracy/top1": "top-1", "accuracy/top5": "top-5"}),
    _Family(
        "Agreement with the teacher",
        "%",
        {
            "agreement": "test split",
            "blind/agreement": "synthetic images",
            "holdout/agreement": "images held out",
            "referee/agreement": "referee's images",
        },
    ),
    _Family(
        "Divergence from the teacher",
        "KL, nats",
        {
            "kl": "test split",
            "blind/kl": "synthetic images",
            "holdout/kl": "images held out",
            "referee/kl": "referee's images",
        },
    ),
    _Family("Calibration error", "ECE, %", {"ece": "student"}),
    _Family("Accuracy on images held out", "%", {"holdout/accuracy/top1": "top-1"}),
)
_IMAGES = (
    _Family("Images of the class asked for", "%", {"images/hit": "all classes", "images/least_hit": "worst class"}),
    _Family("Effective number of classes", "classes", {"images/classes": "generated images"}),
    _Family("Evenness of the classes", "%", {"images/class_spread": "spread", "images/rarest": "rarest class"}),
    _Family(
        "Diversity of pixels", "%", {"images/pixel_diversity": "all", "images/least_diversity": "least diverse class"}
    ),
    _Family("Gap of BatchNorm moments", "|ln variance ratio|", {"images/batch_norm_gap": "generated images"}),
    _Family("Pixels out of range", "%", {"images/outside": "generated images"}),
    _Family("Images that the teacher is sure of", "%", {"images/confident": "generated images"}),
    _Family("Classes that the synthetic images show", "%", {"blind/coverage": "coverage"}),
)
_PACE = (
    _Family("Images per second", "images / s", {"images_per_second": "training"}),
    _Family("Steps per second", "steps / s", {"steps_per_second": "training"}),
    _Family("Waiting for other workers", "% of the time", {"waiting/others": "others", "waiting/least": "least"}),
)
_NOT_DRAWN = ("step", "waiting/least_rank")
_INDEX = "_class"  # a class's number, not a figure of it
_MOST_CHARTS = 12  # of losses, and of figures of no family


@dataclass(frozen=True)
class Group:
    """Charts under a common title; ``is_aside`` is what few readers look for."""

    title: str
    charts: Sequence[Chart]
    is_aside: bool = False


def curve_groups(runs: Mapping[str, Sequence[Rows]], references: Mapping[str, Mapping[str, float]]) -> list[Group]:
    """Return the charts of runs, by their names; of several seeds of one, mean and range.

    ``references`` are lines across a chart, by report key and name, such as the teacher's accuracy.
    """
    keys = {key: None for seeds in runs.values() for rows in seeds for row in rows for key in row}
    losses = [
        _Family(key.removeprefix("loss/").replace("_", " "), "loss", {key: "loss"})
        for key in keys
        if key.startswith("loss/")
    ]
    known = {key for family in (*_ACCURACY, *_IMAGES, *_PACE) for key in family.keys}
    rest = [key for key in keys if not (key in known or key.startswith("loss/") or key in _NOT_DRAWN)]
    others = [_Family(key, "", {key: key}) for key in rest if not key.endswith(_INDEX)]
    groups = []
    for title, families, is_aside in (
        ("Student", _ACCURACY, False),
        ("Losses", losses[:_MOST_CHARTS], False),
        ("Generated images", _IMAGES, False),
        ("Pace, norms and other figures", (*_PACE, *others[:_MOST_CHARTS]), True),
    ):
        charts = [chart for family in families for chart in _charts(family, runs, references)]
        if charts:
            groups.append(Group(title, charts, is_aside))
    return groups


def _charts(
    family: _Family, runs: Mapping[str, Sequence[Rows]], references: Mapping[str, Mapping[str, float]]
) -> list[Chart]:
    """Return the chart of a family for one run; for several runs one chart for each of its figures."""
    if len(runs) == 1:
        ((_, seeds),) = runs.items()
        curves = [curve for key, name in family.keys.items() if (curve := _over_seeds(name, seeds, key)) is not None]
        lines = [line for key in family.keys for line in _references(references.get(key, {}))]
        return [curve_chart(family.title, family.unit, [*curves, *lines])] if curves else []
    charts = []
    for key, name in family.keys.items():
        found = [(index, _over_seeds(run, seeds, key)) for index, (run, seeds) in enumerate(runs.items())]
        curves = [replace(curve, colour=index) for index, curve in found if curve is not None]
        title = family.title if len(family.keys) == 1 else f"{family.title}: {name}"
        if curves:
            charts.append(curve_chart(title, family.unit, [*curves, *_references(references.get(key, {}))]))
    return charts


def _references(figures: Mapping[str, float]) -> list[Curve]:
    return [Curve(name, (0.0,), (figure,), is_reference=True) for name, figure in figures.items()]


def _over_seeds(name: str, seeds: Sequence[Rows], key: str) -> Curve | None:
    """Return a figure by step, the mean over the seeds that have the step; a band where there are several seeds."""
    found: dict[float, list[float]] = {}
    for rows in seeds:
        for row in rows:
            if key in row:
                found.setdefault(row["step"], []).append(row[key])
    if not found:
        return None
    steps = sorted(found)
    means = [fmean(found[step]) for step in steps]
    if len(seeds) == 1:
        return Curve(name, steps, means)
    return Curve(name, steps, means, [min(found[step]) for step in steps], [max(found[step]) for step in steps])
