"""The page of a run says what the run has written, and nothing that it has not."""

import json
import random
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from raykd.files import write_json
from raykd.recipe.recipe import dump_recipe, load_recipe
from raykd.reporting.pages.comparison_page import comparison_page
from raykd.reporting.pages.facts import read_run, recipe_differences, train_command, train_notes
from raykd.reporting.pages.run_page import run_page
from raykd.store.rows import format_row
from raykd.store.run_directory import RunDirectory
from tests.reporting.pages.made import HOSTILE, Element, breakdown, made_run, parsed

SHORT = ("schedule.steps=20", "schedule.report_every=4", "controls=[]")


def page_of(run: RunDirectory) -> Element:
    return parsed(run_page(read_run(run), run.path, run.name))


def titles(root: Element) -> list[str]:
    return [one.text for one in root.all("h2")]


def captions(root: Element) -> list[str]:
    return [one.text for one in root.all("figcaption")]


def test_a_finished_run_is_told_whole(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT, sheets=3, warnings=["collapse: of one class"])
    page = run_page(read_run(run), run.path, f"runs/{run.name}")
    assert len(page) < 500_000
    root = parsed(page)
    assert (root.one("h1").text, root.one("p", "big").text) == ("dafl_digits", "91.25%")
    assert "top-1 on the test split, blind student" in root.one("p", "big-name").text
    rungs = [one.text for one in root.one("dl", "ladder").all("dt")]
    assert rungs == ["teacher", "student (blind)", ""]
    for title in ("What it took", "Curves", "Generated images", "Answers by class", "Data opened", "Recipe"):
        assert title in titles(root)
    assert root.one("section", "warnings").one("li").text == "collapse: of one class"
    assert any(caption.startswith("Gap of BatchNorm moments") for caption in captions(root))
    assert any(caption.startswith("onehot") for caption in captions(root))
    images = root.one("div", "strip").all("img")
    assert [one.attributes["alt"] for one in images] == [f"generated images at step {step}" for step in (4, 8, 12)]
    facts = {one.all("dt")[0].text: one.all("dd")[0].text for one in root.all("div") if one.all("dt")}
    assert facts["training"].startswith("1:01")
    assert facts["compute"].startswith("3.00 M")
    took = next(one for one in root.all("section") if "What it took" in [h2.text for h2 in one.all("h2")])
    assert [one.text for one in took.one("div", "bars").all("span", "value")] == [
        "0:09 (10 %)", "1:00 (67 %)", "0:21 (23 %)",
    ]  # fmt: skip
    confusion = root.one("table", "confusion").one("tbody").all("td")
    assert [cell.text for cell in confusion] == ["8", "2", "0", "0", "8", "2", "2", "0", "8"]
    assert (
        root.one("pre", "command").text
        == "raykd train dafl_digits schedule.steps=20 schedule.report_every=4 'controls=[]'"
    )
    assert "schedule.steps" in [cell.text for cell in root.all("td")]


def test_an_unfinished_run_says_how_far_it_is_and_why(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT, finished=False)
    run.write_status(state="failed", step=20, reason="loss is not finite")
    root = page_of(run)
    assert root.one("span", "chip").text == "failed"
    assert root.one("section", "warnings").one("li").text == "failed: loss is not finite"
    assert "last report student" in root.one("p", "big-name").text
    assert "Answers by class" not in titles(root)


def test_a_run_before_its_first_report_has_a_page(tmp_path: Path) -> None:
    root = page_of(made_run(tmp_path, finished=False, reports=0))
    assert "Curves" not in titles(root)
    assert "No training image was opened." not in root.text, "nothing is known of a run that goes on"


def note_opened(run: RunDirectory, opened: object) -> None:
    """Let a run have noted what it opened, or with None nothing of it."""
    noted = {name: one for name, one in run.environment().items() if name != "data_opened"}
    write_json(run.path / "environment.json", noted if opened is None else {**noted, "data_opened": opened})
    run.write_status(result={name: one for name, one in run.status()["result"].items() if name != "data_opened"})


