"""A small space and its study, which tests of the search share."""

from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from raykd.search.attributes import RUN
from raykd.search.space import SearchSpace
from raykd.search.space_file import load_space
from raykd.search.study import draw_values, open_study

SPACE: dict[str, dict[str, Any]] = {
    "student.model": {"choice": ["lenet5_half", "hinton800"]},
    "data.augment": {"choice": [[], ["crop"]]},
    "method.temperature": {"loguniform": [1, 100], "when": {"student.model": "hinton800"}},
    "schedule.steps": {"int": [3, 9]},
}


def space(folder: Path, **changes: Any) -> SearchSpace:
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump({"recipe": "kd_digits", "space": SPACE, **changes}, sort_keys=False))
    return load_space(str(path))


def opened(folder: Path, searched: SearchSpace, *objectives: str, url: str | None = None) -> optuna.Study:
    return open_study(searched, objectives or ("accuracy",), folder / "made-0", url)


def filled_study(tmp_path: Path, *objectives: str) -> tuple[optuna.Study, SearchSpace]:
    searched = space(tmp_path, overrides={"data.holdout": 0.1})
    study = opened(tmp_path, searched, *objectives)
    for index in range(6):
        trial = study.ask()
        draw_values(trial, searched)
        trial.set_user_attr(RUN, f"run-{index}")
        if len(objectives) == 1:
            trial.report(index / 2, 1)
        study.tell(trial, [float(index), float(-index)][: len(objectives)])
    failing = study.ask()
    draw_values(failing, searched)
    failing.set_user_attr("reason", "loss is not finite")
    study.tell(failing, state=TrialState.FAIL)
    return study, searched
