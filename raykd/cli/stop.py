"""What a signal does: save and stop where something can be saved, else leave at once.

A thread hears the signal through a file descriptor, so it is answered even while the main thread
sits in a library's long call and would run no Python for a while.
"""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raykd.store.run_directory import RunDirectory

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RECENT_SECONDS = 3.0  # what works through others asks several times in each of them
_GRACE_SECONDS = 5.0  # to tidy up where nothing is to be saved


class Stop:
    """Tells a run whether to stop: a first signal asks it to save, a second leaves at once."""

    def __init__(self) -> None:
        """Listen to nothing yet."""
        self.signum: int | None = None
        self._installed = False
        self._tidying = self._breaking = False
        self._polled_at = 0.0
        self._runs: Callable[[], Iterable[RunDirectory]] = tuple
        self._elsewhere = False
        self._outcome = ""

    @property
    def message(self) -> str:
        """Return what is said of a command that a signal ended."""
        return f"interrupted; {self._outcome}" if self._outcome else "interrupted"

    @property
    def exit_code(self) -> int:
        """Return what a shell expects of a process that a signal ended."""
        return 128 + (self.signum or signal.SIGINT)

    def __call__(self) -> bool:
        """Tell whether to save and stop."""
        self._polled_at = time.time()
        if self._installed and threading.current_thread() is threading.main_thread():
            self._set_handlers()  # Ray puts handlers of its own there when it starts
        return self.signum is not None

    def watch(
        self, runs: "Iterable[RunDirectory] | Callable[[], Iterable[RunDirectory]]", elsewhere: bool = False
    ) -> None:
        """Name the run directories that tell whether there is something to save, or how to find them then.

        ``elsewhere`` means that machines whose disk is not seen here may be at work.
        """
        self._runs = runs if callable(runs) else lambda: runs
        self._elsewhere = elsewhere

    def serve(self, outcome: str) -> None:
        """Say from now on, of a command that is ended with nothing to save, what has come of it."""
        self._outcome = outcome

    @contextmanager
    def tidying(self, needed: bool = True) -> Iterator[None]:
        """Within: leaving raises KeyboardInterrupt first, for work with half-made things to remove."""
        self._tidying = needed
        try:
            yield
        finally:
            self._tidying = False

    def install(self) -> None:
        """Take SIGINT and SIGTERM from here to the end of the process."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._set_handlers()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._installed = True
        threading.Thread(target=self._listen, args=(reading,), daemon=True).start()

    def _set_handlers(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._handle_signal)

    def _handle_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._breaking:
            self._breaking = False
            raise KeyboardInterrupt

    def _listen(self, reading: int) -> None:
        while True:
            signum = os.read(reading, 1)[0]
            if signum not in _SIGNALS:
                continue
            if self.signum is not None:
                self._leave(b"left without saving; the last checkpoint stays")
            self.signum = signum
            if self._can_save():
                _write_stderr(b"stopping after this step; once more to leave without saving")
                continue
            if self._tidying:
                self._breaking = True
                _thread.interrupt_main()
                time.sleep(_GRACE_SECONDS)
            self._leave(self.message.encode())

    def _can_save(self) -> bool:
        """Tell whether a run is going on that has asked since it was opened, so has made steps, or may be elsewhere."""
        if self._elsewhere and time.time() - self._polled_at < _RECENT_SECONDS:  # who asks passes it on to them
            return True
        return any(run.is_at_work(self._polled_at) for run in self._runs())

    def _leave(self, message: bytes) -> None:
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # a progress display hides the cursor
        _write_stderr(message)
        os._exit(self.exit_code)


def _write_stderr(message: bytes) -> None:
    """Write past all buffers and locks: another thread may be holding them."""
    os.write(2, b"\nraykd: " + message + b"\n")
