"""A grid has every combination of a space once, with its points, and no more."""

from pathlib import Path

import pytest

from raykd.search.grid import count_trials, make_grid
from raykd.search.study import (
    draw_values,
    enqueue,
)
from tests.search.made_study import opened, space


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    searched = space(tmp_path, sampler={"name": "grid", "grid": 3})
    grid = make_grid(searched)
    assert len(grid) == 2 * 3 + 2 * 3 * 3  # without and with a temperature
    assert sorted({point["method.temperature"] for point in grid if "method.temperature" in point}) == pytest.approx(
        [1, 10, 100]
    )
    study = opened(tmp_path, searched)
    enqueue(study, searched)
    enqueue(study, searched)  # as the same command would, once more
    found = []
    for _ in grid:
        trial = study.ask()
        found.append(draw_values(trial, searched))
        study.tell(trial, 0.0)
    assert sorted(map(repr, found)) == sorted(map(repr, grid))


@pytest.mark.parametrize(("trials", "target", "left_out"), [(None, 5, 0), (9, 5, 0), (3, 3, 2)])
def test_a_grid_is_whole_with_its_points_unless_trials_says_fewer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trials: int | None, target: int, left_out: int
) -> None:
    points = [{"method.temperature": 5.5}, {"method.temperature": 1}]  # off the grid, and on it
    grid = {"name": "grid", "grid": 4}
    changes = {} if trials is None else {"trials": trials}
    searched = space(
        tmp_path, sampler=grid, points=points, space={"method.temperature": {"uniform": [1, 7]}}, **changes
    )
    assert count_trials(searched) == target
    study = opened(tmp_path, searched)
    enqueue(study, searched)
    enqueue(study, searched)
    drawn = [draw_values(study.ask(), searched)["method.temperature"] for _ in range(target)]
    assert drawn == [5.5, 1.0, 3.0, 5.0, 7.0][:target]
    assert len(study.trials) == target
    assert [f"{left_out} of them are left out" in message for message in caplog.messages] == [True, True][:left_out]


def test_the_whole_of_a_large_grid_is_wanted(tmp_path: Path) -> None:
    large = {"method.temperature": {"uniform": [1, 7]}, "schedule.steps": {"int": [1, 9]}}
    assert count_trials(space(tmp_path, sampler={"name": "grid", "grid": 9}, space=large)) == 81
    assert count_trials(space(tmp_path, space=large)) == 24
