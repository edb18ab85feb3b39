"""How many generators a worker takes at once."""

import pytest

from raykd.methods import members as members_module
from tests.methods.patterns import EACH, lsgdfd


@pytest.mark.parametrize(("free", "at_once"), [(0, 1), (10**12, 4)])
def test_a_wave_is_what_fits_into_the_memory(monkeypatch: pytest.MonkeyPatch, free: int, at_once: int) -> None:
    monkeypatch.setattr(members_module, "free_device_memory", lambda device: free)
    assert lsgdfd().images_per_step == at_once * EACH


def test_workers_of_one_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def capacity(free: int, *sizes: object) -> int:
        asked.append(free)
        return 1

    monkeypatch.setattr(members_module, "free_device_memory", lambda device: 1200)
    monkeypatch.setattr(members_module, "member_capacity", capacity)
    lsgdfd()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    lsgdfd()
    assert asked == [1200, 400]
