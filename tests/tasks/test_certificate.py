"""What is compared of two stores, and what a certificate says of it."""

from pathlib import Path
from typing import Any

import pytest

from raykd.recipe.experiment import resolve
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.tasks.certificate import Certificate, compare_weights
from tests.runners import runs

SPEC = DataSpec("made", 3, 1, 8, (0.5,), (0.25,), ("a", "b", "c"))


def test_weights_of_another_number_of_workers_and_of_what_builds_on_them_are_not_compared(tmp_path: Path) -> None:
    alone = resolve(runs.recipe(runs.save_teacher(tmp_path / "weights.safetensors")))
    pupil = resolve(runs.recipe(Path("x"), teacher={"recipe": "supervised_digits_lenet5"}))
    (source,) = pupil.sources
    for store in ("a", "b"):
        for experiment in (alone, source, pupil):
            run = RunDirectory(tmp_path / store / experiment.run_id)
            run.path.mkdir(parents=True)
            run.write_opening(experiment, SPEC, {"workers": 2}, step=0, steps=1)
            run.student.write_text(store)
    files = {run.run_id: f"{run.run_id}/student.safetensors" for run in (alone, source, pupil)}
    found = compare_weights(tmp_path / "a", tmp_path / "b", {source.run_id})
    assert found["different"] == [files[alone.run_id]]
    assert found["not_comparable"] == sorted([files[source.run_id], files[pupil.run_id]])
    assert compare_weights(tmp_path / "a", tmp_path / "b", {pupil.run_id})["not_comparable"] == [files[pupil.run_id]]
    assert compare_weights(tmp_path / "a", tmp_path / "b")["different"] == sorted(files.values())


@pytest.mark.parametrize(
    ("weights", "wrong", "verdict"),
    [
        ({"equal": 1}, [], "equal whatever happened"),
        ({"equal": 0}, [], "NOT as undisturbed"),
        ({"not_comparable": ["a"]}, [], "ended whatever happened; equal where it can be compared"),
        ({"not_comparable": ["a"], "different": ["b"]}, [], "NOT as undisturbed"),
        ({"not_comparable": ["a"]}, ["a traceback"], "NOT as undisturbed"),
    ],
)
def test_a_verdict_does_not_say_more_than_was_seen(weights: dict[str, Any], wrong: list[str], verdict: str) -> None:
    none: dict[str, Any] = {"equal": 0, "different": [], "in_one_store": [], "not_comparable": []}
    made = Certificate(["train"], 0, [], {}, 1, {}, {**none, **weights}, wrong)
    assert (made.verdict, made.ok) == (verdict, not verdict.startswith("NOT"))
    assert made.to_dict()["verdict"] == verdict
