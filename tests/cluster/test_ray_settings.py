"""Ray's token is looked for as Ray does, and asked for where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cluster.ray_settings import token_source


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
