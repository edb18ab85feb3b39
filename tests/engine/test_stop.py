"""When a run asks whether it should stop."""

from pathlib import Path

import pytest

from raykd.distributed.world import World
from raykd.engine import stop
from raykd.engine.reporter import LocalReporter
from raykd.engine.stop import StopPoll
from raykd.store.run_directory import RunDirectory


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("first", [0, 120_000])
def test_a_stop_is_heard_within_a_second_also_after_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    clock = Clock()
    asked: list[bool] = []
    monkeypatch.setattr(stop, "time", clock)
    poll = StopPoll(LocalReporter(RunDirectory(tmp_path), lambda: bool(asked)), World.alone(), first)
    for done in range(first + 1, first + 200):
        clock.now += 0.05
        assert not poll.requested(done)
    asked.append(True)
    begun = clock.now
    done = first + 199
    while not poll.requested(done := done + 1):
        clock.now += 0.05
    assert clock.now - begun < 1.0


def test_steps_that_only_fill_a_queue_do_not_put_the_question_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(stop, "time", clock)
    poll = StopPoll(LocalReporter(RunDirectory(tmp_path), lambda: True), World.alone(), 0)
    clock.now += 1e-5  # the launch of the first step, not its computation
    assert poll.requested(1)
    assert poll.requested(11)
