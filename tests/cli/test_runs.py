"""``raykd runs``: what a store holds, runs beside each other, what they take on the disk, and removing them."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raykd.files import write_json
from raykd.recipe.experiment import Experiment
from raykd.store.mirror import Mirror
from raykd.store.moved_aside import remove_run
from raykd.store.remote import Remote
from raykd.store.run_directory import RunDirectory
from tests.cli.conftest import Raykd
from tests.object_store import Server
from tests.reporting.pages.made import made_record, made_run, made_search

STORE = Path("runs")
DAY = 86_400


def listed(raykd: Raykd, *arguments: str) -> dict[str, Any]:
    told = raykd("runs", *arguments, "--json")
    assert told.exit_code == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def family() -> tuple[RunDirectory, RunDirectory, RunDirectory]:
    """A teacher, its student, and the control that stands beside that one."""
    teacher = made_run(STORE, "supervised_digits_lenet5", top1=99.0)
    return teacher, made_run(STORE), made_run(STORE, "noise_digits", top1=50.0, finished=False)


def test_the_bare_name_lists_the_runs_here_with_what_they_are(raykd: Raykd) -> None:
    teacher, student, control = family()
    rows = {row["run"]: row for row in listed(raykd)["runs"]}
    assert rows.keys() == {teacher.name, student.name, control.name}
    row = rows[student.name]
    assert (row["method"], row["teacher"], row["student"], row["state"]) == (
        "dafl",
        "lenet5",
        "lenet5_half",
        "finished",
    )
    assert (row["step"], row["accuracy/top1"], row["agreement"], row["seconds"]) == (20, 91.25, 90.25, 61.0)
    assert row["ended"] == student.status()["updated"]
    assert row["size"] == sum(path.stat().st_size for path in student.path.rglob("*") if path.is_file())
    assert rows[control.name]["state"] == "running"
    told = raykd("runs")
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.stdout.splitlines()[1:]] == sorted(rows), "a line each, whatever its width"
    assert raykd("runs", "list").stdout == told.stdout


def test_rows_are_sorted_and_chosen(raykd: Raykd) -> None:
    teacher, student, control = family()
    order = [row["run"] for row in listed(raykd, "--sort", "top1", "--reverse")["runs"]]
    assert order == [teacher.name, student.name, control.name], "what has no figure is last either way"
    assert [row["run"] for row in listed(raykd, "--sort", "top1")["runs"]] == [order[1], order[0], order[2]]
    for column in ("run", "method", "teacher", "student", "state", "step", "agreement", "seconds", "ended", "size"):
        assert len(listed(raykd, "--sort", column)["runs"]) == 3
    assert [row["run"] for row in listed(raykd, "--method", "noise")["runs"]] == [control.name]
    assert [row["run"] for row in listed(raykd, "--state", "running")["runs"]] == [control.name]
    assert raykd("runs", "--sort", "topp").exit_code == 2


def test_a_run_whose_process_is_gone_is_killed(raykd: Raykd) -> None:
    run = made_run(STORE, finished=False)
    with run.held():
        assert [row["state"] for row in listed(raykd)["runs"]] == ["running"]
    assert [row["state"] for row in listed(raykd)["runs"]] == ["killed"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("experiment.json", "{", "experiment.json is damaged"),
        ("experiment.json", '{"run": "x", "runs": {}}', "experiment.json is damaged"),
        ("status.json", "[1]", "status.json is damaged"),
        ("status.json", '{"state": 3}', "status.json is damaged (it holds what no run writes)"),
        ("status.json", '{"state": "finished"}', "status.json is damaged (its result is missing)"),
        ("status.json", '{"state": "finished", "result": {"blind": 3}}', "status.json is damaged"),
        ("environment.json", "\0", "environment.json is damaged"),
    ],
)
def test_a_damaged_run_is_a_row_that_says_what_is_damaged(raykd: Raykd, name: str, content: str, says: str) -> None:
    run = made_run(STORE)
    other = made_run(STORE, overrides=("seed=1",))
    (run.path / name).write_text(content)
    rows = {row["run"]: row for row in listed(raykd)["runs"]}
    assert rows[run.name]["state"] == "damaged"
    assert says in rows[run.name]["damaged"]
    assert rows[other.name]["state"] == "finished"
    told = raykd("runs")
    assert (told.exit_code, told.stderr) == (0, "")
    assert says in told.stdout
    assert [row["run"] for row in listed(raykd, "--state", "damaged")["runs"]] == [run.name]
    compared = raykd("runs", "compare", str(run.path), str(other.path))
    assert (compared.exit_code, len(compared.stderr.splitlines())) == (4, 1)
    assert raykd("runs", "du").exit_code == 0


def test_a_finished_run_without_its_student_is_damaged(raykd: Raykd) -> None:
    run = made_run(STORE)
    run.write_status(student_sha256="0" * 64)
    run.student.unlink()
    (row,) = listed(raykd)["runs"]
    assert "student.safetensors is damaged (it is missing)" in row["damaged"]


def test_searches_and_tables_are_listed_too_also_damaged_ones(raykd: Raykd) -> None:
    made_search(STORE, made_record())
    (STORE / "tables" / "mine").mkdir(parents=True)
    (STORE / "tables" / "mine" / "table.json").write_text("{")
    found = listed(raykd)
    (search,), (table,) = found["searches"], found["tables"]
    assert (search["search"], search["recipe"], search["trials"], search["target"]) == ("made-0", "kd_digits", 6, 6)
    assert (search["objective"], search["best"]) == ("accuracy", 83.0)
    assert "table.json is damaged" in table["damaged"]
    told = raykd("runs").stdout
    assert "6 of 6" in told and "table.json is damaged" in told


def test_recipes_and_results_stand_beside_each_other(raykd: Raykd) -> None:
    one, other = made_run(STORE), made_run(STORE, overrides=("method.entropy_weight=3",), top1=80.0)
    paths = str(one.path), str(other.path)
    found = json.loads(raykd("runs", "compare", *paths, "--json").stdout)
    assert found["runs"] == [one.name, other.name]
    assert found["differences"] == {"method.entropy_weight": ["2.1715", "3.0"]}
    assert [result["blind"]["accuracy/top1"] for result in found["results"]] == [91.25, 80.0]
    told = raykd("runs", "compare", *paths).stdout
    assert "method.entropy_weight" in told and "91.25" in told and "80.00" in told
    assert "schedule.steps" not in told, "in which they do not differ"
    alone = raykd("runs", "compare", paths[0])
    assert (alone.exit_code, "two runs at least" in alone.stderr) == (2, True)


def test_what_is_on_the_disk_is_told_by_part_and_who_needs_it(raykd: Raykd) -> None:
    teacher, student, _ = family()
    for name, size in {"checkpoints/step_1/last.safetensors": 5000, "student.safetensors": 700, "pool/a": 90}.items():
        (student.path / name).parent.mkdir(parents=True, exist_ok=True)
        (student.path / name).write_bytes(bytes(size))
    os.link(student.path / "pool" / "a", teacher.path / "linked")
    whole = listed(raykd, "du")
    runs = {run["run"]: run for run in whole["runs"]}
    parts = runs[student.name]["parts"]
    assert (parts["checkpoints"], parts["weights"], parts["pool"]) == (5000, 700, 90)
    assert runs[student.name]["size"] == sum(parts.values())
    assert whole["size"] == sum(run["size"] for run in runs.values()) - 90, "a file of two names counts once"
    assert listed(raykd, "du", str(student.path)) == runs[student.name]
    assert {one["name"] for one in runs[teacher.name]["dependents"]} == runs.keys() - {teacher.name}
    told = raykd("runs", "du", str(teacher.path)).stdout
    assert f"run {student.name} (its teacher)" in told
    assert "4.88 KiB" in raykd("runs", "du").stdout


def test_what_others_need_stays_unless_it_is_forced(raykd: Raykd) -> None:
    teacher, student, control = family()
    needed = raykd("runs", "rm", str(teacher.path), "--yes")
    assert needed.exit_code == 2
    assert f"{teacher.name} is needed by run {student.name} (its teacher)" in needed.stderr
    assert teacher.exists
    assert raykd("runs", "rm", str(control.path), "--yes").exit_code == 2, "the student's control"
    together = raykd("runs", "rm", str(student.path), str(control.path), "--yes")
    assert together.exit_code == 0, together.stderr
    assert f"removed {student.path}\nremoved {control.path}\n" in together.stdout
    made_run(STORE)
    assert raykd("runs", "rm", str(teacher.path), "--force", "--yes").exit_code == 0
    assert sorted(os.listdir(STORE)) == [student.name]


def test_searches_tables_and_sets_need_their_runs(raykd: Raykd) -> None:
    run = made_run(STORE, "lsgdfd_digits_bank")
    (STORE / "synthetic" / f"{run.name}-500").mkdir(parents=True)
    (STORE / "synthetic" / f"{run.name}-500" / "train.parquet").touch()
    told = raykd("runs", "rm", str(run.path), "--yes")
    assert (told.exit_code, f"set synthetic/{run.name}-500 (its generators)" in told.stderr) == (2, True)
    trial = made_run(STORE, "kd_digits", ("seed=1",))
    record = made_record(2).to_dict()
    record["trials"][0]["run"] = trial.name.replace("-s1", "-s0")  # whose second seed it is
    folder = made_search(STORE, None)
    write_json(folder / "trials.json", record)
    told = raykd("runs", "rm", str(trial.path), "--yes")
    assert (told.exit_code, "search made-0 (its trial)" in told.stderr) == (2, True)
    (folder / "trials.json").write_text("{")
    told = raykd("runs", "rm", str(trial.path), "--yes")
    assert told.exit_code == 4
    assert "what made-0 builds on cannot be told" in told.stderr
    assert trial.exists and run.exists


@pytest.fixture
def somebody_else() -> Iterator[None]:
    """No rights beyond those of the files, in a folder that anybody may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    os.chdir(folder)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in folder.rglob("*"):
            path.chmod(0o777)
        shutil.rmtree(folder)


