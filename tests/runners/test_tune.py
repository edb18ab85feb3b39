"""Searches on Ray: trials are runs of the store, poor ones end early, and a killed search loses nothing."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from raykd.cluster.config import Cluster
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.results import SearchResult
from raykd.runners.train import train
from raykd.runners.tune import search
from raykd.search.attributes import RUN
from raykd.search.setup import plan_search
from raykd.search.space_file import load_space
from raykd.store.run_directory import RunDirectory
from tests.reporting.pages.made import parsed
from tests.runners import runs

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TEACHER = {"schedule.steps": 8, "schedule.report_every": 4, "schedule.global_batch": 16}
SMALL: dict[str, Any] = {
    "teacher.overrides": TEACHER,
    "schedule.steps": 12,
    "schedule.report_every": 4,
    "schedule.global_batch": 16,
}
RATE = {"student_optim.lr": {"loguniform": [0.0001, 0.01]}}


def written(folder: Path, **changes: Any) -> Path:
    raw = {"recipe": "kd_digits", "overrides": SMALL, "trials": 4, "space": RATE, **changes}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(raw)), sort_keys=False))  # written out, without aliases
    return path


class Terminal:
    """What shows a report, and cannot be pickled, as a live display cannot."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __call__(self, report: SearchResult) -> None:
        assert report.study


