"""Phases tile the time: each second is charged once, and the teacher's calls apart from what they are for."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raykd.distributed import phases as module
from raykd.distributed.phases import PhaseClock, rounded


class Slow(nn.Module):
    """A network whose forward pass takes a second of a made clock."""

    def __init__(self, now: list[float]) -> None:
        super().__init__()
        self.now = now

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.now[0] += 1
        return images


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of the clock that phases are measured by."""
    made = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made[0]))
    return made


def test_what_passes_is_charged_once_and_in_order(now: list[float]) -> None:
    clock = PhaseClock()
    for seconds, phase in ((2.0, "student"), (1.0, "rest"), (3.0, "student"), (4.0, "start")):
        now[0] += seconds
        clock.charge(phase)  # type: ignore[arg-type]
    assert list(clock.total().items()) == [("start", 4.0), ("student", 5.0), ("rest", 1.0)]
    clock.go_on({"student": 10.0, "data": 1.0})
    assert clock.total() == {"start": 4.0, "data": 1.0, "student": 15.0, "rest": 1.0}


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_the_teacher_and_first_calls_are_charged_apart(now: list[float], is_wrapped: bool) -> None:
    clock, teacher = PhaseClock(), Slow(now)
    compiler = clock.timing(lambda network: network, teacher)
    ask, study = compiler(nn.Sequential(teacher) if is_wrapped else teacher), compiler(Slow(now))
    images = torch.zeros(2, 1)
    for _ in range(4):
        now[0] += 10
        study(ask(images))
        clock.charge("student")
    assert clock.total() == {"start": 2.0, "student": 43.0, "teacher": 3.0}
    ask(torch.zeros(3, 1))
    assert clock.total()["start"] == 3, "another shape is compiled anew"


def test_phases_that_took_next_to_nothing_are_left_out() -> None:
    assert rounded({"data": 0.004, "student": 1.2345}) == {"student": 1.23}


def test_a_step_s_account_costs_next_to_nothing() -> None:
    clock = PhaseClock()
    ask = clock.timing(lambda network: network.forward, teacher := nn.Identity())(teacher)
    images = torch.zeros(1)
    ask(images)
    best = min(_seconds_of(clock, ask, images) for _ in range(5))
    assert best < 1e-4, "a step of the smallest digits run takes 20 ms: 0.5 % of that"


def _seconds_of(clock: PhaseClock, ask, images: torch.Tensor) -> float:  # type: ignore[no-untyped-def]
    began = time.process_time()
    for _ in range(100):
        for phase in ("rest", "data", "synthesis", "student"):
            clock.charge(phase)
        ask(images)
        ask(images)
    return (time.process_time() - began) / 100


class Event:
    """A mark among the orders of a device that is ``behind`` the host by so many marks until it is waited for."""

    newest, passed, behind = 0, 0, 3

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.newest += 1
        self.at = Event.newest

    def query(self) -> bool:
        Event.passed = max(Event.passed, Event.newest - Event.behind)
        return self.at <= Event.passed

    def synchronize(self) -> None:
        Event.passed = max(Event.passed, self.at)
        Event.behind = 0

    def elapsed_time(self, later: "Event") -> float:
        assert later.at <= Event.passed, "read before the device was there"
        return 1000.0 * (later.at - self.at)


def test_on_a_gpu_events_are_read_once_the_device_has_passed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the device, whose events alone are made up; the real ones are the next test's."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(module, "_MOST_EVENTS", 8)
    clock = PhaseClock(torch.device("cuda"))
    for _ in range(10):
        clock.charge("student")
        clock.charge("rest")
    assert len(clock._unread) < 8
    assert clock.total() == {"student": 10.0, "rest": 10.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_events_of_a_gpu_tell_what_its_work_took() -> None:
    device = torch.device("cuda")
    clock, matrix = PhaseClock(device), torch.randn(4096, 4096, device=device)
    for _ in range(20):
        matrix = matrix @ matrix / 4096
    clock.charge("student")
    clock.charge("rest")
    total = clock.total()
    assert total["student"] > 10 * total["rest"] > 0