@pytest.mark.parametrize(
    ("opened", "note", "row"),
    [
        ({"train": [], "calibration": [], "test": ["digits/test"]}, "No training image was opened.", "none"),
        (
            {"train": [], "calibration": ["digits/train"]},
            "Not trained on images of the data; opened for statistics by class: digits/train.",
            "none",
        ),
        ({"train": ["digits/train"], "calibration": []}, "", "digits/train"),
        ({"test": ["digits/test"]}, "What it has opened was not noted.", "not noted"),
        ({"train": None}, "What it has opened was not noted.", "not noted"),
        ({}, "What it has opened was not noted.", "not noted"),
        (None, "What it has opened was not noted.", "not noted"),
    ],
)
def test_no_more_is_said_of_what_it_opened_than_was_noted(tmp_path: Path, opened: object, note: str, row: str) -> None:
    run = made_run(tmp_path, overrides=SHORT)
    note_opened(run, opened)
    root = page_of(run)
    assert [one.text for one in root.one("div", "hero").all("p", "note")] == ([note] if note else [])
    (table,) = [one for one in root.all("table") if one.all("th")[0].text == "opened"]
    assert [cell.text for cell in table.one("tbody").all("td")][:2] == ["to train on", row]


def test_a_run_whose_ledger_is_lost_has_its_page_and_says_so(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT)
    (run.path / "environment.json").write_text("{")
    run.write_status(result={name: one for name, one in run.status()["result"].items() if name != "data_opened"})
    root = page_of(run)
    assert root.one("p", "big").text == "91.25%"
    (said,) = root.one("section", "warnings").all("li")
    assert said.text.startswith("environment.json is damaged: what the run has opened is lost")
    assert "No training image was opened." not in root.text
    assert said.text in parsed(comparison_page([read_run(run)], tmp_path)).one("section", "warnings").text


def test_figures_on_too_few_classes_are_not_shown(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    assert "60.00" in page_of(run).text
    result = run.status()["result"]
    run.write_status(result={**result, "not_judged": "not to be judged: 2 of 10 classes"})
    root = page_of(run)
    assert "60.00" not in root.text
    assert "not to be judged: 2 of 10 classes" in root.one("section", "warnings").text


def test_seeds_and_controls_beside_it_are_told_with_links_to_pages_that_are_there(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT[:2], top1=90.0)
    other = made_run(tmp_path, overrides=(*SHORT[:2], "seed=1"), top1=94.0)
    control = read_run(run).experiment.controls[0]
    made_run(tmp_path, "noise_digits", top1=30.0)
    assert (tmp_path / control.run_id).is_dir()
    (tmp_path / control.run_id / "report.html").write_text("a page")
    root = page_of(run)
    ladder = root.one("dl", "ladder")
    assert "2 seeds" in [one.text for one in ladder.all("dt")]
    assert "92.00 ± 2.83" in [one.text for one in ladder.all("dd")]
    assert [one.attributes["href"] for one in root.all("a")] == [f"../{control.run_id}/report.html"]
    assert "seed 0: 90.00, seed 1: 94.00" in root.text
    assert other.name not in root.text


def test_an_unfinished_run_is_not_among_the_seeds_that_it_stands_beside(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT, top1=10.0, finished=False)
    made_run(tmp_path, overrides=(*SHORT, "seed=1"), top1=90.0)
    assert "seeds" not in page_of(run).one("dl", "ladder").text, "one alone has no spread"
    made_run(tmp_path, overrides=(*SHORT, "seed=2"), top1=94.0)
    facts = read_run(run)
    assert [one.recipe.seed for one in facts.seeds] == [1, 2]
    assert facts.seeds is facts.seeds, "read once"
    ladder = page_of(run).one("dl", "ladder")
    assert "2 seeds" in [one.text for one in ladder.all("dt")]
    assert "92.00 ± 2.83" in [one.text for one in ladder.all("dd")]


def test_several_seeds_are_headed_by_their_mean_beside_that_of_the_control(tmp_path: Path) -> None:
    pairs = ("schedule.steps=20", "controls=[noise_digits]")
    for seed, top1 in enumerate((90.0, 92.0, 94.0)):
        run = made_run(tmp_path, overrides=(*pairs, f"seed={seed}"), top1=top1)
        (control,) = read_run(run).experiment.controls
        if seed == 0:
            assert page_of(run).one("p", "big").text == "90.00%", "one alone has no spread"
        made_run(tmp_path, "noise_digits", (f"seed={seed}",), top1=10.0 + seed)
        assert (tmp_path / control.run_id).is_dir()
    root = page_of(run)
    assert root.one("p", "big").text == "92.00 ± 2.00%"
    assert "mean ± sd of 3 seeds" in root.one("p", "big-name").text
    ladder = root.one("dl", "ladder")
    names, figures = ladder.all("dt"), ladder.all("dd", "value")  # the last name is the scale's own
    values = {name.text: figure.text for name, figure in zip(names[:-1], figures, strict=True)}
    assert values["control: noise_digits, 3 seeds"] == "11.00 ± 1.00"
    assert values["3 seeds"] == "92.00 ± 2.00"


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 10**400], ids=["nan", "inf", "large"])
def test_figures_that_are_no_finite_numbers_are_left_out(tmp_path: Path, odd: float) -> None:
    runs = [made_run(tmp_path, overrides=(*SHORT, f"seed={seed}"), top1=90.0 + seed) for seed in range(2)]
    run, result = runs[0], runs[0].status()["result"]
    keys = ("accuracy/top1", "agreement", "kl", "ece", "blind/agreement", "step")
    broken = {name: {**result[name], **dict.fromkeys(keys, odd)} for name in ("last", "blind", "best")}
    run.write_status(
        result={**result, **broken, "teacher/accuracy/top1": odd, "images/classes": odd, "images": odd, "seconds": odd}
    )
    run.append_row({"step": 24, "agreement": odd, "kl": 0.25, "accuracy/top1": odd})
    facts = read_run(run)
    assert facts.rows[-1] == {"step": 24.0, "kl": 0.25}
    assert (facts.student.top1, facts.headline) == (None, None)
    root = page_of(run)
    assert root.all("dl", "ladder") == []
    assert not {"nan", "inf"} & {cell.text for cell in root.all("td")}
    ladder = page_of(runs[1]).one("dl", "ladder")
    assert [one.text for one in ladder.all("dt")] == ["teacher", "student (blind)", ""]
    summary = parsed(comparison_page([facts, read_run(runs[1])], tmp_path)).all("table")[0]
    assert [cell.text for cell in summary.one("tbody").all("td")][:3] == ["dafl_digits", "2", "91.00"]