def searched(
    folder: Path, should_stop: Callable[[], bool] = lambda: False, where: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Search with one trial at a time, whose process the next one takes over, or as ``where`` says."""
    space = load_space(str(written(folder, **changes)))
    return search(
        plan_search(space, folder / "runs"),
        Cluster(name="test", **{"cpus_per_worker": 2, "threads": 1, **(where or {})}),
        store=folder / "runs",
        data_root=None,
        should_stop=should_stop,
        show=Terminal(),
    ).to_dict()


def study_of(report: dict[str, Any]) -> optuna.Study:
    return optuna.load_study(study_name=report["study"], storage=f"sqlite:///{report['directory']}/study.db")


def test_trials_are_runs_that_the_same_call_reads_and_more_go_on(
    ray_session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYKD_REPORT")
    first = searched(tmp_path, trials=2, keep=1)
    root = parsed((Path(first["directory"]) / "report.html").read_text())
    assert len(root.one("table", "sortable").one("tbody").all("tr")) == 2
    assert all((Path(first["directory"]) / one.attributes["href"]).is_file() for one in root.all("a"))
    assert len(root.all("a")) == 2, "each trial's run has its page"
    ended = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/status.json")}
    assert searched(tmp_path, trials=2, keep=1)["best"] == first["best"]
    assert ended == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/status.json")}
    more = searched(tmp_path, trials=4, keep=1, where={"cpus_per_worker": 1})  # two at a time
    assert more["trials"] == {"target": 4, "complete": 4, "pruned": 0, "failed": 0, "running": 0}
    assert more["study"] == first["study"]
    trials = study_of(more).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert len({trial.params["student_optim.lr"] for trial in trials}) == 4, "other values than at the first start"
    for trial in trials:
        last = json.loads((tmp_path / "runs" / trial.user_attrs[RUN] / "metrics.jsonl").read_text().splitlines()[-1])
        assert trial.values == [last["holdout/accuracy/top1"]]
        assert trial.user_attrs["test/accuracy/top1"] == last["accuracy/top1"]
        assert len(trial.intermediate_values) == 3
    kept = [path.parent.name for path in (tmp_path / "runs").glob("kd_digits-*/checkpoints")]
    assert kept == [more["best"][0]["run"]], "checkpoints of the best only"
    best = load_recipe(str(Path(more["directory"]) / "best.yaml"))
    assert best.student_optim is not None
    assert best.student_optim.lr == more["best"][0]["parameters"]["student_optim.lr"]
    pairs = [f"{k}={json.dumps(v)}" for k, v in {**SMALL, **more["best"][0]["parameters"]}.items()]
    pairs.append("data.holdout=0.1")
    alone = train(
        resolve(load_recipe("kd_digits", pairs)).without_controls(),
        Cluster(name="here", workers=0, threads=1), store=tmp_path / "alone", data_root=None, should_stop=bool,
    )  # fmt: skip
    assert alone.student.more["holdout/accuracy/top1"] == more["best"][0]["values"]["accuracy"]


def test_a_trial_is_told_by_all_objectives_and_one_that_fails_by_its_reason(
    ray_session: ModuleType, tmp_path: Path
) -> None:
    report = searched(
        tmp_path,
        objectives=["accuracy", "parameters", "latency", "gpu_hours"],
        trials=2,
        sampler={"name": "grid"},
        space={"student_optim.lr": {"choice": [0.001, 1e30]}},
    )
    assert report["trials"] == {"target": 2, "complete": 1, "pruned": 0, "failed": 1, "running": 0}
    assert "finite" in report["reasons"][0]["reason"]
    study = study_of(report)
    assert study.metric_names == ["accuracy", "parameters", "latency", "gpu_hours"]
    (trial,) = study.get_trials(states=[TrialState.COMPLETE])
    last = json.loads((tmp_path / "runs" / trial.user_attrs[RUN] / "metrics.jsonl").read_text().splitlines()[-1])
    accuracy, parameters, latency, hours = trial.values
    assert accuracy == last["holdout/accuracy/top1"]
    assert parameters == 15_738
    assert latency > 0
    assert hours > 0


def test_poor_trials_end_early(ray_session: ModuleType, tmp_path: Path) -> None:
    grid = {"student_optim.lr": {"choice": [0.003, 1e-7, 2e-7, 3e-7, 4e-7, 5e-7]}}
    budget = {**SMALL, "schedule.steps": 48, "schedule.report_every": 8}
    report = searched(
        tmp_path,
        overrides=budget,
        trials=6,
        space=grid,
        sampler={"name": "grid"},
        scheduler={"name": "asha", "grace": 1, "reduction": 2},
    )
    assert report["trials"]["complete"] + report["trials"]["pruned"] == 6
    assert report["trials"]["pruned"] >= 2
    assert report["best"][0]["parameters"] == {"student_optim.lr": 0.003}
    for trial in study_of(report).trials:
        reports = [int(report) for report in trial.intermediate_values]
        assert reports == list(range(1, len(reports) + 1)), "the report that it was ended at is there too"
        assert (len(reports) in (1, 2, 4)) == (trial.state == TrialState.PRUNED)
        state = RunDirectory(tmp_path / "runs" / trial.user_attrs[RUN]).status()["state"]
        assert state == ("finished" if trial.state == TrialState.COMPLETE else "pruned")


def test_two_stages_and_the_second_makes_no_image(ray_session: ModuleType, tmp_path: Path) -> None:
    """Generators first, judged by a referee; then students of a frozen set that the best of them made."""
    then = {
        "recipe": "kd_digits",
        "images": 200,
        "overrides": SMALL,
        "trials": 3,
        "objectives": ["agreement", "parameters"],
        "sampler": {"name": "random"},
        "space": {"student.model": {"choice": ["lenet5_half", "hinton800"]}},
    }
    small = {**SMALL, "method.generator_width": 8}
    # So few images show no lack of classes, which generators of twelve steps would be refused for.
    referee = [{"recipe": "dafl_digits", "overrides": small, "seed": seed, "images": 5} for seed in (1, 2)]
    first: dict[str, Any] = {
        "recipe": "dafl_digits",
        "overrides": {**small, "referee": referee},
        "trials": 2,
        "space": {"method.entropy_weight": {"loguniform": [0.5, 20]}},
        "then": then,
    }
    report = searched(tmp_path, **first)
    assert report["first"]["trials"]["complete"] == 2, report["first"]["reasons"]
    assert report["trials"]["complete"] == 3, report["reasons"]
    each = SMALL["schedule.steps"] * SMALL["schedule.global_batch"]
    assert report["first"]["images_made"] == {"before the trials": 10, "by the trials": 2 * each}
    assert report["images_made"] == {"before the trials": 200, "by the trials": 0}
    chosen = report["first"]["best"][0]["run"]
    assert f"{chosen}-200" in {path.name for path in (tmp_path / "runs/synthetic").iterdir()}
    for seed in (1, 2):
        assert len(list((tmp_path / "runs").glob(f"dafl_digits-*-s{seed}"))) == 1, "of other seeds than all trials"
    for one in report["best"]:
        made = load_recipe(str(Path(report["directory"]) / f"best-{one['trial']}.yaml"))
        assert made.bank is not None
        assert made.bank.images == 200
    again = searched(tmp_path, **first)
    assert again["best"] == report["best"]
    assert again["images_made"] == report["images_made"]


def test_a_trial_of_several_seeds_counts_by_their_mean(ray_session: ModuleType, tmp_path: Path) -> None:
    report = searched(tmp_path, trials=2, seeds=3, keep=1)
    assert report["trials"]["complete"] == 2, report["reasons"]
    for trial in study_of(report).trials:
        stem = trial.user_attrs[RUN].removesuffix("-s0")
        found = [
            json.loads((tmp_path / f"runs/{stem}-s{seed}/metrics.jsonl").read_text().splitlines()[-1])
            for seed in range(3)
        ]
        values = [row["holdout/accuracy/top1"] for row in found]
        assert trial.values[0] == pytest.approx(sum(values) / 3)
        assert trial.user_attrs["test/accuracy/top1"] == pytest.approx(sum(row["accuracy/top1"] for row in found) / 3)
        reports = trial.intermediate_values
        assert list(reports) == [1, 2, 3, 6, 9], "rows of the first seed, then the mean so far"
        assert reports[3] == values[0]
        assert reports[6] == pytest.approx(sum(values[:2]) / 2)
    kept = {path.parent.name.rpartition("-s")[0] for path in (tmp_path / "runs").glob("kd_digits-*/checkpoints")}
    assert kept == {report["best"][0]["run"].removesuffix("-s0")}
    assert searched(tmp_path, trials=2, seeds=3, keep=1)["best"] == report["best"]


def test_a_trial_of_two_workers_is_a_train_run(ray_session: ModuleType, tmp_path: Path) -> None:
    runs.save_teacher(tmp_path / "teacher.safetensors")  # one that is trained would take two workers too
    teacher = {"model": "lenet5_half", "weights": str(tmp_path / "teacher.safetensors")}
    overrides = {**{key: value for key, value in SMALL.items() if key != "teacher.overrides"}, "teacher": teacher}
    report = searched(tmp_path, trials=1, overrides=overrides, where={"workers": 2, "cpus_per_worker": 1})
    assert report["trials"]["complete"] == 1, report["reasons"]
    run = tmp_path / "runs" / report["best"][0]["run"]
    assert json.loads((run / "environment.json").read_text())["workers"] == 2
    assert len(study_of(report).trials[0].intermediate_values) == 3


def test_agreement_is_measured_on_the_same_images_for_all_trials(tmp_path: Path) -> None:
    def planned(recipe: str, key: str) -> Any:
        space = {key: {"loguniform": [0.1, 10]}}
        return plan_search(load_space(str(written(tmp_path, recipe=recipe, overrides={}, space=space))), tmp_path)

    judged = planned("dafl_digits", "method.entropy_weight").space.make_recipe({}).referees
    assert [(one.recipe, one.seed, one.images) for one in judged] == [("dafl_digits", 1, 500), ("dafl_digits", 2, 500)]
    judged = planned("lsgdfd_digits", "bank.overrides.method.tv_weight").space.make_recipe({}).referees
    assert [(one.recipe, one.seed) for one in judged] == [("lsgdfd_digits_bank", 1), ("lsgdfd_digits_bank", 2)]
    assert planned("lsgdfd_digits", "student_optim.lr").space.make_recipe({}).referee is None, "all have one bank"
    labelled = planned("kd_digits", "student_optim.lr").space.make_recipe({})
    assert (labelled.referee, labelled.data.holdout) == (None, 0.1)


@pytest.mark.parametrize("name", ["asha", "median", "pbt"])
def test_nobody_is_compared_by_what_is_told_at_the_end(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' compares trials on their way, and objective 'latency' is told at"):
        searched(tmp_path, objectives=["latency"], scheduler={"name": name})


def test_what_cannot_be_measured_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="objective 'accuracy' is measured on labelled images"):
        searched(tmp_path, recipe="dafl_digits", overrides={}, objectives=["accuracy"])
    assert not (tmp_path / "runs").exists()
