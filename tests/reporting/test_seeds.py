"""Figures over seeds."""

import pytest

from raykd.reporting.seeds import over_seeds
from raykd.results import Figures, RunResult


def test_figures_that_not_all_seeds_have_are_left_out() -> None:
    runs = [
        RunResult(run="made-s0", seed=0, seconds=1.0, last=Figures(top1=2.0), gpu_hours=1.0),
        RunResult(run="made-s1", seed=1, seconds=3.0, last=Figures(top1=4.0), gpu_hours=float("nan")),
    ]
    combined = over_seeds(runs)
    assert combined.to_dict() == {
        "runs": [run.to_dict() for run in runs],
        "mean": {"seconds": 2.0, "last": {"accuracy/top1": 3.0}},
        "sd": {"seconds": pytest.approx(2**0.5), "last": {"accuracy/top1": pytest.approx(2**0.5)}},
    }