def test_phases_that_took_no_number_of_seconds_have_no_bar(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT)
    odd = {"rest": -1.0, "elsewhere": 1.0, "data": 3}
    run.write_status(result={**run.status()["result"], "phases": odd})
    assert read_run(run).phases == {"data": 3.0, "elsewhere": 1.0}
    assert "0:03 (75 %)" in [one.text for one in page_of(run).all("span", "value")]
    run.write_status(result={**run.status()["result"], "phases": {}})
    assert "Where the time went" not in [one.text for one in page_of(run).all("h3")], "of a run of earlier releases"


def test_a_moment_that_is_none_is_unknown(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT)
    (run.path / "status.json").write_text(json.dumps({**run.status(), "updated": 1e300}))
    assert "at a time unknown" in [one.text for one in page_of(run).all("span")]


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    run = made_run(tmp_path, names=(HOSTILE, "b", "c"), warnings=[HOSTILE])
    status = json.loads((run.path / "environment.json").read_text())
    status = {**status, "cpu": HOSTILE, "packages": {HOSTILE: HOSTILE}, "data_opened": {"train": [HOSTILE]}}
    del status["sha256"]
    (run.path / "environment.json").write_text(json.dumps(status))
    with (run.path / "metrics.jsonl").open("w") as file:
        file.write(json.dumps({"step": 4, f"loss/{HOSTILE}": 0.5, HOSTILE: 1.0, "accuracy/top1": "x"}) + "\n")
    root = page_of(run)
    shown = HOSTILE.replace("\x1b", "\\x1b")
    assert root.text.count(shown) >= 6
    assert [one.attributes["title"] for one in root.one("table", "confusion").all("th")[1:2]] == [shown]
    assert all(one.attributes["src"].startswith("data:image/png;base64,") for one in root.all("img"))


