"""Ctrl-C in a program: asked once it is told, asked twice it is raised, and its own handler comes back."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from raykd.runners.interrupt import interruptible


def test_the_first_asks_the_second_leaves_and_the_handler_of_before_is_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_who_asks_himself_or_in_a_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)

    def look() -> bool:
        with interruptible() as asked:
            return asked() or signal.getsignal(signal.SIGINT) is not before

    with interruptible(lambda: True) as asked:
        assert asked()
        assert signal.getsignal(signal.SIGINT) is before
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(look).result()
