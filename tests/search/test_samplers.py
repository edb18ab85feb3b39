"""Every sampler that a space may name proposes, and what it proposes gets better."""

from pathlib import Path

import optuna
import pytest

from raykd.search.study import (
    best_trials,
    draw_values,
)
from tests.search.killed import search, search_with_deaths
from tests.search.made_study import SPACE, opened, space


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid", "cmaes"])
def test_every_sampler_proposes(tmp_path: Path, sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    without_when = {key: {"uniform": [1, 100]} if "when" in one else one for key, one in SPACE.items()}
    searched = space(
        tmp_path, sampler={"name": sampler, "startup": 4}, space=without_when if sampler == "cmaes" else SPACE
    )
    study = opened(tmp_path, searched)
    optuna.logging.enable_propagation()
    for index in range(8):
        trial = study.ask()
        draw_values(trial, searched)
        study.tell(trial, float(index))
    optuna.logging.disable_propagation()
    assert best_trials(study)[0].number == 7
    assert not caplog.messages, "a choice that a sampler draws by itself is no news"


def test_cmaes_moves_numbers(tmp_path: Path) -> None:
    numbers = {"method.temperature": {"uniform": [1, 9]}, "method.alpha": {"uniform": [0.1, 0.9]}}
    searched = space(tmp_path, sampler={"name": "cmaes", "startup": 2}, space=numbers)
    study = opened(tmp_path, searched)
    for _ in range(30):
        trial = study.ask()
        values = draw_values(trial, searched)
        study.tell(trial, -((values["method.temperature"] - 6) ** 2))
    assert best_trials(study)[0].values[0] > -0.1


@pytest.mark.parametrize(
    ("sampler", "journal", "every"),
    [
        ("tpe", False, 13),
        ("tpe", True, 15),
        ("cmaes", True, 17),
        pytest.param("random", True, 14, marks=pytest.mark.endurance),
        pytest.param("nsga2", True, 13, marks=pytest.mark.endurance),
    ],
)
def test_a_search_that_is_killed_again_and_again_tries_what_an_undisturbed_one_does(
    tmp_path: Path, sampler: str, journal: bool, every: int
) -> None:
    """Whichever write into the study is the last of a process: no attempt is left, and no failure is counted."""
    numbers = {"method.temperature": {"uniform": [1, 9]}, "method.alpha": {"uniform": [0.1, 0.9]}}
    point = {"method.temperature": 2.5} if sampler == "cmaes" else {"student.model": "hinton800", "schedule.steps": 5}
    searched = space(
        tmp_path,
        sampler={"name": sampler, "startup": 3},
        space=numbers if sampler == "cmaes" else SPACE,
        points=[point],
        trials=9,
    )
    studies = []
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        url = f"journal:{folder}/journal.log" if journal else None
        if name == "killed":
            assert search_with_deaths(folder, searched, url, every) > 4
        else:
            search(folder, searched, url)
        studies.append(opened(folder, searched, url=url))
    assert [trial.state.name for trial in studies[1].trials] == ["COMPLETE", "COMPLETE", "PRUNED"] * 3
    undisturbed, killed = (
        [(trial.params, trial.values, trial.intermediate_values, trial.state) for trial in study.trials]
        for study in studies
    )
    assert killed == undisturbed
