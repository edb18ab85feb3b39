"""What a job takes along, what it is called, and what its command line is; without a cluster."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.cli.app import app
from raykd.cli.inner import parse_inner_command
from raykd.cluster import package as packages
from raykd.cluster.config import Cluster, cluster_names, load_cluster
from raykd.cluster.dashboard import dashboard_address
from raykd.cluster.package import collect, remote_content
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


def written(folder: Path, *names: str, size: int = 1) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def taken(folder: Path, data_root: Path | None = None) -> list[str]:
    return sorted(map(str, collect(folder, data_root).files))


def test_what_nobody_wants_stays_behind(tmp_path: Path) -> None:
    wanted = ["mine.yaml", "code/model.py", "code/runs.py", "code/logits/of.py"]
    written(
        tmp_path,
        *wanted,
        ".git/HEAD",
        ".venv/bin/python",
        "code/__pycache__/model.pyc",
        ".mypy_cache/x",
        "a.egg-info/x",
    )
    written(tmp_path, ".env", ".env.local", ".aws/credentials", ".netrc", "data/mnist/train.parquet", ".raykd/old.yaml")
    written(tmp_path / "runs", "logits/a.parquet", "synthetic/b/train.parquet", "searches/c/study.db", ".ray/x")
    written(tmp_path / "runs/kd_digits-00000000-s0", "student.safetensors")
    (tmp_path / "runs/kd_digits-00000000-s0/status.json").write_text('{"state": "finished"}')
    assert taken(tmp_path, tmp_path / "data") == sorted(wanted)


def test_ignore_files_are_honoured_as_git_does(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.bin\n/top.txt\nbuild/\n!keep.bin\n")
    (tmp_path / ".rayignore").write_text("big/\n")
    written(tmp_path, "a.bin", "keep.bin", "top.txt", "sub/top.txt", "build/x", "big/x", "sub/a.bin", "sub/here.txt")
    (tmp_path / "sub/.gitignore").write_text("!a.bin\nhere.txt\n")
    assert taken(tmp_path) == ["keep.bin", "sub/a.bin", "sub/top.txt"]


def test_links_are_followed_and_lead_to_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = tmp_path / "here"
    written(tmp_path / "shared", "models/net.py", "one.txt", "data/mnist/train.parquet")
    written(here, "sub/mine.py")
    links = {"models": "../shared/models", "one.txt": "../shared/one.txt", "data": "../shared/data", "sub/up": ".."}
    for name, target in {**links, "loop": ".", "self": "self", "gone": "nowhere"}.items():
        (here / name).symlink_to(target)
    (tmp_path / "shared/models/again").symlink_to(here)
    os.mkfifo(here / "pipe")
    assert taken(here, tmp_path / "shared/data") == ["models/net.py", "one.txt", "sub/mine.py"]
    assert [f"{here / name} is left out: it is a link that leads nowhere" for name in ("gone", "self")] == (
        caplog.messages
    )


def test_a_link_to_more_files_than_a_job_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, *(f"images/{number}.png" for number in range(5)))
    monkeypatch.setattr(packages, "_MAX_FILES", 3)
    with pytest.raises(UsageError, match=r"in more than 3 files, .*the largest: images/"):
        collect(tmp_path, None).check()


def test_a_name_that_cannot_travel_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    with pytest.raises(UsageError, match=r"caf\\udce9.txt': a name that is no UTF-8 cannot travel"):
        collect(tmp_path, None)


def test_files_travel_without_their_times(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    written(here, "old.txt")
    os.utime(here / "old.txt", (1, 1))
    there.mkdir()
    collect(here, None).write(there, CLUSTER)
    assert min(path.stat().st_mtime for path in there.rglob("*") if path.is_file()) > 1e9


def test_a_folder_as_large_as_data_is_refused_with_its_largest_parts(tmp_path: Path) -> None:
    written(tmp_path, "small.txt")
    for name, size in (("images/one.bin", 150), ("images/two.bin", 50), ("weights.pt", 100)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size * 2**20)  # 300 MiB that take no room
    with pytest.raises(UsageError) as caught:
        collect(tmp_path, None).check()
    told = str(caught.value)
    assert "300.0 MiB in 4 files, and a job takes along at most 100.0 MiB in 100,000;" in told
    assert "the largest: images/ 200.0 MiB, weights.pt 100.0 MiB, small.txt" in told
    assert ".rayignore" in told
    (tmp_path / ".rayignore").write_text("images/\nweights.pt\n")
    collect(tmp_path, None).check()


def test_what_is_written_can_be_run(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    written(here, "mine.yaml", "code/model.py")
    os.symlink(here / "mine.yaml", here / "linked.yaml")
    there.mkdir()
    place = collect(here, None).write(there, CLUSTER)
    assert (there / "linked.yaml").read_bytes() == b"x"
    assert yaml.safe_load((there / place).read_text()) == {"address": "auto", "workers": 2, "storage": "/shared/runs"}
    told = subprocess.run(
        [sys.executable, "-c", "import raykd.search.space_file as s; print(s.__file__); print(*s.space_files())"],
        cwd=there, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""},
    ).stdout.splitlines()  # fmt: skip
    assert told[0].startswith(str(there)), "the code that travels is the code that runs"
    assert "dafl_digits" in told[1].split()


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"address": "local"}, "starts a Ray of its own with each run.*set address to auto"),
        ({"storage": "runs"}, "storage 'runs' .* would lie in the job's own folder"),
        ({"study": "postgresql+psycopg://me:secret@db/raykd"}, "has a password in its address.*set PGPASSWORD"),
        ({"study": "postgresql+psycopg://db/raykd?user=me&PassWord=secret"}, "has a password in its address"),
        ({"study": "postgresql+psycopg://me@db/raykd?sslpassword=secret"}, "has a password in its address"),
    ],
)
def test_what_does_not_fit_a_job_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        remote_content(CLUSTER.model_copy(update=changes))
    assert "secret" not in str(caught.value)


def test_dependencies_are_pinned_where_asked(tmp_path: Path) -> None:
    assert submission(tmp_path, "train", "kd_digits").runtime == {}
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


@pytest.mark.parametrize("address", ["http://me:hush@far:8265", "http://far:99999", "far:8265"])
def test_rays_variable_holds_an_address_or_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://far:8265/")
    assert dashboard_address(CLUSTER) == "http://far:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    for ask in (lambda: load_job_cluster(None), lambda: dashboard_address(CLUSTER)):
        with pytest.raises(
            UsageError, match="RAY_API_SERVER_ADDRESS in the environment: a dashboard is http:"
        ) as caught:
            ask()
        assert "hush" not in str(caught.value)


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


def test_the_limit_is_below_rays_own() -> None:
    assert packages.MAX_BYTES < 512 * 2**20
