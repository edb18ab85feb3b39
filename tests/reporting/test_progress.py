"""How a run goes, shown live on a terminal and in lines elsewhere."""

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
