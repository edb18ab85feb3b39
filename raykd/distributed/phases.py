"""Where the time of a run goes: what has passed is charged to a phase, and no step waits for a device to tell it.

On CPUs it is the clock's time. On GPUs, whose work is only ordered by the host, it is that of events among the orders;
they are read at reports, where the host waits for the device in any case. Phases do not overlap, and tile the time.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raykd.distributed.updater import Compiler

Phase = Literal["start", "data", "synthesis", "student", "teacher", "evaluation", "checkpoints", "rest"]

PHASES: dict[Phase, str] = {
    "start": "start-up, first calls, compiling",
    "data": "reading and augmenting images",
    "synthesis": "making images",
    "student": "updating the student",
    "teacher": "forward passes of the teacher",
    "evaluation": "evaluation and reports",
    "checkpoints": "checkpoints",
    "rest": "the rest",
}
"""All phases in their order, in words. Where gradients flow through the teacher, that is part of what they are for."""


_MOST_EVENTS = 4096  # unread; then those that the device has passed are read


class PhaseClock:
    """Charges the time of this worker to phases, from its making on."""

    def __init__(self, device: torch.device | None = None) -> None:
        """Begin at none; on a ``device`` of CUDA by its events, else by the clock."""
        self._by_events = device is not None and device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._open = 0.0  # of what will be charged next, before the calls that are charged apart
        self._unread: list[tuple[Phase | None, bool, Any]] = []
        self._since = self._stamp()

    def charge(self, phase: Phase) -> None:
        """Charge a phase with what has passed since the last charge, but for calls that are charged apart."""
        self._note(phase, is_apart=False)

    def timing(self, compiler: Compiler, teacher: nn.Module | None) -> Compiler:
        """Return a compiler whose callables charge apart what calls of the teacher take, and first calls of a shape."""

        def compiled(network: nn.Module) -> Callable[..., Any]:
            call, known = compiler(network), set[Any]()
            is_teacher = any(module is teacher for module in network.modules())

            def timed(*args: Any) -> Any:
                key = tuple(arg.shape if isinstance(arg, Tensor) else arg for arg in args)
                if key in known and not is_teacher:
                    return call(*args)
                self._note(None, is_apart=True)
                answer = call(*args)
                self._note("teacher" if key in known else "start", is_apart=True)
                known.add(key)
                return answer

            return timed

        return compiled

    def total(self) -> dict[str, float]:
        """Return the seconds of every phase so far, in order, those of earlier parts of the run included.

        On a GPU it waits for what is ordered.
        """
        if self._unread:
            self._unread[-1][2].synchronize()
            self._read()
        return {phase: self._seconds[phase] for phase in PHASES if phase in self._seconds}

    def go_on(self, before: Mapping[str, float]) -> None:
        """Add what earlier parts of the run took."""
        for phase, seconds in before.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def _stamp(self) -> Any:
        if not self._by_events:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _note(self, phase: Phase | None, is_apart: bool) -> None:
        """End a stretch of time: one of a phase, or without one what a call that is charged apart interrupts."""
        now = self._stamp()
        if self._by_events:
            self._unread.append((phase, is_apart, now))
            if len(self._unread) >= _MOST_EVENTS:
                self._read()
        else:
            self._settle(phase, is_apart, now - self._since)
            self._since = now

    def _read(self) -> None:
        """Settle the stretches whose ends the device has passed."""
        passed = 0
        for phase, is_apart, event in self._unread:
            if not event.query():
                break
            self._settle(phase, is_apart, self._since.elapsed_time(event) / 1000)
            self._since = event
            passed += 1
        del self._unread[:passed]

    def _settle(self, phase: Phase | None, is_apart: bool, seconds: float) -> None:
        if phase is None:
            self._open += seconds
            return
        if not is_apart:
            seconds, self._open = seconds + self._open, 0.0
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds


def rounded(phases: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of phases to a hundredth, without phases that took none."""
    return {phase: round(seconds, 2) for phase, seconds in phases.items() if round(seconds, 2)}
