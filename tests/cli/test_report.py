"""``raykd report``, and the page that every run leaves."""

import json
from pathlib import Path

import pytest

import raykd as package
from raykd.store.mirror import Mirror
from raykd.store.remote import Remote
from raykd.store.run_directory import RunDirectory
from tests.cli.conftest import Raykd, WriteRecipe
from tests.object_store import Server
from tests.reporting.pages.made import made_run, parsed


@pytest.fixture(autouse=True)
def with_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYKD_REPORT")


def trained(raykd: Raykd, recipe: str, *more: str) -> Path:
    done = raykd("train", recipe, *more, "--json")
    assert done.exit_code == 0, done.stderr
    return Path(json.loads(done.stdout.splitlines()[-1])["directory"])


def test_a_run_leaves_its_page_with_what_its_evaluation_knew(raykd: Raykd, tiny: WriteRecipe) -> None:
    directory = trained(raykd, tiny(controls=["noise_digits"], data={"name": "digits"}), "controls=[]")
    root = parsed((directory / "report.html").read_text())
    assert root.one("h1").text == "tiny"
    assert "Answers by class" in [one.text for one in root.all("h2")]
    result = json.loads((directory / "status.json").read_text())["result"]
    assert root.one("p", "big").text == f"{result['blind']['accuracy/top1']:.2f}%"
    counts = [int(cell.text) for cell in root.one("table", "confusion").one("tbody").all("td")]
    right = sum(counts[index * 11] for index in range(10))
    assert 100 * right / sum(counts) == pytest.approx(result["blind"]["accuracy/top1"])
    assert "12.50" in root.one("dl", "ladder").text
    assert raykd("train", "tiny.yaml", "controls=[]").exit_code == 0
    told = raykd("report", str(directory))
    assert (told.exit_code, told.stdout) == (0, f"{directory}/report.html\n")


def test_a_teachers_run_has_its_page_and_the_students_leads_there(raykd: Raykd, tiny: WriteRecipe) -> None:
    small = {"schedule.steps": 4, "schedule.report_every": 2}
    directory = trained(raykd, tiny(teacher={"recipe": "supervised_digits_lenet5", "overrides": small}))
    (link,) = parsed((directory / "report.html").read_text()).all("a")
    assert (directory / link.attributes["href"]).resolve().is_file()


def test_a_run_of_an_earlier_release_is_measured_again_where_its_data_is(raykd: Raykd, tiny: WriteRecipe) -> None:
    directory = trained(raykd, tiny())
    before = json.loads((directory / "breakdown.json").read_text())
    (directory / "breakdown.json").unlink()
    page = package.report(directory, out="again.html")
    table = parsed(page.read_text()).one("table", "confusion")
    diagonal = [int(cell.text) for cell in table.one("tbody").all("td")][::11]
    assert diagonal == before["student"]["correct"]
    assert not (directory / "breakdown.json").exists(), "a report changes no run"


def test_without_its_data_the_page_leaves_the_classes_out(raykd: Raykd) -> None:
    run = made_run(Path("runs"), "kd_mnist")
    (run.path / "breakdown.json").unlink()
    told = raykd("report", str(run.path))
    assert told.exit_code == 0, told.stderr
    assert "no figures by class" in told.stderr
    assert "Answers by class" not in [one.text for one in parsed(run.page.read_text()).all("h2")]


def test_several_runs_and_a_store(raykd: Raykd) -> None:
    runs = [made_run(Path("runs"), overrides=(f"seed={seed}",)) for seed in range(2)]
    told = raykd("report", *(str(run.path) for run in runs))
    assert (told.exit_code, told.stdout) == (0, "report.html\n")
    assert raykd("report", "runs", "--out", "new/index.html").stdout == "new/index.html\n"
    assert "2 runs" in parsed(Path("new/index.html").read_text()).one("header").text


def test_a_run_in_an_object_store_is_brought_and_its_page_written_here(raykd: Raykd, s3: Server) -> None:
    run, address = made_run(Path("there").absolute(), "kd_mnist"), f"s3://{s3.new_bucket()}/runs"
    Mirror(Remote(address), run.path.parent).push(run.name)
    told = raykd("report", f"{address}/{run.name}")
    assert (told.exit_code, told.stdout) == (0, "report.html\n"), told.stderr
    assert parsed(Path("report.html").read_text()).one("h1").text == "kd_mnist"
    assert not run.page.exists()


def test_a_whole_object_store_is_refused_and_nothing_of_it_is_brought(
    raykd: Raykd, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(Path("cache").absolute()))
    run, bucket = made_run(Path("there").absolute(), "kd_mnist"), s3.new_bucket()
    Mirror(Remote(f"s3://{bucket}/runs"), run.path.parent).push(run.name)
    for address in (f"s3://{bucket}/runs", f"s3://{bucket}/runs/nobody-s0", f"s3://{bucket}"):
        told = raykd("report", address)
        assert (told.exit_code, told.stdout) == (2, "")
        assert f"{address} is no run, search or table: in an object store name one of these" in told.stderr
    assert not [path for path in Path("cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "Missing argument"),
        (("nowhere",), 2, "nowhere does not exist: give the directory of a run"),
        (("runs", "runs/x"), 2, "runs is not a run directory"),
        (("runs/kd", "--out", "runs"), 2, "is a directory"),
        (("runs/damaged",), 4, "experiment.json is damaged"),
        (("s3://key:secret@bucket/runs/x",), 2, "address"),
    ],
)
def test_slips_are_named(raykd: Raykd, arguments: tuple[str, ...], code: int, said: str) -> None:
    made_run(Path("runs")).path.rename("runs/kd")
    Path("runs/damaged").mkdir()
    Path("runs/damaged/experiment.json").write_text("{")
    told = raykd("report", *arguments)
    assert (told.exit_code, told.stdout) == (code, "")
    assert said in told.stderr
    assert "secret" not in told.stderr


def test_a_disk_that_takes_nothing_fails_a_report_and_no_run(raykd: Raykd, tiny: WriteRecipe) -> None:
    recipe = tiny()
    directory = trained(raykd, recipe)
    page = RunDirectory(directory).page
    page.unlink()
    page.mkdir()
    again = raykd("train", recipe)
    assert again.exit_code == 0
    told = raykd("report", str(directory))
    assert told.exit_code == 4
    assert f"{page} is a folder, and a file belongs there" in told.stderr