@pytest.mark.usefixtures("somebody_else")
def test_a_run_that_may_not_be_read_is_one_row_and_hides_no_other(raykd: Raykd) -> None:
    closed, other = made_run(STORE), made_run(STORE, overrides=("seed=1",))
    closed.path.chmod(0)
    rows = {row["run"]: row for row in listed(raykd)["runs"]}
    assert rows[closed.name]["state"] == "damaged"
    assert "cannot be read (Permission denied)" in rows[closed.name]["damaged"]
    assert rows[other.name]["state"] == "finished"
    assert raykd("runs", "rm", str(other.path), "--yes").exit_code == 4, "it may build on it"
    made_search(STORE, made_record()).chmod(0)
    told = raykd("runs", "rm", str(other.path), "--yes")
    assert (told.exit_code, "searches/made-0 cannot be read (Permission denied)" in told.stderr) == (3, True)
    STORE.chmod(0)
    told = raykd("runs", "list")
    assert (told.exit_code, "runs cannot be read (Permission denied)" in told.stderr) == (3, True), told.stderr


@pytest.mark.parametrize("gone", ["the run", "the store"])
def test_what_goes_away_while_it_is_read_is_no_damaged_run(
    raykd: Raykd, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    run, other = made_run(STORE), made_run(STORE, overrides=("seed=1",))
    read = RunDirectory.experiment

    def late(directory: RunDirectory) -> Experiment:
        if directory.name == run.name:
            shutil.rmtree(run.path if gone == "the run" else STORE)
        return read(directory)

    monkeypatch.setattr(RunDirectory, "experiment", late)
    if gone == "the run":
        assert [row["run"] for row in listed(raykd)["runs"]] == [other.name]
    else:
        told = raykd("runs")
        assert (told.exit_code, "runs is gone" in told.stderr) == (3, True), told.output


def test_a_search_and_a_table_that_were_stopped_before_their_first_report_need_no_run(raykd: Raykd) -> None:
    run = made_run(STORE)
    for name in ("searches/made-0/study.db", "tables/mine/rows.log"):
        (STORE / name).parent.mkdir(parents=True)
        (STORE / name).touch()
    assert raykd("runs").stdout.count("no report yet") == 2
    found = listed(raykd)
    assert [one.get("damaged") for one in (*found["searches"], *found["tables"])] == [None, None]
    removed = raykd("runs", "rm", str(run.path), "--yes")
    assert removed.exit_code == 0, removed.stderr
    assert not run.path.exists()


def test_the_files_of_a_tracker_are_no_records(raykd: Raykd) -> None:
    run = made_run(STORE)
    before = listed(raykd, "du", str(run.path))["parts"]
    file = run.path / "wandb" / "offline-run-1" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(70))
    assert listed(raykd, "du", str(run.path))["parts"] == {**before, "tracker": 70}


