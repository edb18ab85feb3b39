"""How runs go, read from what they write: each report once, and nothing of before."""

import json
import time

import pytest

from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.reporting.follow import Follower, find_step, format_duration, format_pace, format_row, format_step
from raykd.results import COVERAGE


@pytest.mark.parametrize(("seconds", "told"), [(-3, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_seconds_are_told_as_on_a_clock(seconds: float, told: str) -> None:
    assert format_duration(seconds) == told


def test_a_report_is_a_line_whose_losses_come_last() -> None:
    row = {"loss/kd": 0.123456, "images_per_second": 1234.5, "blind/agreement": 91.239, "accuracy/top1": 9.0}
    assert format_row(row) == "1,234 img/s  top-1 9.00%  synthetic agreement 91.24%  kd 0.123"
    assert format_row({**row, COVERAGE: 10.0}) == "1,234 img/s  top-1 9.00%  synthetic agreement -  kd 0.123"


def test_a_report_is_told_once_and_a_run_that_ended_no_more() -> None:
    run, files = resolve(load_recipe("kd_digits")), dict[str, str]()

    def write(state: str, step: int, *steps: int) -> None:
        rows = [{"step": one, "images_per_second": 8.0, "steps_per_second": 2.0} for one in steps]
        status = {"state": state, "step": step, "steps": 10, "updated": time.time() + 1}
        files[f"{run.run_id}/status.json"] = json.dumps(status)
        files[f"{run.run_id}/metrics.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "ima'

    write("running", 2, 2)
    follower = Follower([run], lambda name: files.get(name, ""))
    write("running", 4, 2, 4, 6)
    (update,) = follower.poll()
    assert ([row["step"] for row in update.rows], update.step, update.done) == ([4, 6], 6, False)
    assert update.eta() == 2.0
    assert [row for one in follower.poll() for row in one.rows] == []
    write("finished", 10, 2, 4, 6, 10)
    assert [one.done for one in follower.poll()] == [True]
    assert follower.poll() == []


def test_a_run_moves_between_reports() -> None:
    run, files = resolve(load_recipe("kd_digits")), dict[str, str]()

    def write(state: str, current: int, pace: float | None) -> None:
        status = {"state": state, "step": 0, "steps": 10, "current_step": current, "updated": time.time() + 1}
        files[f"{run.run_id}/status.json"] = json.dumps({**status, "steps_per_second": pace})

    follower = Follower([run], lambda name: files.get(name, ""))
    write("running", 1, None)
    (update,) = follower.poll()
    assert (update.step, update.pace, update.eta(), update.rows) == (1, None, None, [])
    write("running", 4, 3.0)
    (update,) = follower.poll()
    assert (update.step, update.pace, update.eta()) == (4, 3.0, 2.0)
    write("interrupted", 7, 3.0)
    (update,) = follower.poll()
    assert (update.step, update.pace) == (0, None), "where it goes on from"


def test_how_far_a_run_is_can_be_read_from_its_log() -> None:
    lines = [format_step("a-s0", step, 600, text, left) for step, text, left in ((9, "2 img/s", None), (109, "x", 114))]
    assert find_step("\n".join(["starting", *lines, "warning: a step 3/4  is none", ""])) == "109/600, ETA 1:54"
    assert find_step(f"{lines[0]}\nmore") == "9/600"
    assert find_step("nothing yet\n") is None


@pytest.mark.parametrize(("pace", "told"), [(123.4, "123 steps/s"), (1.0, "1 steps/s"), (0.25, "4 s/step")])
def test_a_pace_is_told_in_a_unit_that_can_be_read(pace: float, told: str) -> None:
    assert format_pace(pace) == told


def test_what_a_run_reports_after_it_went_back_is_told() -> None:
    run, files = resolve(load_recipe("kd_digits")), dict[str, str]()

    def write(step: int, *steps: int, **more: object) -> None:
        rows = [{"step": one, "images_per_second": 8.0, "steps_per_second": 2.0} for one in steps]
        status = {"state": "running", "step": step, "steps": 10, "updated": time.time() + 1, **more}
        files[f"{run.run_id}/status.json"] = json.dumps(status)
        files[f"{run.run_id}/metrics.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)

    def told() -> list[int]:
        return [row["step"] for update in follower.poll() for row in update.rows]

    write(0)
    follower = Follower([run], lambda name: files.get(name, ""))
    write(6, 2, 4, 6)
    assert told() == [2, 4, 6]
    rewinds = [{"to": 2, "cause": "of the test"}]
    write(6, 2, 4, 6, rewinds=rewinds, rewinding=2)
    assert told() == []
    write(2, 2, rewinds=rewinds, rewinding=None)
    assert told() == []
    write(6, 2, 4, 6, rewinds=rewinds, rewinding=None)
    assert told() == [4, 6]
    assert told() == []
