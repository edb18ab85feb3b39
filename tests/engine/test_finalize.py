"""What a finished run leaves: its student with what it wants to be shown, and statistics where it has BatchNorm."""

from pathlib import Path

import pytest

from raykd.artifacts.class_statistics import read_metadata
from raykd.engine.finalize import _collect_warnings
from raykd.engine.run import run
from raykd.recipe.experiment import resolve
from tests.engine.test_run import SHORT
from tests.golden.shrunk import shrunk


@pytest.mark.parametrize(("model", "has_norms"), [("lenet5", False), ("lenet5_bn", True)])
def test_networks_of_labelled_data_leave_statistics_if_they_have_norms(
    tmp_path: Path, model: str, has_norms: bool
) -> None:
    with shrunk(2, tmp_path) as (place, load):
        experiment = resolve(load(f"supervised_digits_{model}", SHORT))
        result = run(experiment, place)
    left = place.workspace.run(experiment.run_id)
    assert (result.selected, result.student.step, result.teacher) == ("last", 4, None)
    assert left.student.is_file()
    assert left.statistics.is_file() == has_norms
    if has_norms:
        assert (read_metadata(left.statistics)["data"], read_metadata(left.statistics)["classes"]) == ("digits", 10)


def test_a_worker_that_was_slow_speaks_not_against_the_figures() -> None:
    status = {"warnings": ["straggler: worker 1 computes 95 % of the time", "plateau: blind agreement has stayed"]}
    assert _collect_warnings(status, {}, {}, 10) == ["plateau: blind agreement has stayed"]
