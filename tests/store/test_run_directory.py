"""What a run directory holds, read back; and what is not as it was written, said in one line."""

import json
import logging
from pathlib import Path

import pytest

from raykd.errors import CorruptError, InProgress, UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import dump_recipe, load_recipe
from raykd.results import Figures, RunResult
from raykd.spec import DataSpec
from raykd.store.rows import parse_rows
from raykd.store.run_directory import RunDirectory
from raykd.store.status import parse_status

SPEC = DataSpec("made", 3, 1, 8, (0.5,), (0.25,), ("a", "b", "c"))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has begun."""
    experiment = resolve(load_recipe("kd_digits"))
    run = RunDirectory(tmp_path / experiment.run_id)
    run.path.mkdir()
    run.write_opening(experiment, SPEC, {"teacher_sha256": "abc"}, step=0, steps=4)
    return run


def test_it_is_read_back(run: RunDirectory) -> None:
    assert run.experiment() == resolve(load_recipe("kd_digits"))
    assert run.data() == SPEC
    assert run.environment() == {"teacher_sha256": "abc"}
    status = {"state": "running", "step": 0, "steps": 4, "resumed_from": 0, "reason": None, "updated": 0}
    assert run.status() | {"updated": 0} == {**status, "current_step": 0, "steps_per_second": None}
    assert (run.exists, run.has_begun, run.is_finished, run.result(), run.rows()) == (True, True, False, None, [])
    run.write_status(state="finished", result={"seed": 0})
    assert run.is_finished
    assert run.result() == RunResult(run=run.name, seed=0)
    assert run.status()["steps"] == 4, "other fields stay"


def test_a_run_that_goes_on_has_no_pace_yet(run: RunDirectory) -> None:
    run.write_status(steps_per_second=9.0, current_step=3)
    run.write_opening(run.experiment(), SPEC, {}, step=2, steps=4)
    assert (run.status()["current_step"], run.status()["steps_per_second"]) == (2, None)


def test_a_result_of_another_version_keeps_what_this_one_does_not_know(run: RunDirectory) -> None:
    told = {"run": run.name, "seed": 3, "last": {"step": 4, "accuracy/top1": 50.0, "referee/kl": 0.5}, "energy": 7}
    run.write_status(state="finished", result=told)
    result = run.result()
    assert result is not None
    assert (result.last, result.blind, result.seconds) == (
        Figures(step=4, top1=50.0, more={"referee/kl": 0.5}),
        None,
        None,
    )
    assert told.items() <= result.to_dict().items()


@pytest.mark.parametrize("result", [{"last": 3}, {"controls": []}, {"controls": {"a": {}}}, [], "done"])
def test_a_damaged_result_is_none(run: RunDirectory, result: object) -> None:
    run.write_status(state="finished", result=result)
    assert not run.is_finished


def test_rows_after_a_step_are_dropped_and_what_is_no_row_is_left_out(run: RunDirectory) -> None:
    for step in (2, 4, 6):
        run.append_row({"step": step, "loss/kd": 0.5})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n\xff\xfe\n{"loss/kd": 1}\n{"step": 8, "lo')
    assert [row["step"] for row in run.rows()] == [2, 4, 6]
    run.rewind(4)
    assert [row["step"] for row in parse_rows((run.path / "metrics.jsonl").read_text())] == [2, 4]


def test_a_digit_that_flipped_and_a_line_cut_off_by_a_kill(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    for step in (2, 4):
        run.append_row({"step": step, "loss/kd": 0.5})
    file = run.path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 6, "loss')
    assert [row["step"] for row in run.rows()] == [2, 4]
    assert not caplog.records, "a kill is no damage"
    file.write_text(file.read_text().replace("0.5", "0.7", 1))
    assert [row["step"] for row in run.rows()] == [4]
    assert "not as they were written: 1" in caplog.text
    file.write_text('{"step": 2, "loss/kd": 0.5}\n')
    assert run.rows() == [{"step": 2, "loss/kd": 0.5}], "rows of earlier releases have no sum"


def test_a_row_without_a_sum_among_others_and_a_step_that_is_no_number_are_left_out(run: RunDirectory) -> None:
    run.append_row({"step": 2, "loss/kd": 0.5})
    file = run.path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 4, "loss/kd": 0.1}\n')
    assert [row["step"] for row in run.rows()] == [2]
    file.write_text('{"step": true, "loss/kd": 0.5}\n{"step": 2, "loss/kd": 0.5}\n')
    assert run.rows() == [{"step": 2, "loss/kd": 0.5}]


def test_the_record_counts_and_not_what_its_names_mean_by_now(run: RunDirectory, tmp_path: Path) -> None:
    (run.path / "recipe.yaml").write_text(dump_recipe(load_recipe("dafl_digits")))
    assert run.experiment().recipe.name == "kd_digits"


def test_a_run_of_before_there_was_a_record_is_looked_up(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    (run.path / "experiment.json").unlink()
    assert run.experiment() == resolve(load_recipe("kd_digits"))
    assert caplog.messages == []
    other = run.path.rename(run.path.with_name("kd_digits-00000000-s0"))
    assert RunDirectory(other).experiment().recipe == load_recipe("kd_digits")
    assert "one of these has changed since" in caplog.text


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; no recipe.yaml"):
        RunDirectory(tmp_path / "nowhere").experiment()
    with pytest.raises(UsageError, match="is not a run directory: it has no recipe.yaml"):
        RunDirectory(tmp_path).experiment()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"run": 1, "runs": {}}'])
def test_a_damaged_record_is_named(run: RunDirectory, content: bytes) -> None:
    (run.path / "experiment.json").write_bytes(content)
    with pytest.raises(CorruptError, match=r"experiment\.json is damaged .*; restore it from a backup") as caught:
        run.experiment()
    assert "\n" not in str(caught.value)


def test_a_damaged_status_is_unknown_and_said(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    (run.path / "status.json").write_text("[]")
    with caplog.at_level(logging.WARNING):
        assert run.status() == {}
    assert "status.json is damaged (it holds a list, not an object)" in caplog.text
    run.write_status(state="running")
    assert run.status()["state"] == "running", "written anew"


def test_a_directory_in_the_place_of_a_file_is_left_alone(run: RunDirectory) -> None:
    (run.path / "status.json").unlink()
    (run.path / "status.json").mkdir()
    with pytest.raises(CorruptError, match="is a folder, and a file belongs there"):
        run.write_status(state="running")
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(CorruptError, match=r"metrics\.jsonl is damaged \(Is a directory\)"):
        run.rows()


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard", "bank", "metrics.jsonl", ".lock"])
def test_what_leads_out_of_it_is_not_written_through(run: RunDirectory, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    for precious in ("step_0000001/state.pt", ".x.writing", ".writing-step_0000002/state.pt"):
        (elsewhere / precious).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / precious).touch()
    before = sorted(elsewhere.rglob("*"))
    (run.path / name).symlink_to(elsewhere / ("new" if "." in name else ""))
    with pytest.raises(CorruptError, match=f"{name} is a link that leads out of") as caught, run.held():
        pytest.fail("it is written")
    assert "\n" not in str(caught.value)
    assert sorted(elsewhere.rglob("*")) == before


def test_it_may_be_reached_by_a_link_and_have_links_of_its_own(run: RunDirectory, tmp_path: Path) -> None:
    (run.path / "large").mkdir()
    (run.path / "checkpoints").symlink_to("large")
    (tmp_path / "link").symlink_to(run.path)
    with RunDirectory(tmp_path / "link").held():
        pass


@pytest.mark.parametrize("name", ["experiment.json", "status.json", "environment.json", "data.json", "metrics.jsonl"])
def test_a_file_without_end_is_damaged(run: RunDirectory, name: str, caplog: pytest.LogCaptureFixture) -> None:
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to("/dev/zero")
    readers = {"experiment.json": run.experiment, "data.json": run.data, "metrics.jsonl": run.rows}
    if name in readers:
        with pytest.raises(CorruptError, match="it is no regular file"):
            readers[name]()
    else:
        assert (run.status() if name == "status.json" else run.environment()) == {}
        assert f"{name} is damaged (it is no regular file)" in caplog.text


def test_what_it_has_opened_is_known_of_its_result_too_and_never_taken_for_nothing(run: RunDirectory) -> None:
    opened = {"train": ["digits/train"]}
    assert run.data_opened() == {}, "of a run of before that was noted"
    (run.path / "environment.json").write_text("hello")
    with pytest.raises(CorruptError, match=r"environment\.json is damaged \(it does not tell what the run has opened"):
        run.data_opened()
    run.write_status(result={"data_opened": opened})
    assert run.data_opened() == opened
    (run.path / "environment.json").write_text(json.dumps({"data_opened": {"train": []}}))
    assert run.data_opened() == {"train": []}
    assert RunDirectory(run.path / "nowhere").data_opened() == {}


def test_it_is_held_by_one_at_a_time_and_gone_if_it_was_not_used(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.held(), pytest.raises(InProgress, match="run run is in progress in another process"), run.held():
        pytest.fail("two jobs are in one run")
    assert not run.path.exists()
    with run.held():
        run.write_status(state="running")
    assert run.has_begun
    (tmp_path / "file").touch()
    with pytest.raises(CorruptError, match="is a file, and a folder belongs there"):
        RunDirectory(tmp_path / "file").held().__enter__()


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_a_status_from_elsewhere_may_be_anything(text: str) -> None:
    assert parse_status(text) == {}
    assert parse_status(json.dumps({"state": "x"})) == {"state": "x"}