def test_nothing_is_removed_without_an_answer(raykd: Raykd) -> None:
    run = made_run(STORE)
    asked = raykd("runs", "rm", str(run.path))
    assert asked.exit_code == 2
    assert "there is no terminal to ask for 1 run" in asked.stderr
    dry = raykd("runs", "rm", str(run.path), "--dry-run")
    assert (dry.exit_code, "would remove 1 run" in dry.stdout) == (0, True)
    with run.held():
        held = raykd("runs", "rm", str(run.path), "--yes", "--force")
    assert (held.exit_code, "in progress in another process" in held.stderr) == (2, True)
    assert run.exists


def test_a_run_that_is_named_in_several_ways_is_removed_once(raykd: Raykd) -> None:
    run, other = made_run(STORE), made_run(STORE, overrides=("seed=1",))
    Path("linked").symlink_to(STORE)
    spellings = (str(run.path), f"linked/{run.name}", f"{STORE}/../{STORE}/{run.name}/", str(run.path.absolute()))
    removed = raykd("runs", "rm", *spellings, "--yes")
    assert removed.exit_code == 0, removed.stderr
    assert removed.stdout.splitlines()[-1] == f"removed {run.path}"
    assert os.listdir(STORE) == [other.name]


def test_a_damaged_run_can_be_removed_and_makes_others_ask_for_force(raykd: Raykd) -> None:
    run, other = made_run(STORE), made_run(STORE, overrides=("seed=1",))
    for name in ("experiment.json", "recipe.yaml"):
        (run.path / name).unlink()
    refused = raykd("runs", "rm", str(other.path), "--yes")
    assert refused.exit_code == 4
    assert f"what {run.name} builds on cannot be told" in refused.stderr
    assert raykd("runs", "rm", str(run.path), "--yes").exit_code == 0
    assert raykd("runs", "rm", str(other.path), "--yes").exit_code == 0
    assert os.listdir(STORE) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rm", "--yes"), "give the runs to remove"),
        (("rm", "--unused-weights", "runs", "other", "--yes"), "--unused-weights takes one store, and got 2"),
        (("rm", "runs/link", "--yes"), "runs/link is a link to"),
        (("rm", "runs", "--yes"), "is not a run directory"),
        (("rm", "runs/none", "--yes"), "does not exist"),
        (("rm", "s3://bucket/runs/x", "--yes"), "lies in an object store, which knows no locks"),
        (("rm", "--unused-weights", "s3://bucket/runs"), "is an object store, which knows no locks"),
        (("list", "nowhere"), "nowhere does not exist; give a store"),
        (("list", "runs/run"), "runs/run is a run; give the store"),
        (("compare", "runs", "runs/none"), "is no run"),
        (("lst",), "No such command 'lst'"),
    ],
)
def test_slips_are_told_in_a_line(raykd: Raykd, arguments: tuple[str, ...], says: str) -> None:
    made_run(STORE).path.rename("runs/run")
    Path("runs/link").symlink_to("run")
    told = raykd("runs", *arguments)
    assert told.exit_code == 2
    assert says in told.stderr
    assert RunDirectory(STORE / "run").exists


