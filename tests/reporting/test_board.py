"""What a search shows while it goes: lines in a pipe, a table on a terminal."""

import pytest
from rich.console import Console

from raykd.reporting import board as module
from raykd.reporting.board import format_parameters, search_board
from raykd.results import SearchResult, TrialAtWork, TrialCounts, TrialResult


def report(complete: int = 0, pruned: int = 0, failed: int = 0, running: int = 1) -> SearchResult:
    best = TrialResult(
        trial=3,
        values={"agreement": 91.25},
        parameters={"student_optim.lr": 0.00123456, "student.model": "lenet5"},
        run=None,
        test_top1=90.5,
    )
    return SearchResult(
        study="made-0",
        recipe="made",
        objectives={"agreement": "maximize"},
        trials=TrialCounts(target=8, complete=complete, pruned=pruned, failed=failed, running=running),
        best=[best] if complete else [],
        at_work=[TrialAtWork(trial=4, parameters={"student.model": "hinton800"}, value=12.5)],
        reasons=[],
    )


def test_a_pipe_gets_a_line_for_each_trial_that_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with search_board() as show:
        for one in (report(), report(), report(complete=2, pruned=1), report(complete=2, pruned=1), report(complete=3)):
            show(one)
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0] == "0/8 trials: 0 complete, 0 pruned, 0 failed, 1 running"
    assert lines[1].startswith("3/8 trials: 2 complete, 1 pruned, 0 failed, 1 running  best agreement 91.25  ETA ")
    assert len(lines) == 2, "what has not changed is not repeated"


def test_the_time_left_is_that_of_the_trials_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 160.0, 160.0])
    monkeypatch.setattr("raykd.reporting.board.time.monotonic", lambda: next(clock))
    pace = module._Pace()
    assert pace(report(complete=4)) == "", "those that were there before tell nothing of this machine"
    assert pace(report(complete=6)) == "ETA 1:00"  # two in a minute, two to go
    assert pace(report(complete=8)) == ""


def test_a_terminal_gets_a_table() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(module._table(report(complete=2), "ETA 1:00"))
    shown = captured.get()
    for word in ("made-0", "2/8 trials", "ETA 1:00", "91.25", "90.50", "lr=0.001235", "4 at work", "12.5", "hinton800"):
        assert word in shown


def test_values_are_written_on_a_line() -> None:
    assert format_parameters({"a.b": 0.5, "c": "x", "d": [1, 2]}) == "a.b=0.5, c=x, d=[1, 2]"
