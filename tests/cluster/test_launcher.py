"""Launcher files: what starts a cluster, and that there may be nothing to start."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cluster.launcher import perform, read_launcher
from raykd.errors import RunFailed, UsageError


@pytest.mark.parametrize("command", ["ray stop", "ray status"])
@pytest.mark.parametrize("name", ["aws", "gcp", "ssh"])
def test_ray_is_found_by_what_is_run_on_the_head(tmp_path: Path, name: str, command: str) -> None:
    """As Ray runs a command there: in a login shell, whose files know nothing of the environment before its setup."""
    ray = tmp_path / "venv/bin/ray"
    ray.parent.mkdir(parents=True)
    ray.write_text('#!/bin/sh\necho "did $1"\n')
    ray.chmod(0o755)

    def run(line: str) -> str:
        shell = ["bash", "--login", "-c", "-i", f"source ~/.bashrc; ({line})"]
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(shell, env=home, capture_output=True, text=True, check=True, timeout=60).stdout

    setup = [line for line in read_launcher(name).content["setup_commands"] if ".bashrc" in line]
    for line in setup * 2:
        run(line)
    assert run(command) == f"did {command.partition(' ')[2]}\n"
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1


def test_without_a_launcher_there_is_nothing_to_start() -> None:
    with pytest.raises(UsageError, match="names no 'launcher' file: Ray starts with each run there"):
        read_launcher("local")
    with pytest.raises(UsageError, match="it is to be running already"):
        read_launcher("gpu_cluster")


@pytest.mark.parametrize("failing", [True, False])
def test_a_traceback_of_a_tool_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failing: bool
) -> None:
    """As Ray's are: ``raykd cluster status ssh`` before ``up`` was thirty lines of it."""
    ray = tmp_path / "ray"
    body = (
        "try:\n    {}['a']\nexcept KeyError as one:\n    raise RuntimeError('Head node (x) not found!') from one"
        if failing
        else "pass"
    )
    ray.write_text(f"#!{sys.executable}\nimport sys\nprint('out')\nprint('looking', file=sys.stderr)\n{body}\n")
    ray.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lines: list[str] = []
    launcher = read_launcher("ssh")
    if failing:
        with pytest.raises(RunFailed, match=r"`ray .*` ended with exit code 1: RuntimeError: Head node .* not found!$"):
            perform(launcher, "status", lines.append)
    else:
        perform(launcher, "status", lines.append)
    out, err = capfd.readouterr()
    assert (out, err) == ("out\n", "looking\n")
    assert lines[0].startswith("+ ray ")


def put_tool(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a program into the place of ``ray``."""
    ray = folder / "ray"
    ray.write_text(f"#!{sys.executable}\nimport sys, time, traceback\nfrom pathlib import Path\n{body}\n")
    ray.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


OUTLIVED = """
for name in "ab":
    try:
        try:
            {}[name]
        except KeyError:
            raise OSError(f"no {name}")
    except OSError:
        traceback.print_exc()
print("ready", file=sys.stderr)
"""


@pytest.mark.parametrize("failing", [True, False])
def test_of_a_traceback_that_a_tool_outlives_the_last_line_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: bool
) -> None:
    put_tool(tmp_path, monkeypatch, OUTLIVED + ("{}['end']" if failing else ""))
    if failing:
        with pytest.raises(RunFailed, match=r"exit code 1: KeyError: 'end'$"):
            perform(read_launcher("ssh"), "status", lambda line: None)
    else:
        perform(read_launcher("ssh"), "status", lambda line: None)
    assert capsys.readouterr().err == "ready\nOSError: no a\nOSError: no b\n"


def test_a_question_is_shown_before_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tool goes on once its question was read: then, and not after a line's end, the answer's file is made."""
    answer = tmp_path / "answer"
    body = f"""
sys.stderr.write("Traces\\rTrust it? [y/N] ")
sys.stderr.flush()
ends = time.monotonic() + 20
while not Path({str(answer)!r}).exists():
    if time.monotonic() > ends:
        sys.exit(5)
    time.sleep(0.01)
sys.stderr.write("yes\\nTrace")
"""
    put_tool(tmp_path, monkeypatch, body)
    told = io.StringIO()

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            told.write(text)
            if told.getvalue().endswith("? [y/N] "):
                answer.touch()
            return len(text)

    monkeypatch.setattr(sys, "stderr", Terminal())
    perform(read_launcher("ssh"), "status", lambda line: None)
    assert told.getvalue() == "Traces\nTrust it? [y/N] yes\nTrace\n"