def test_weights_that_no_run_uses_are_removed_after_a_day(raykd: Raykd) -> None:
    run = made_run(STORE)
    write_json(run.path / "environment.json", {"teacher_sha256": "a" * 64})
    weights = STORE / "weights"
    weights.mkdir()
    for name in "abc":
        (weights / f"{name * 64}.safetensors").write_bytes(b"x")
    for name in "ab":
        path = weights / f"{name * 64}.safetensors"
        os.utime(path, (path.stat().st_mtime - 2 * DAY,) * 2)
    dry = raykd("runs", "rm", "--unused-weights", "--dry-run")
    assert [Path(line).stem for line in dry.stdout.splitlines()[:-1]] == ["b" * 64]
    with run.held():
        assert raykd("runs", "rm", "--unused-weights", "--yes").exit_code == 2
    assert raykd("runs", "rm", "--unused-weights", "--yes").exit_code == 0
    assert sorted(path.stem[0] for path in weights.iterdir()) == ["a", "c"], "the one is used, the other may be soon"
    assert listed(raykd, "du", str(run.path))["uses"] == [f"weights/{'a' * 64}.safetensors"]
    (run.path / "experiment.json").write_text("{")
    refused = raykd("runs", "rm", "--unused-weights", "--yes")
    assert (refused.exit_code, "which weights run" in refused.stderr) == (4, True)


