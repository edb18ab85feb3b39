"""Ray's variables are set for every verb of a process, and taken back behind it."""

import os
import sys
from types import ModuleType

import pytest

from raykd.cluster import ray_settings
from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings
from raykd.distributed.host import preserved_process


def test_a_second_verb_of_a_process_finds_the_settings_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nowhere")  # no token of the user's
    monkeypatch.setenv("RAY_worker_niceness", "7")
    monkeypatch.setattr(ray_settings, "_before_import", {})
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    before = dict(os.environ)
    seen = []
    for _ in range(2):
        with preserved_process():
            apply_ray_settings(Cluster(name="here"))
            seen.append({name: value for name, value in os.environ.items() if name.startswith("RAY_")})
        monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    assert seen[0] == seen[1]
    assert seen[0]["RAY_memory_monitor_refresh_ms"] == "0"
    assert seen[0]["RAY_worker_niceness"] == "7", "the user's own word"
    token = {name: os.environ.pop(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")}
    assert token["RAY_AUTH_MODE"] == "token", "Ray has read the token when it was imported"
    assert dict(os.environ) == before
