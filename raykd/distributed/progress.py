"""How far this process is, for those who watch it from outside: its step, and its time in collectives."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Last step and waiting time of this process. There is one, ``PROGRESS``, as there is one process group.

    Attributes:
        step: steps done of the run at hand.
        waited: seconds spent in collectives so far. On GPUs these run beside the host, and count next to nothing.
        straggler: what the last reports say of a worker for which the others wait; None if they do for none.
    """

    def __init__(self) -> None:
        """Have done nothing yet."""
        self.step = 0
        self.waited = 0.0
        self.straggler: str | None = None
        self._since: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, the process is in a collective."""
        self._since = started = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            self.waited += time.monotonic() - started

    def seconds_waiting(self) -> float | None:
        """Return for how long the process has been in a collective, None where it is in none; from any thread."""
        since = self._since
        return None if since is None else time.monotonic() - since


PROGRESS = Progress()
