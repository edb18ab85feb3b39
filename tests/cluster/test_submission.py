"""What a job is called, and what its command line is; without a cluster."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raykd.cli.app import app
from raykd.cli.inner import parse_inner_command
from raykd.cluster.config import Cluster, cluster_names, load_cluster
from raykd.cluster.package import collect
from raykd.cluster.submission import Submission, load_job_cluster
from raykd.errors import UsageError
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.results import Plan, RunPlan

CLUSTER = Cluster(name="far", address="auto", workers=2, storage="/shared/runs")
TABLE = """
title: Temperatures
source: nobody
seeds: 2
columns: {digits: Digits}
rows:
- {name: warm, cells: {digits: {recipe: kd_digits, overrides: {method.temperature: 2}}}}
quick: {budget: fewer steps, overrides: {schedule.steps: 60}}
"""


def submission(folder: Path, *words: str, cluster: Cluster = CLUSTER) -> Submission:
    return Submission.create(parse_inner_command(app, words, folder), collect(folder, None), cluster)


def test_a_job_is_called_like_its_run(tmp_path: Path) -> None:
    run = resolve(load_recipe("kd_digits", ["seed=3"])).run_id
    made = submission(tmp_path, "train", "kd_digits", "seed=3")
    assert made.request.run == run
    assert made.metadata["recipe_hash"] == run.split("-")[1]
    several = submission(tmp_path, "train", "kd_digits", "seed=3", "--seeds", "2")
    assert several.request.run == f"{run}-2seeds"
    assert several.metadata["runs"].splitlines() == [run, run.replace("-s3", "-s4")], (
        "not the teacher's, which many use"
    )
    space = submission(tmp_path, "tune", "kd_temperature", "--trials", "6")
    name = f"kd_temperature-{space.metadata['recipe_hash']}"
    assert (space.request.run, space.metadata["runs"], space.request.run_count) == (f"{name}-6trials", name, 6)
    assert submission(tmp_path, "tune", "kd_temperature").request.run == name


@pytest.mark.parametrize(("name", "subject"), [("train", "kd_digits"), ("tune", "kd_temperature"), ("table", "digits")])
def test_a_commands_own_precision_goes_before_the_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, subject: str
) -> None:
    planned: list[str] = []

    def plan_on(experiment: Experiment, cluster: Cluster, **_: Any) -> Plan:
        planned.append(cluster.precision)
        return Plan(experiment.recipe.name, experiment.run_id, 1, [], {"hours": 1.0})

    monkeypatch.setattr("raykd.cluster.submission.plan_on", plan_on)
    halved = CLUSTER.model_copy(update={"precision": "bf16"})
    made = [submission(tmp_path, name, subject), submission(tmp_path, name, subject, "--precision", "bf16"),
            submission(tmp_path, name, subject, cluster=halved),
            submission(tmp_path, name, subject, "--precision", "fp32", cluster=halved)]  # fmt: skip
    wanted = ["fp32", "bf16", "bf16", "fp32"]
    assert [one.metadata["precision"] for one in made] == wanted
    for one in made:
        one.plan()
    assert planned == ([] if name == "table" else wanted)


def test_a_table_is_called_by_all_that_it_trains(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.yaml").write_text(TABLE.replace("temperature: 2", "temperature: 3"))
    words = [("mine.yaml",), ("mine.yaml", "--seeds", "2"), ("mine.yaml", "--seeds", "3"), ("other/mine.yaml",)]
    tables = [submission(tmp_path, "table", *one) for one in (*words, ("mine.yaml", "--quick"))]
    ids = [table.request.run for table in tables]
    assert ids[0] == ids[1], "two seeds are what it says itself"
    assert len(set(ids)) == 4
    shapes = [r"mine-\w{8}-2seeds", r"mine-\w{8}-2seeds", r"mine-\w{8}-3seeds", r"mine-\w{8}-2seeds"]
    for name, shape in zip(ids, [*shapes, r"mine-\w{8}-quick"], strict=True):
        assert re.fullmatch(shape, name)
    alone = submission(tmp_path, "train", "kd_digits", "method.temperature=2", "seed=1")
    assert alone.request.runs[0] in tables[0].metadata["runs"].splitlines()
    assert "cost is not told" in (tables[0].plan().note or "")


def test_no_name_in_a_command_is_ever_a_command(tmp_path: Path) -> None:
    """What a shell makes of the entrypoint is the words that were given, whatever is in them."""
    hostile = "x; touch pwned"
    (tmp_path / f"{hostile}.yaml").write_text("extends: kd_digits\nname: x\n")
    words = ("train", f"{hostile}.yaml", "data.train=$(touch pwned)`touch pwned`'\"")
    made = submission(tmp_path, *words)
    assert shlex.split(made.entrypoint) == ["python", "-m", "raykd", *words, "--cluster", ".raykd/far.yaml"]
    echoed = made.entrypoint.replace("python -m raykd", "printf '%s\\n'", 1)
    told = subprocess.run(["sh", "-c", echoed], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [*words, "--cluster", ".raykd/far.yaml"]
    assert not (tmp_path / "pwned").exists()
    (tmp_path / f"{hostile}.yaml").write_text("extends: kd_digits\n")
    with pytest.raises(UsageError, match="a recipe's name is up to 100 letters, digits"):
        submission(tmp_path, *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("trian", "kd_digits"), "unknown command to submit 'trian'; did you mean 'train'"),
        (("evaluate", "x"), r"\(known: table, train, tune\)"),
        (("table", "dafl_mnst"), "unknown table 'dafl_mnst'; did you mean"),
        (("train", "kd_digit"), "unknown recipe 'kd_digit'; did you mean"),
        (("train", "kd_digits", "method.temprature=3"), "did you mean 'method.temperature'"),
        (("train", "kd_digits", "--cluster", "local"), "leave out --cluster of train: submit has its own"),
        (("train", "kd_digits", "--out", "x"), "leave out --out of train: runs land in the cluster's storage"),
        (("train", "/etc/mine.yaml"), "does not go along: a job has the working directory"),
        (("train", "../mine.yaml"), "put the file there and name it from there"),
    ],
)
def test_a_slip_is_told_before_anything_is_sent(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        submission(tmp_path, *words)


def test_trackers_go_along_with_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    sent = submission(tmp_path, "train", "kd_digits", "--tracker", "mlflow")
    assert "--tracker mlflow" in sent.entrypoint
    assert sent.runtime["env_vars"]["MLFLOW_TRACKING_URI"] == "http://tracking:5000"
    assert "WANDB_API_KEY" not in sent.runtime["env_vars"]
    assert "MLFLOW_TRACKING_URI" not in submission(tmp_path, "train", "kd_digits").runtime["env_vars"]


def test_dependencies_are_pinned_where_asked(tmp_path: Path) -> None:
    assert submission(tmp_path, "train", "kd_digits").runtime == {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}
    pinned = submission(
        tmp_path, "train", "kd_digits", cluster=CLUSTER.model_copy(update={"dependencies": "pinned"})
    ).runtime["pip"]
    names = [line.partition("==")[0] for line in pinned]
    assert {"torch", "optuna", "pydantic", "safetensors"} <= set(names)
    assert "ray" not in names, "the cluster's own"
    assert "pytest" not in names
    assert all("==" in line and "+" not in line for line in pinned), "an index has no build such as 2.9.0+cpu"
    searched = CLUSTER.model_copy(update={"dependencies": "pinned", "study": "postgresql+psycopg://db/raykd"})
    (driver,) = set(submission(tmp_path, "train", "kd_digits", cluster=searched).runtime["pip"]) - set(pinned)
    assert driver.startswith("psycopg[binary]==")


def test_builds_are_pinned_by_their_version_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.cluster.submission.version", lambda name: "2.9.0+cu128")
    place = CLUSTER.model_copy(update={"dependencies": "pinned"})
    assert "torch==2.9.0" in submission(tmp_path, "train", "kd_digits", cluster=place).runtime["pip"]


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("slurm", r"`sbatch --export=ALL,RAYKD_CLUSTER=\S+/slurm.yaml \S+/slurm.sh train ...`$"),
        ("kuberay_job", r"into the entrypoint of \S+/rayjob.yaml, then `raykd cluster up \S+/kuberay_job.yaml`$"),
    ],
)
def test_a_cluster_for_one_command_takes_no_jobs(name: str, instead: str) -> None:
    with pytest.raises(UsageError, match=rf"'{name}' takes no jobs, it starts for one command and ends: .*{instead}"):
        load_job_cluster(name)


def test_all_other_clusters_take_jobs() -> None:
    for name in set(cluster_names()) - {"slurm", "kuberay_job"}:
        assert load_job_cluster(name) == load_cluster(name)


@pytest.mark.parametrize(
    ("words", "times", "hours"),
    [
        (("train", "lsgdfd_digits", "--seeds", "3"), 3, 2 * 10 + 3 * 1),
        (("tune", "sharp.yaml", "--trials", "4"), 8, None),
        (("train", "dafl_digits", "--seeds", "2"), 2, 10 + 2 * (1 + 10)),
    ],
)
def test_what_all_runs_share_costs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], times: int, hours: float | None
) -> None:
    def plan_on(experiment: Experiment, *_: Any, **__: Any) -> Plan:
        """What a plan looks like, with an hour for the run itself and ten for every other."""
        costs = [(run.run_id, 1.0 if run.run_id == experiment.run_id else 10.0) for run in experiment.runs]
        total = sum(cost for _, cost in costs)
        runs = [RunPlan(run, "to train", hours=cost, price=2 * cost) for run, cost in costs]
        return Plan(experiment.recipe.name, experiment.run_id, 1, runs, {"hours": total, "price": 2 * total})

    monkeypatch.setattr("raykd.cluster.submission.plan_on", plan_on)
    (tmp_path / "sharp.yaml").write_text(
        "recipe: kd_digits\nseeds: 2\nspace: {method.temperature: {uniform: [1, 9]}}\n"
    )
    found = submission(tmp_path, *words).plan().to_dict()["in all"]
    assert found["runs"] == times
    assert found.get("hours") == hours, "of trials, which are parallel, nobody knows"
    assert found["price"] == (2 * hours if hours else 2 * (10 + 8))
