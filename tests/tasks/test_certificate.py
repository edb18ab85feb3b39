"""What is compared of two stores, and what a certificate says of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.artifacts.pool_files import finish_pool, write_part
from raykd.data.image_pool import PoolPart
from raykd.recipe.experiment import resolve
from raykd.spec import DataSpec
from raykd.store.checkpoint import Checkpoint, Sums, write_checkpoint
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


def pool_of(store: Path, cuts: list[list[int]], labels: list[int]) -> None:
    """Write the pool of a finished run: of each report the numbers of its images."""
    experiment = resolve(runs.recipe(Path("x")))
    run = RunDirectory(store / experiment.run_id)
    run.path.mkdir(parents=True)
    run.write_opening(experiment, SPEC, {}, step=0, steps=1)
    pixels = torch.arange(len(labels) * 3 * 4, dtype=torch.uint8).view(-1, 3, 2, 2)
    files: Sums = {}
    for step, numbers in enumerate(cuts, 1):
        images = PoolPart(pixels[numbers], torch.tensor(labels)[numbers], torch.tensor(numbers))
        checkpoint = Checkpoint(step, 1, {}, {}, images=images)
        files |= write_part(run, checkpoint, 0)
        last = write_checkpoint(run.checkpoints, checkpoint, pool=files)
    finish_pool(run, last, {"teacher_sha256": None})


def test_pools_are_compared_by_their_images_however_they_are_cut_into_files(tmp_path: Path) -> None:
    pool_of(tmp_path / "a", [[0, 1], [2, 3]], [5, 6, 7, 8])
    pool_of(tmp_path / "cut", [[3], [0, 2], [1]], [5, 6, 7, 8])
    pool_of(tmp_path / "other", [[0, 1], [2, 3]], [5, 6, 8, 7])
    assert compare_weights(tmp_path / "a", tmp_path / "cut")["equal"] == 1
    (name,) = compare_weights(tmp_path / "a", tmp_path / "other")["different"]
    assert name.endswith("/pool")
    assert compare_weights(tmp_path / "a", tmp_path / "none")["in_one_store"] == [name]


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
