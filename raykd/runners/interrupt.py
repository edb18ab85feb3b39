"""Ctrl-C in a program or a notebook: the first asks what is running to save and stop, the second leaves."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def interruptible(should_stop: Callable[[], bool] | None = None) -> Iterator[Callable[[], bool]]:
    """Within, tell whether Ctrl-C was pressed instead of raising KeyboardInterrupt; pressed again, raise it.

    Where the caller has a ``should_stop`` of its own, that is told; in another thread than the main one, which hears no
    signals, that nothing was pressed.
    """
    if should_stop is not None:
        yield should_stop
        return
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        with suppress(RuntimeError):  # it may have come amid another writing
            sys.stderr.write("\nraykd: stopping after this step; once more to leave without saving\n")

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
