"""Ctrl-C and SIGTERM, sent to a real process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.architecture.imports import ROOT
from tests.cli.conftest import WriteRecipe

ENDLESS = {"steps": 20_000, "report_every": 2, "global_batch": 8}  # few enough images not to be compiled
PATIENCE = 120  # seconds, on a busy machine


@contextmanager
def command(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A ``raykd`` process that does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "raykd", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs these tests in the background may ignore the signal, and a child would from its first moment.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def status() -> dict[str, object]:
    try:
        (path,) = Path("runs").glob("tiny-*/status.json")
        found: dict[str, object] = json.loads(path.read_text())
    except ValueError:
        return {}
    return found


def wait_for_step(above: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while int(str(status().get("step", 0))) <= above:
        assert time.monotonic() < deadline, f"no step after {above}"
        time.sleep(0.05)


def end(process: "subprocess.Popen[str]", *signals: signal.Signals) -> tuple[int, str, str]:
    for number in signals:
        process.send_signal(number)
        time.sleep(0.01)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


@pytest.mark.slow
def test_a_run_is_saved_at_a_signal_and_goes_on(tiny: WriteRecipe) -> None:
    recipe = tiny(schedule=ENDLESS)
    with command("train", recipe) as process:
        wait_for_step(2)
        code, out, err = end(process, signal.SIGINT)
    assert (code, out) == (130, "")
    assert "saved; the same command continues" in err
    assert "Traceback" not in err
    assert status()["state"] == "interrupted"
    saved = int(str(status()["step"]))
    (directory,) = Path("runs").glob("tiny-*")
    newest = max(int(path.name[5:]) for path in (directory / "checkpoints").glob("step_*"))
    assert newest >= saved

    with command("train", recipe) as process:
        wait_for_step(newest)
        code, out, err = end(process, signal.SIGTERM)
    assert (code, out) == (143, "")
    assert f"goes on from step {newest}" in err
    assert int(str(status()["step"])) > newest


@pytest.mark.endurance
@pytest.mark.slow
def test_a_run_is_left_without_saving_at_a_second_signal(tiny: WriteRecipe) -> None:
    with command("train", tiny(schedule=ENDLESS)) as process:
        wait_for_step(2)
        code, out, err = end(process, signal.SIGINT, signal.SIGINT, signal.SIGINT)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 0.4, 1.0, 2.5])
def test_a_start_can_be_broken_off(tiny: WriteRecipe, delay: float) -> None:
    with command("train", tiny(schedule=ENDLESS)) as process:
        time.sleep(delay)
        started = time.monotonic()
        code, out, err = end(process, signal.SIGINT)
    assert time.monotonic() - started < 5
    if delay < 1 and code in (1, -signal.SIGINT):  # Python was still starting, and has words of its own
        assert not re.search(rf'File "{ROOT}/raykd/\w+/', err)
        return
    assert "Traceback" not in err
    assert (code, out) == (130, "")


@pytest.mark.slow
def test_a_plan_that_is_broken_off_says_so_and_leaves_nothing(
    tiny: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with command("plan", tiny()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loading libraries" in line:
                break
        code, out, err = end(process, signal.SIGTERM)
    assert (code, out) == (143, "")
    assert err.splitlines()[-1] == "raykd: interrupted; no plan was made, and nothing of it is kept"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_reader_that_leaves_is_no_fault() -> None:
    with command("list", "recipes") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


LISTENING = """
import sys, time
from raykd.cli.stop import Stop
stop = Stop()
stop.install()
stop.serve('no page was written')
stop.watch([], elsewhere=sys.argv[1] == "elsewhere")
print("ready", flush=True)
while not stop():
    time.sleep(0.05)
print("saving", flush=True)
time.sleep(float(sys.argv[2]))
print("saved")
"""


@contextmanager
def listening(where: str, seconds: float) -> Iterator["subprocess.Popen[str]"]:
    """A process that asks whether to stop, and takes so long to save."""
    command = [sys.executable, "-c", LISTENING, where, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("where", "ended"), [("elsewhere", (0, "saving\nsaved\n")), ("here", (130, ""))])
def test_what_machines_elsewhere_are_at_is_saved_too(where: str, ended: tuple[int, str]) -> None:
    """Their run directories are not seen here; but who asks whether to stop is there to pass it on."""
    with listening(where, 0) as process:
        code, out, err = end(process, signal.SIGINT)
    assert (code, out) == ended
    assert ("raykd: interrupted; no page was written" in err) == (where == "here"), "the command's own words"


def test_a_second_signal_leaves_without_saving() -> None:
    with listening("elsewhere", PATIENCE) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        code, out, err = end(process, signal.SIGINT)
    assert (code, out) == (130, "")
    assert "once more to leave without saving" in err
    assert "left without saving; the last checkpoint stays" in err
