"""How fast a run goes, and for which of its workers the others wait."""

import time

import torch

from raykd.distributed.phases import PhaseClock
from raykd.distributed.progress import PROGRESS
from raykd.distributed.world import World
from raykd.engine.sentinel import LEAST_RANK, WAITING_LEAST, WAITING_OTHERS, find_straggler


class Pace:
    """Counts steps and images since a run began here or went on, and the time in collectives since the last report."""

    def __init__(self, world: World, done: int, clock: PhaseClock) -> None:
        """Start at ``done`` steps; ``clock`` has been charged with nothing since the run began here."""
        self.clock = clock
        clock.charge("start")
        self._world, self._first, self._images = world, done, 0
        self._started = time.monotonic()
        self._straggler: str | None = None
        self._since, self._waited = self._started, PROGRESS.waited

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def add(self, done: int, images: int) -> None:
        """Count a step that begins behind ``done`` others, of so many images."""
        self.clock.charge("rest")
        PROGRESS.step = done
        self._images += images

    def go_on(self) -> None:
        """End a report: what one worker alone judged and saved is no waiting of the others."""
        self.clock.charge("checkpoints")
        self._since, self._waited = time.monotonic(), PROGRESS.waited

    def rates(self, done: int) -> dict[str, float]:
        """Return images and steps per second, judging and saving included, at ``done`` steps."""
        seconds = self.seconds
        return {"images_per_second": self._images / seconds, "steps_per_second": (done - self._first) / seconds}

    def waiting(self) -> dict[str, float]:
        """Return how much of the time workers waited since ``go_on``; every worker must call it, before the judging."""
        if self._world.size == 1 or self._world.device.type != "cpu":
            return {}
        waited = (PROGRESS.waited - self._waited) / max(time.monotonic() - self._since, 1e-9)
        shares = self._world.gather(torch.tensor(100 * min(waited, 1.0))).tolist()
        least = min(range(len(shares)), key=shares.__getitem__)
        others = (sum(shares) - shares[least]) / (len(shares) - 1)
        row = {WAITING_OTHERS: others, WAITING_LEAST: shares[least], LEAST_RANK: float(least)}
        before, self._straggler = self._straggler, find_straggler(row)
        PROGRESS.straggler = self._straggler if before else None  # one report may be chance
        return row
