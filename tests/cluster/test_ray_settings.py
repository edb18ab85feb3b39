"""Ray's token is looked for as Ray does, and asked for where there is none."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from raykd.cluster import ray_settings
from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings, token_source
from raykd.distributed.host import preserved_process


def test_the_token_is_looked_for_as_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert token_source() is None
    home = tmp_path / ".ray" / "auth_token"
    home.parent.mkdir()
    home.write_text("t")
    assert token_source() == str(home)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert token_source() is None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    assert token_source() == "RAY_AUTH_TOKEN"


def test_a_token_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.runners import runs\n"
        f"store = Path({str(tmp_path)!r})\n"
        "runs.start(runs.recipe(store), store, address='auto')"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "SetupError: RAY_AUTH_MODE is token, but there is no token" in done.stderr


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
