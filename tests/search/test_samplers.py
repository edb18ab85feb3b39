"""Every sampler that a space may name proposes, and what it proposes gets better."""

from pathlib import Path

import optuna
import pytest

from raykd.search.study import (
    best_trials,
    draw_values,
)
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
