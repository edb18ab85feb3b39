import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.surroundings import folder_searched, library_folders, name_user, put_library_first

LIBRARY = os.path.dirname(os.__file__)


def test_the_library_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", ["/here", LIBRARY, "/packages"])
    put_library_first()
    assert sys.path == [LIBRARY, "/here", "/packages"]
    assert library_folders() == [LIBRARY]


def test_a_users_folder_is_searched_behind_all_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = ["/other", LIBRARY, "/packages"]
    monkeypatch.setattr("sys.path", list(before))
    (tmp_path / "alone.py").touch()
    with folder_searched(str(tmp_path), "alone"):
        assert sys.path == [LIBRARY, "/other", "/packages", str(tmp_path)]
        sys.path.insert(0, "/added")
    assert sys.path == ["/added", *before]


def test_a_folder_without_the_module_is_not_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    before = list(sys.path)
    for name in ("torch", "mine"):
        with folder_searched(str(tmp_path), name):
            assert str(tmp_path) not in sys.path
    assert sys.path == before


def test_the_module_that_is_asked_for_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("antigravity", "this"):
        (tmp_path / f"{name}.py").write_text("raise LookupError('of the user')")
        monkeypatch.delitem(sys.modules, name, raising=False)
    with folder_searched(str(tmp_path), "antigravity"):
        with pytest.raises(LookupError, match="of the user"):
            importlib.import_module("antigravity")
        assert "of the user" not in str(importlib.util.find_spec("this"))
        assert str(tmp_path) not in str(importlib.util.find_spec("this"))
    assert str(tmp_path) not in str(importlib.util.find_spec("antigravity"))


def test_files_called_like_the_librarys_do_no_harm(tmp_path: Path) -> None:
    # Of the standard library, and of what raykd needs.
    for name in ("profile", "statistics", "queue", "token", "calendar", "numpy", "yaml", "click", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [sys.executable, "-m", "raykd", "inspect", "nowhere.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[0][:6]) == (2, "error:"), done.stderr


def test_a_process_without_user_and_home_gets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # nobody's
    name_user()
    assert (os.environ["USER"], os.environ["HOME"]) == (str(2**31 - 7), "/")
    monkeypatch.setenv("HOME", "/mine")
    monkeypatch.setenv("USER", "me")
    name_user()
    assert (os.environ["USER"], os.environ["HOME"]) == ("me", "/mine")


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_idle_threads_sleep_unless_the_user_chose(chosen: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    program = "import sys; sys.argv = ['raykd', 'doctor', '--json']; from raykd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment if chosen is None else {**environment, "OMP_WAIT_POLICY": chosen},
        capture_output=True, text=True,
    )  # fmt: skip
    checks = {check["name"]: check["value"] for check in json.loads(done.stdout)["checks"]}
    assert checks["idle threads"] == (chosen or "PASSIVE")
