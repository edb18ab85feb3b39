"""Stop together: all workers must leave the loop at the same step, or the next collective waits for ever."""

import time
from collections.abc import Callable

from raykd.distributed.world import World
from raykd.engine.reporter import Reporter
from raykd.errors import RaykdError

_SECONDS_BETWEEN = 0.5  # polls, each of which costs a broadcast


class Interrupted(RaykdError):
    """The run was asked to stop; it saved a checkpoint first."""

    exit_code = 130

    def __init__(self, step: int, steps: int) -> None:
        """Name the step that was saved, of ``steps`` in all."""
        super().__init__(f"stopped at step {step} of {steps}, saved; the same command continues")


class TakenOver(Interrupted):
    """Somebody else trains the run now: it is left at once, and what it was since its last report is not saved."""

    def __init__(self) -> None:
        """Say it; no step was saved."""
        RaykdError.__init__(self, "another tuner of the study has taken it over, so nothing more of it is saved here")


class StopPoll:
    """Asks rank 0's reporter about twice a second, at steps that all workers agree on."""

    def __init__(self, reporter: Reporter, world: World, done: int, check: Callable[[], None] = lambda: None) -> None:
        """Start at ``done`` steps: ask after the next one, then as often as the pace of the steps tells.

        ``check`` is called by every worker where there is a poll: may the run go on at all?
        """
        self._reporter = reporter
        self._check = check
        self._world = world
        self._next = 0
        self._asked_at = (done, time.monotonic())

    def requested(self, done: int) -> bool:
        """Tell, equally on every worker, whether to stop after ``done`` steps."""
        if done < self._next:
            return False
        self._check()
        step, asked_at = self._asked_at
        now = time.monotonic()
        since = done - step
        pace = max(1, round(since * _SECONDS_BETWEEN / max(now - asked_at, 1e-6)))
        # A device's queue swallows the first steps at once, so the pace is believed bit by bit.
        pace = min(pace, 10 * since)
        self._asked_at = (done, now)
        # Rank 0 alone decides both, since clocks and files may look different elsewhere.
        verdict, self._next = self._world.agree(lambda: (self._ask(done), done + pace), on_first=True)
        return verdict

    def _ask(self, done: int) -> bool:
        self._reporter.note_step(done)
        return self._reporter.stop_requested()
