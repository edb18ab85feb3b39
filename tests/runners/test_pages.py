"""Pages at the end of a command: written once, and never in the way of what is finished."""

import logging
from pathlib import Path

import pytest

from raykd.runners.pages import keep_run_pages, keep_search_page, keep_seed_pages, keep_table_page
from raykd.store.mirror import Mirror
from raykd.store.remote import Remote
from raykd.store.workspace import Workspace
from tests.object_store import Server
from tests.reporting.pages.made import made_run

SHORT = ("schedule.steps=20", "schedule.report_every=4", "controls=[]")


@pytest.fixture(autouse=True)
def with_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYKD_REPORT")


def test_a_finished_run_gets_a_page_once_and_again_when_it_is_asked_for(tmp_path: Path) -> None:
    run, going_on = made_run(tmp_path), made_run(tmp_path, overrides=SHORT, finished=False)
    workspace = Workspace(None, tmp_path)
    keep_run_pages([run.name, going_on.name, "nobody-0-s0"], workspace)
    assert run.page.is_file()
    assert not going_on.page.exists()
    assert not (tmp_path / "nobody-0-s0").exists()
    run.page.write_text("kept")
    keep_run_pages([run.name], workspace)
    assert run.page.read_text() == "kept"
    keep_run_pages([run.name], workspace, anew=True)
    assert run.page.read_text() != "kept"


def test_a_page_that_is_older_than_the_result_is_written_anew(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    run.page.write_text("of before")
    run.write_status(state="finished")
    keep_run_pages([run.name], Workspace(None, tmp_path))
    assert run.page.read_text() != "of before"


def test_seeds_tell_of_each_other_once_all_are_there(tmp_path: Path) -> None:
    runs = [made_run(tmp_path, overrides=(*SHORT, f"seed={seed}"), top1=90.0 + seed) for seed in range(2)]
    keep_seed_pages([runs[0].name], tmp_path)
    assert not runs[0].page.exists(), "one alone has its page already"
    keep_seed_pages([run.name for run in runs], tmp_path)
    assert all("seed 0: 90.00, seed 1: 91.00" in run.page.read_text() for run in runs)


def test_what_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made_run(tmp_path)
    run.page.mkdir()
    (run.page / "x").touch()
    (tmp_path / "made-0").mkdir()
    (tmp_path / "made-0" / "table.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        keep_run_pages([run.name], Workspace(None, tmp_path), anew=True)
        keep_search_page(tmp_path / "made-0")
        keep_table_page(tmp_path / "made-0")
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in told] == [
        f"no report.html of run {run.name}",
        "no report.html of search made-0",
        "no report.html of table made-0",
    ]
    assert "table.json is damaged" in told[2]


def test_no_page_is_written_where_nobody_wants_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path)
    monkeypatch.setenv("RAYKD_REPORT", "0")
    keep_run_pages([run.name], Workspace(None, tmp_path))
    assert not run.page.exists()


def test_only_the_first_worker_of_torchrun_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path)
    monkeypatch.setenv("RANK", "1")
    keep_run_pages([run.name], Workspace(None, tmp_path))
    assert not run.page.exists()


def test_the_page_goes_to_the_store_where_the_run_is(tmp_path: Path, s3: Server) -> None:
    run = made_run(tmp_path / "here")
    remote = Remote(f"s3://{s3.new_bucket()}/runs")
    keep_run_pages([run.name], Workspace(None, tmp_path / "here", Mirror(remote, tmp_path / "here")))
    assert remote.read(f"{run.name}/report.html") == run.page.read_bytes()


def test_a_store_that_does_not_answer_is_asked_once_and_the_pages_stay(
    tmp_path: Path, s3: Server, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [made_run(tmp_path, overrides=(*SHORT, f"seed={seed}")) for seed in range(2)]
    remote = Remote(f"s3://{s3.new_bucket()}/runs")
    workspace = Workspace(None, tmp_path, Mirror(remote, tmp_path))
    s3.stop()
    try:
        with caplog.at_level(logging.WARNING):
            keep_run_pages([run.name for run in runs], workspace)
    finally:
        s3.start()
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"no report.html goes to {remote.address}, they stay on this machine: could not write")
    assert all(run.page.is_file() for run in runs)
