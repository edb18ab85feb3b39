"""How a run goes, shown live on a terminal and in lines elsewhere."""

import pytest

from raykd.reporting import progress
from raykd.reporting.follow import RunUpdate


def test_a_terminal_gets_a_live_display() -> None:
    display = progress._Live(keep_bars=True)
    row = {"step": 2, "images_per_second": 4.0, "steps_per_second": 1.0, "loss/kd": 0.5, "accuracy/top1": 50.0}
    display.show(RunUpdate("a-run", 2, 12, [row], False))
    with display._bars.console.capture() as captured:
        display._bars.console.print(*display._bars.get_renderables(), display._figures)
    display.close()
    shown = captured.get()
    assert "a-run" in shown
    assert "2/12" in shown
    assert "ETA 0:10" in shown
    assert "top-1 50.00%" in shown


def test_a_terminal_shows_the_pace_before_the_first_report() -> None:
    display = progress._Live(keep_bars=True)
    display.show(RunUpdate("a-run", 1, 12, [], False))
    assert display._figures.plain == "starting"
    display.show(RunUpdate("a-run", 6, 12, [], False, pace=2.0))
    with display._bars.console.capture() as captured:
        display._bars.console.print(*display._bars.get_renderables(), display._figures)
    display.close()
    shown = captured.get()
    assert "6/12" in shown
    assert "ETA 0:03" in shown
    assert "2 steps/s, figures with the first report" in shown


def test_a_log_has_a_line_between_reports_that_are_far_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    lines = progress._Lines()
    row = {"step": 30, "images_per_second": 4.0, "steps_per_second": 1.0}
    for step in range(41):
        lines.show(RunUpdate("a-run", step, 100, [row] if step == 30 else [], False, pace=1.0 if step else None))
        clock.now += 1
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "a-run  step 10/100  1 steps/s  ETA 1:30",
        "a-run  step 20/100  1 steps/s  ETA 1:20",
        "a-run  step 30/100  4 img/s  ETA 1:10",
        "a-run  step 40/100  1 steps/s  ETA 1:00",
    ]