def test_many_classes_are_told_by_their_worst_and_their_confusions(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    run.write_breakdowns({"student": breakdown(50)})
    root = page_of(run)
    assert root.all("table", "confusion") == []
    assert "Most frequent confusions" in [one.text for one in root.all("h3")]
    assert len(root.one("div", "classes").one("div", "bars").children) < 200


def test_only_classes_that_were_chosen_are_called_the_lowest(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    many = breakdown(50)
    for found, said in ((many, True), (replace(many, confusions=()), True), (breakdown(20), False)):
        run.write_breakdowns({"student": found})
        (title,) = [one.text for one in page_of(run).all("h3") if one.text.startswith("Accuracy, %")]
        assert title.endswith(": the lowest") == said
    run.write_breakdowns({"student": replace(many, images=(10,) * 5 + (0,) * 45)})
    (title,) = [one.text for one in page_of(run).all("h3") if one.text.startswith("Accuracy, %")]
    assert not title.endswith(": the lowest"), "all classes that have images are there"


def test_batches_are_told_where_each_step_is_one(tmp_path: Path) -> None:
    run = made_run(tmp_path, overrides=SHORT)
    batch = read_run(run).recipe.schedule.global_batch
    for images, said in ((20 * batch, f"batches of {batch}"), (3_584_000, "")):
        run.write_status(result={**run.status()["result"], "images": images})
        (steps,) = [one for one in page_of(run).all("div") if one.all("dt") and one.all("dt")[0].text == "steps"]
        assert [one.text for one in steps.all("small")] == ([said] if said else [])


def test_pictures_that_are_none_or_too_large_are_left_out(tmp_path: Path) -> None:
    run = made_run(tmp_path, sheets=2)
    (run.path / "samples" / "step_0000006.png").write_bytes(b"<svg onload=alert(1)>")
    (run.path / "samples" / "step_x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = [one.attributes["data-name"] for one in page_of(run).one("div", "strip").all("figure")]
    assert names == ["step 4", "step 8"]


def test_of_many_pictures_a_page_takes_those_that_it_can_hold(tmp_path: Path) -> None:
    run = made_run(tmp_path, sheets=40)
    names = [one.attributes["data-name"] for one in page_of(run).one("div", "strip").all("figure")]
    assert len(names) == 24
    assert (names[0], names[-1]) == ("step 4", "step 160")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        SHORT,
        ("method.entropy_weight=3", "student.model=hinton800"),
        ("data={name: digits, size: 28}",),
        ("seed=4",),
    ],
)
def test_the_command_leads_to_the_same_recipe(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    facts = read_run(made_run(tmp_path, overrides=overrides))
    _, verb, source, *pairs = shlex.split(train_command(facts, "runs/x"))
    assert verb == "train"
    assert load_recipe(source, pairs) == facts.recipe


def test_what_no_recipe_has_is_told_beside_the_command(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    write_json(run.path / "environment.json", {**run.environment(), "precision": "bf16", "workers": 4})
    root = page_of(run)
    assert shlex.split(root.one("pre", "command").text) == ["raykd", "train", "dafl_digits", "--precision", "bf16"]
    assert train_notes(read_run(run)) == [
        "Name another store with --out: in its own one the finished run is read, and not trained again.",
        "It was trained by 4 workers: name their cluster with --cluster.",
    ]
    assert all(note in root.text for note in train_notes(read_run(run)))


def test_an_unfinished_run_goes_on_in_its_store(tmp_path: Path) -> None:
    facts = read_run(made_run(tmp_path, finished=False))
    (note,) = train_notes(facts)
    assert note.startswith("In its own store this goes on with the run")
    assert train_command(facts, "x") == "raykd train dafl_digits"


def test_a_recipe_of_the_users_is_trained_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        dump_recipe(load_recipe("dafl_digits")).replace("name: dafl_digits", "name: mine")
    )
    facts = read_run(made_run(tmp_path, str(tmp_path / "mine.yaml")))
    assert train_command(facts, "my runs/x") == "raykd train 'my runs/x/recipe.yaml'"


def test_recipes_differ_in_fields_of_either() -> None:
    one, other = load_recipe("kd_digits"), load_recipe("kd_digits", ["method.temperature=2.5", "data.holdout=0.1"])
    assert recipe_differences(one, one) == {}
    found = recipe_differences(one, other)
    assert found.keys() == {"method.temperature", "data.holdout"}
    assert found["method.temperature"][1] == "2.5"


def test_a_long_run_of_many_figures_and_classes_stays_small(tmp_path: Path) -> None:
    run = made_run(tmp_path, names=())
    run.write_breakdowns({"student": breakdown(1000), "teacher": breakdown(1000)})
    generator = random.Random(0)
    keys = [
        "accuracy/top1",
        "agreement",
        "blind/agreement",
        "kl",
        *(f"{kind}/{n}" for kind in "abc" for n in range(20)),
    ]
    keys += [f"loss/{n}" for n in range(20)]
    rows = [{"step": step, **{key: generator.random() for key in keys}} for step in range(1000, 2_000_000, 1000)]
    (run.path / "metrics.jsonl").write_text("".join(map(format_row, rows)))
    page = run_page(read_run(run), run.path, run.name)
    assert len(page.encode()) < 2_000_000
    parsed(page)