def test_an_object_store_is_listed_compared_and_measured_where_it_lies(
    raykd: Raykd, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(Path("cache").absolute()))
    here, address = Path("there").absolute(), f"s3://{s3.new_bucket()}/runs"
    runs = [made_run(here, overrides=(f"seed={seed}",)) for seed in range(2)]
    made_search(here, made_record())
    (runs[1].path / "experiment.json").write_text("{")
    for name in (*(run.name for run in runs), "searches/made-0"):
        Mirror(Remote(address), here).push(name)
    found = listed(raykd, "list", address)
    rows = {row["run"]: row for row in found["runs"]}
    assert rows[runs[0].name] == listed(raykd, "list", str(here))["runs"][0]
    assert f"{address}/{runs[1].name}/experiment.json is damaged" in rows[runs[1].name]["damaged"]
    assert [search["search"] for search in found["searches"]] == ["made-0"]
    assert listed(raykd, "du", f"{address}/{runs[0].name}") == listed(raykd, "du", str(runs[0].path))
    assert raykd("runs", "compare", f"{address}/{runs[0].name}", f"{address}/{runs[1].name}").exit_code == 4
    assert listed(raykd, "compare", f"{address}/{runs[0].name}", str(runs[0].path))["differences"] == {}
    assert not Path("cache").exists(), "nothing but records was brought"


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another content of a JSON file, without the sum of the old one, as somebody else may have written it."""
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda status: status["result"]["blind"].update({"accuracy/top1": "much"}),
            "result.blind.accuracy/top1 is much",
        ),
        (lambda status: status["result"].update(phases={"data": "x"}), "result.phases.data is x"),
        (lambda status: status["result"].update(selected=[1]), "it holds what no run writes"),
        (lambda status: status.update(step=10**400), "it holds what no run writes"),
    ],
)
def test_figures_that_are_none_are_damage(raykd: Raykd, change: Callable[[dict[str, Any]], None], says: str) -> None:
    run = made_run(STORE)
    changed(run.path / "status.json", change)
    told = raykd("runs")
    assert (told.exit_code, says in told.stdout) == (0, True), told.output
    assert raykd("runs", "compare", str(run.path), str(run.path)).exit_code == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report.update(updated="now"),
        lambda report: report["best"][0]["values"].update(accuracy="much"),
        lambda report: report["best"][0].update(run=["x"]),
    ],
)
def test_a_search_of_other_types_is_damaged(raykd: Raykd, change: Callable[[dict[str, Any]], None]) -> None:
    run, folder = made_run(STORE), made_search(STORE, made_record())
    changed(folder / "search.json", change)
    told = raykd("runs")
    assert (told.exit_code, "search.json is damaged" in told.stdout) == (0, True), told.output
    assert raykd("runs", "rm", str(run.path), "--yes").exit_code == 4


@pytest.mark.parametrize("name", [".hidden", "weights"])
def test_what_is_listed_as_no_run_is_none_to_be_removed(raykd: Raykd, name: str) -> None:
    run = made_run(STORE)
    run.path.rename(STORE / name)
    told = raykd("runs", "rm", f"runs/{name}", "--yes")
    assert (told.exit_code, f"runs/{name} is no run" in told.stderr) == (2, True), told.output


def test_a_name_that_is_no_text_is_shown(raykd: Raykd) -> None:
    made_run(STORE).path.rename(os.fsdecode(b"runs/odd\xff"))
    told = raykd("runs")
    assert (told.exit_code, "odd\\xdcff" in told.stdout) == (0, True), told.output


def test_a_name_of_two_lines_is_one_line_of_text_and_can_be_removed(raykd: Raykd) -> None:
    run = RunDirectory(made_run(STORE).path.rename("runs/two\nlines"))
    (run.path / "status.json").write_text("{")
    told = raykd("runs", "list")
    row, note = told.stdout.splitlines()[1:]
    assert row.startswith("two\\x0alines ") and "two\\x0alines/status.json is damaged" in note
    refused = raykd("runs", "compare", str(run.path), str(run.path))
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (4, 1)
    reported = raykd("report", "runs")
    assert "two\\x0alines/status.json is damaged" in reported.stderr, "a line of the log"
    gone = raykd("runs", "rm", str(run.path), "--yes")
    assert (gone.exit_code, gone.stdout.splitlines()[-1]) == (0, "removed runs/two\\x0alines"), gone.output
    assert not run.path.exists()


def test_a_finished_run_that_was_renamed_is_read_by_what_it_says_itself(raykd: Raykd) -> None:
    run = made_run(STORE, overrides=("seed=3",))
    renamed = RunDirectory(run.path.rename("runs/best"))
    (row,) = listed(raykd)["runs"]
    assert (row["run"], row["state"], row.get("damaged")) == ("best", "finished", None)
    found = renamed.result()
    assert found is not None
    assert found.seed == 3
    changed(renamed.path / "status.json", lambda status: status["result"].pop("seed"))
    (row,) = listed(raykd)["runs"]
    assert "best is no run id, and the result does not tell its seed" in row["damaged"]


def test_what_begins_while_somebody_is_asked_is_seen(raykd: Raykd, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = made_run(STORE, "supervised_digits_lenet5", top1=99.0)
    weights = STORE / "weights" / f"{'a' * 64}.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"x")
    os.utime(weights, (weights.stat().st_mtime - 2 * DAY,) * 2)

    def answered(*_: object) -> bool:
        write_json(made_run(STORE).path / "environment.json", {"teacher_sha256": "a" * 64})
        return True

    monkeypatch.setattr("raykd.cli.runs._is_agreed", answered)
    assert raykd("runs", "rm", "--unused-weights").exit_code == 0
    assert weights.exists()
    remove_run(RunDirectory(next(path for path in STORE.glob("dafl*"))))
    assert raykd("runs", "rm", str(teacher.path)).exit_code == 2
    assert teacher.exists
