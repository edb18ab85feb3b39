"""A search is planned, and both of its stages are checked, before anything starts; without Ray."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.cluster.config import Cluster
from raykd.errors import UsageError
from raykd.recipe.recipe import load_recipe
from raykd.runners.tune import search
from raykd.search.setup import Search, plan_search
from raykd.search.space_file import load_space

THEN = {"recipe": "kd_digits", "images": 100, "space": {"student_optim.lr": {"uniform": [0.001, 0.01]}}}


def planned(folder: Path, **changes: Any) -> Search:
    raw = {"recipe": "dafl_digits", "space": {"method.entropy_weight": {"uniform": [1, 2]}}, **changes}
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(raw)), sort_keys=False))
    return plan_search(load_space(str(path)), folder / "runs")


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ({"objectives": ["parameters"], "scheduler": {"name": "asha"}}, "then: scheduler 'asha' compares trials"),
        ({"recipe": "supervised_digits_lenet5", "objectives": ["agreement"]}, "then: .* has none: take accuracy"),
    ],
)
def test_a_second_stage_that_cannot_be_measured_is_refused(tmp_path: Path, then: dict[str, Any], says: str) -> None:
    planned(tmp_path, then=THEN)
    with pytest.raises(UsageError, match=says):
        planned(tmp_path, then={**THEN, **then})


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ({"overrides": {"schedule.global_batch": 15}}, "2 workers, which do not divide the global batches .*: 15"),
        ({"recipe": "kd_mnist"}, "mnist"),
        ({"earlier": "nowhere"}, "no study.db in nowhere"),
    ],
)
def test_a_second_stage_that_cannot_start_is_refused_before_the_first(
    tmp_path: Path, then: dict[str, Any], says: str
) -> None:
    teacher = {"teacher": load_recipe("dafl_digits").model_dump(mode="json", exclude_defaults=True)["teacher"]}
    second = {**THEN, **then, "overrides": {**teacher, **then.get("overrides", {})}}
    with pytest.raises(UsageError, match=says):
        search(
            planned(tmp_path, then=second),
            Cluster(name="test", workers=2),
            store=tmp_path / "runs",
            data_root=tmp_path,
            should_stop=bool,
            show=lambda report: None,
        )
    assert not list((tmp_path / "runs").glob("searches/*"))


@pytest.mark.parametrize(
    "space",
    [
        {"bank": {"choice": [{"recipe": "lsgdfd_digits_bank"}, {"recipe": "lsgdfd_digits_bank_quick"}]}},
        {"bank.recipe": {"choice": ["lsgdfd_digits_bank", "lsgdfd_digits_bank_quick"]}},
    ],
)
def test_a_referee_judges_where_the_whole_bank_is_searched(tmp_path: Path, space: dict[str, Any]) -> None:
    referees = planned(tmp_path, recipe="lsgdfd_digits", space=space).space.make_recipe({}).referees
    assert [(one.recipe, one.seed, one.images) for one in referees] == [
        ("lsgdfd_digits_bank", 1, 500),
        ("lsgdfd_digits_bank", 2, 500),
    ]
