"""A session from a teacher to a student: its choices, its resumes, its failures."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import raykd
from raykd.cluster.config import Cluster
from raykd.engine.judge import judge
from raykd.errors import CorruptError, InProgress, RunFailed
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.results import DistillResult, Verdict
from raykd.runners.distill.record import SessionFolder
from raykd.runners.distill.session import DistillStopped
from raykd.runners.report import write_report
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.object_store import Server
from tests.runners.distilling import FINALIST, FIRST, STEPS, distil, fixed, train_teacher, with_numbers


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_teacher(tmp_path_factory.mktemp("teacher") / "digits net.safetensors")


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> DistillResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_REPORT", "1")
        return distil(teacher, tmp_path_factory.mktemp("undisturbed"), patch)


def facts(result: DistillResult) -> dict[str, Any]:
    """What no clock decides of a result."""
    found = result.to_dict()
    rounds = [{key: value for key, value in one.items() if key != "seconds"} for one in found["rounds"]]
    kept = ("session", "run", "chosen", "figures", "judged_agreement", "beats_control", "doubt", "candidates")
    return {**{key: found.get(key) for key in kept}, "rounds": rounds}


def student_of(result: DistillResult) -> bytes:
    return RunDirectory(Path(result.run_directory)).student.read_bytes()


def test_the_way_is_rounds_then_the_best_to_its_end(undisturbed: DistillResult) -> None:
    candidates = {one.name: one for one in undisturbed.candidates}
    assert {"fast", "dafl", "dfad", "noise"} <= set(candidates)
    assert [one.title.partition(" ")[0] for one in undisturbed.rounds] == ["candidates", "settings", "finalists"]
    assert undisturbed.rounds[0].steps == dict.fromkeys(("fast", "dafl", "dfad", "noise"), FIRST)
    assert set(undisturbed.rounds[2].steps.values()) == {FINALIST}
    assert len({name.partition("_")[0] for name in undisturbed.rounds[2].steps}) == 2, "ways, not settings of one"
    chosen = candidates[undisturbed.chosen]
    assert (chosen.state, chosen.step, chosen.control) == ("chosen", STEPS, False)
    verdict = undisturbed.rounds[2].verdict
    assert verdict is not None
    assert undisturbed.chosen == next(name for name in verdict.order if name in undisturbed.rounds[2].steps)
    for name, row in verdict.scores.items():
        assert name not in row or len(row) == 1, "its own images are left out"
    assert undisturbed.judged_agreement is not None
    assert undisturbed.figures.top1 is not None


def test_the_recipe_makes_the_same_run_again(undisturbed: DistillResult, tmp_path: Path) -> None:
    recipe = load_recipe(undisturbed.recipe)
    assert resolve(recipe).run_id == undisturbed.run
    again = raykd.train(undisturbed.recipe, out=tmp_path, progress=False)
    assert again.run == undisturbed.run
    assert RunDirectory(tmp_path / again.run).student.read_bytes() == student_of(undisturbed)


def test_what_it_leaves_behind(undisturbed: DistillResult, tmp_path: Path) -> None:
    assert undisturbed.export is not None
    assert (Path(undisturbed.export) / "predict.py").is_file()
    assert undisturbed.report is not None
    text = Path(undisturbed.report).read_text()
    for name in ("fast", "dafl", "noise (control)", undisturbed.run):
        assert name in text
    again = write_report([undisturbed.directory], tmp_path / "again.html", None)
    assert undisturbed.run in again.read_text()


def test_no_test_image_is_opened_before_the_winner_s_end(undisturbed: DistillResult) -> None:
    store = Path(undisturbed.run_directory).parent
    for one in undisturbed.candidates:
        opened = RunDirectory(store / one.run).environment()["data_opened"]
        assert opened.get("test", []) == (["digits/test"] if one.run == undisturbed.run else [])
    rows = RunDirectory(Path(undisturbed.run_directory)).rows()
    assert ["accuracy/top1" in row for row in rows] == [False] * (len(rows) - 1) + [True]


@pytest.mark.parametrize("polls", [4])
def test_a_session_that_is_stopped_again_and_again_ends_alike(
    teacher: Path, undisturbed: DistillResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, polls: int
) -> None:
    """In a slice, between slices and between rounds."""
    stops = 0
    for _ in range(40):
        asked = iter(range(polls))
        try:
            result = distil(teacher, tmp_path, monkeypatch, should_stop=lambda left=asked: next(left, None) is None)  # type: ignore[misc]
            break
        except DistillStopped as stopped:
            stops += 1
            assert "the same command continues" in str(stopped)
    assert stops
    assert facts(result) == facts(undisturbed)
    assert student_of(result) == student_of(undisturbed)


def test_a_stop_names_the_best_so_far(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rounds() -> list[Any]:
        found = list(tmp_path.glob("distillations/*/session.json"))
        return json.loads(found[0].read_text())["rounds"] if found else []

    with pytest.raises(DistillStopped, match="before any student was trained|not judged yet"):
        distil(teacher, tmp_path, monkeypatch, should_stop=lambda: True)
    with pytest.raises(DistillStopped, match="the best so far: ") as stopped:
        distil(teacher, tmp_path, monkeypatch, should_stop=lambda: bool(rounds()))
    best = next(name for name in rounds()[0]["verdict"]["order"] if name != "noise")  # no control is a student to keep
    assert f"the best so far: {best} in {tmp_path}" in str(stopped.value)
    assert stopped.value.exit_code == 130


def test_a_finished_session_is_only_read(
    teacher: Path, undisturbed: DistillResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Any:
        raise AssertionError("planned again")

    store = Path(undisturbed.run_directory).parent
    assert distil(teacher, store, monkeypatch, plan=none) == undisturbed


def failing(*names: str) -> Callable[[str, Recipe], Recipe]:
    def change(name: str, recipe: Recipe) -> Recipe:
        return with_numbers(recipe, student_optim={"lr": 1e30}) if name in names else recipe

    return change


def test_a_candidate_that_fails_ends_nothing(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = distil(teacher, tmp_path, monkeypatch, plan=fixed(0, failing("fast")))
    failed = next(one for one in result.candidates if one.name == "fast")
    assert failed.state == "failed"
    assert failed.reason is not None
    assert "not finite" in failed.reason
    assert result.chosen in ("dafl", "dfad")


def test_all_that_fail_are_told(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fixed(0, failing("fast", "dafl", "dfad", "noise"))
    with pytest.raises(RunFailed, match="all candidates failed: fast: .*; dafl: .*; dfad: "):
        distil(teacher, tmp_path, monkeypatch, plan=plan)


def test_a_winner_that_fails_late_gives_way_to_the_next(
    teacher: Path, undisturbed: DistillResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(name: str, recipe: Recipe) -> Recipe:
        if name != undisturbed.chosen.partition("_")[0]:
            return recipe
        content = recipe.model_dump(mode="json") | {"changes": [{"at": 8, "values": {"student_optim.lr": 1e30}}]}
        return Recipe.model_validate(content)

    def leading(*given: Any) -> Verdict:
        """Rank as the judge does, but for who is to fail: students of so few steps are ranked by rounding."""
        verdict = judge(*given)
        leader = undisturbed.chosen.partition("_")[0]
        return replace(verdict, order=sorted(verdict.order, key=lambda name: name.partition("_")[0] != leader))

    monkeypatch.setattr("raykd.runners.distill.session.judge", leading)
    result = distil(teacher, tmp_path, monkeypatch, plan=fixed(0, late))
    states = {one.name: one.state for one in result.candidates}
    assert states[result.chosen] == "chosen"
    assert result.chosen != undisturbed.chosen
    assert "failed" in states.values()


def test_what_is_near_chance_drops_nobody_and_the_preferred_way_gets_the_time(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = distil(teacher, tmp_path, monkeypatch, chance=20.0)
    assert [one.title for one in result.rounds] == ["candidates", "finalists"]
    assert set(result.rounds[1].steps) == {"fast", "dafl", "dfad"}
    assert result.chosen == "fast", "which stands first"
    assert result.doubt is not None
    assert "all are near chance" in result.doubt


def test_one_method_alone_has_its_control_beside_it(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = distil(teacher, tmp_path, monkeypatch, plan=fixed(0), methods=("dafl",))
    assert {one.name for one in result.candidates} == {"dafl", "noise"}
    assert (result.chosen, result.beats_control is not None) == ("dafl", True)


def test_a_teacher_without_batch_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train_teacher(tmp_path / "plain.safetensors", "lenet5")
    result = distil(plain, tmp_path / "runs", monkeypatch, plan=fixed(0))
    assert {"fast", "dafl", "dfad", "noise"} == {one.name for one in result.candidates}
    recipe = load_recipe(result.recipe)
    assert getattr(recipe.method, "moment_weight", 0) == 0


def test_another_process_at_the_session_is_told(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DistillStopped):
        distil(teacher, tmp_path, monkeypatch, should_stop=lambda: True)
    (name,) = (path.name for path in (tmp_path / "distillations").iterdir())
    with (
        SessionFolder(Workspace(None, tmp_path), name).held(),
        pytest.raises(InProgress, match="is in progress in another process"),
    ):
        distil(teacher, tmp_path, monkeypatch)


@pytest.mark.parametrize("damage", ["torn", "other"])
def test_a_damaged_record_is_told(
    teacher: Path, undisturbed: DistillResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    store = tmp_path / "runs"
    shutil.copytree(Path(undisturbed.run_directory).parent, store)
    file = store / "distillations" / undisturbed.session / "session.json"
    found = json.loads(file.read_text())
    del found["sha256"]
    if damage == "torn":
        found["rounds"] = [{"title": 3}]
    else:
        found["result"] = None
        for member in found["plan"]["members"]:
            for run in member["experiment"]["runs"].values():
                run["recipe"]["student"] = {"factory": "os:getcwd"}
    file.write_text(json.dumps(found))
    with pytest.raises(CorruptError, match="move its folder away to begin the session again"):
        distil(teacher, store, monkeypatch)


def test_a_session_in_an_object_store_goes_on_from_another_machine(
    teacher: Path, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"s3://{s3.new_bucket()}/runs"
    how: dict[str, Any] = {"plan": fixed(0), "methods": ("dafl",)}
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "one"))
    with pytest.raises(DistillStopped, match=store):
        distil(teacher, store, monkeypatch, should_stop=iter([False] + [True] * 999).__next__, **how)
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "other"))
    result = distil(teacher, store, monkeypatch, **how)
    assert (result.chosen, result.run_directory) == ("dafl", f"{store}/{result.run}")
    assert any(name.endswith(f"distillations/{result.session}/session.json") for name in s3.files(store))


@pytest.mark.ray
def test_on_two_workers_of_ray_stopped_and_continued(
    ray_session: Any, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(name="test", workers=2, max_failures=1)

    def trained() -> bool:
        return bool(list(tmp_path.glob("digits_net_dafl-*/checkpoints/step_*")))

    how: dict[str, Any] = {"plan": fixed(0), "methods": ("dafl",), "cluster": cluster}
    with pytest.raises(DistillStopped, match="the same command continues"):
        distil(teacher, tmp_path, monkeypatch, should_stop=trained, **how)
    result = distil(teacher, tmp_path, monkeypatch, **how)
    assert (result.chosen, result.candidates[0].state) == ("dafl", "chosen")
    assert RunDirectory(Path(result.run_directory)).environment()["workers"] == 2
    assert resolve(load_recipe(result.recipe)).run_id == result.run
