"""A run of Weights & Biases that stays on this machine, read back from its files."""

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raykd.tracking.tracker import Report, RunFacts
from raykd.tracking.wandb_run import WandbRun
from tests.architecture.imports import ROOT
from tests.disks import leave, mounted
from tests.tracking.wandb_file import ended_files, history, records


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 4)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def facts(tmp_path: Path) -> RunFacts:
    folder = tmp_path / "tiny-0-s3"
    folder.mkdir()
    return RunFacts("tiny-0-s3", "t" * 90, 3, {"student_optim.lr": 0.5}, {"raykd.run_id": "tiny-0-s3"}, folder)


def test_a_run_lies_in_its_directory_and_tells_nothing_of_the_machine(
    facts: RunFacts, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abcdefabcd" * 4)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    page = facts.folder / "report.html"
    page.write_text("<p>the report</p>")
    run = WandbRun(facts, None, 0)
    run.log([Report(2, {"step": 2, "loss": 0.5}, picture()), Report(4, {"step": 4, "loss": 0.25}, None)])
    assert run.step == 4
    run.end("finished", {"state": "finished", "result": {"blind": {"accuracy/top1": 97.5}}}, page)
    (file,) = ended_files(facts.folder, 1)
    rows = history(file)
    assert [(row["_step"], row["loss"]) for row in rows] == [(2, 0.5), (4, 0.25)]
    (begun,) = [record.run for record in records(file) if record.HasField("run")][:1]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (begun.project, begun.display_name, list(begun.tags)) == ("mine", "tiny-0-s3", ["t" * 64, "seed 3"])
    assert (config["student_optim.lr"], config["raykd.run_id"]) == (0.5, "tiny-0-s3")
    assert [record.exit.exit_code for record in records(file) if record.HasField("exit")] == [0]
    summary = {item.key: item.value_json for record in records(file) for item in record.summary.update}
    assert summary["result/blind/accuracy/top1"] == "97.5"
    (kept,) = facts.folder.glob("wandb/offline-run-*/files/report.html")
    assert (kept.is_symlink(), kept.read_text()) == (False, "<p>the report</p>")
    assert not any(record.HasField("output_raw") or record.HasField("stats") for record in records(file))
    written = [path for path in facts.folder.rglob("*") if path.is_file()]
    assert {path.name for path in written if path.suffix in (".py", ".txt")} == set()
    assert not any(b"abcdefabcd" in path.read_bytes() for path in written)
    assert capfd.readouterr() == ("", "")


def test_a_run_goes_on_in_files_of_the_same_id(
    facts: RunFacts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    first = WandbRun(facts, None, 0)
    first.log([Report(2, {"step": 2, "loss": 0.5}, None)])
    first.end("stopped", {"reason": "stopped at step 2"}, None)
    time.sleep(1.1)  # its folders are called by the second
    again = WandbRun(facts, first.id, 2)
    assert (again.id, again.step) == (first.id, 2)
    again.log([Report(4, {"step": 4, "loss": 0.25}, None)])
    again.end("failed", {}, None)
    files = ended_files(tmp_path / "elsewhere", 2)
    assert [row["_step"] for file in files for row in history(file)] == [2, 4]
    codes = [record.exit.exit_code for file in files for record in records(file) if record.HasField("exit")]
    assert codes[-1] == 1
    assert not list(facts.folder.iterdir())


def test_a_name_of_any_length_is_an_id(facts: RunFacts) -> None:
    opened: list[Any] = []
    long = RunFacts("x/y" * 90, "r", 0, {}, {}, facts.folder)
    thread = threading.Thread(target=lambda: opened.append(WandbRun(long, None, 0)))
    thread.start()
    thread.join()
    assert len(opened[0].id) <= 128
    assert "/" not in opened[0].id
    opened[0].end("finished", {}, None)


@pytest.mark.parametrize("place", ["a file", "nowhere"])
def test_files_that_cannot_lie_where_they_are_wanted_lie_nowhere_else(
    facts: RunFacts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", {"a file": str(tmp_path / "file"), "nowhere": "/proc/none"}[place])
    with pytest.raises(OSError, match="File exists|No such file"):
        WandbRun(facts, None, 0)


def test_a_full_disk_is_told_without_tracebacks(facts: RunFacts, capfd: pytest.CaptureFixture[str]) -> None:
    with mounted(facts.folder / "disk") as disk, pytest.MonkeyPatch.context() as changed:
        changed.setenv("WANDB_DIR", str(disk))
        run = WandbRun(facts, None, 0)
        leave(disk, 0)
        with suppress(OSError):  # which a run's tracker tells
            run.log([Report(1, {"step": 1, "loss": 0.5}, picture())])
        for index in range(100):  # as its package tells what it does
            logging.getLogger("wandb.sdk").info("%d %s", index, "x" * 200)
        run.end("finished", {}, None)
    assert "Traceback" not in capfd.readouterr().err


ENDING = """
import os, sys, threading, time
from pathlib import Path
from raykd.distributed.processes import below
from raykd.tracking import wandb_run
from raykd.tracking.tracker import RunFacts
wandb_run._EXIT_SECONDS, wandb_run._ANSWER_SECONDS = 1.0, 600.0
facts = RunFacts("tiny-0-s3", "tiny", 3, {}, {}, Path(sys.argv[1]))
threading.Thread(target=wandb_run.WandbRun, args=(facts, None, 0), daemon=True).start()
while not list(facts.folder.glob("wandb/run-*")):
    time.sleep(0.1)
time.sleep(5)  # until the package's own process has the run
print("it waits for its server")
print("processes:", *below(os.getpid()), flush=True)
"""


def test_a_server_that_is_away_keeps_no_process_from_ending(facts: RunFacts) -> None:
    """Its package waits for it for ever, once it is told that the process ends."""
    server = {"WANDB_MODE": "online", "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://me:word@127.0.0.1:9"}
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # that of this process
    told = facts.folder / "told"
    with told.open("wb") as file:  # no pipe, which the package's own process may hold for longer
        command = [sys.executable, "-c", ENDING, str(facts.folder)]
        done = subprocess.run(
            command, cwd=ROOT, env={**own, **server}, stdout=file, stderr=file, timeout=240, check=False
        )
    assert done.returncode == 0, told.read_text()
    assert "it waits for its server" in told.read_text()
    assert "word" not in told.read_text()
    pids = [int(pid) for pid in told.read_text().partition("processes:")[2].splitlines()[0].split()]
    assert pids
    assert not any(map(at_work, pids)), "its package's own process ended with it"


def at_work(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
