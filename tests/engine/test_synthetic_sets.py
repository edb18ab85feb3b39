"""Frozen sets: made once of whatever generators a recipe names, learnt from, and judged on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.artifacts.pool_files import open_pool
from raykd.cluster.config import Cluster
from raykd.data.datasets import count_images, data_spec, load_images, train_spec
from raykd.distributed.world import World
from raykd.engine.synthesis import make_image_sets, synthesize
from raykd.errors import RunFailed, SetupError, UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.results import RunResult
from raykd.runners.train import train
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

SMALL = {"schedule.steps": 4, "schedule.report_every": 2, "schedule.global_batch": 16}
TEACHER = {"teacher.overrides": SMALL}
GENERATORS = {"recipe": "dafl_digits", "overrides": {**SMALL, **TEACHER, "method.generator_width": 8}}


POOL = {
    "recipe": "fast_digits",
    "overrides": {
        **SMALL,
        **TEACHER,
        "method.latent_dim": 8,
        "method.generator_maps": [8, 8],
        "method.inner_steps": 2,
        "method.warmup_calls": 1,
        "method.student_steps": 2,
        "method.max_images": 32,
    },
}
"""A run that makes 64 images, of which it holds 32."""


def recipe(name: str, **fields: Any) -> Recipe:
    pairs = {**SMALL, **TEACHER, "controls": [], **fields}
    return load_recipe(name, [f"{key}={json.dumps(value)}" for key, value in pairs.items()])


def trained(made: Recipe, store: Path) -> RunResult:
    return train(
        resolve(made), Cluster(name="here", workers=0, threads=1), store=store, data_root=None, should_stop=bool
    )


def set_folder(made: Recipe, store: Path) -> Path:
    images = resolve(made).training_set
    assert images is not None
    return store / images.name


def student(images: int = 300) -> Recipe:
    return recipe("kd_digits", bank={**GENERATORS, "images": images})


def test_a_student_learns_from_a_set_made_once_of_another_runs_generator(tmp_path: Path) -> None:
    made = student()
    result = trained(made, tmp_path)
    folder = set_folder(made, tmp_path)
    assert result.data_opened["train"] == []
    assert result.data_opened["synthetic"] == [f"{folder}/train"]
    assert count_images(str(folder), "train", None) == 300
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    other = recipe("kd_digits", bank={**GENERATORS, "images": 300}, **{"method.temperature": 2.0})
    trained(other, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert make_image_sets(resolve(other), World.alone(), Workspace(None, tmp_path)) == 0
    assert synthesize(
        RunDirectory(tmp_path / resolve(other).run_id), 20, tmp_path / "more", None, World.alone()
    ).bank.startswith("dafl_digits-")


def test_a_student_learns_from_all_images_of_another_runs_pool(tmp_path: Path) -> None:
    same_teacher = {"teacher.recipe": "supervised_digits_lenet5_bn"}
    referee = {**POOL, "seed": 1, "images": 5}
    made = recipe("kd_digits", bank={**POOL, "images": 64}, referee=referee, **same_teacher)
    result = trained(made, tmp_path)
    folder = set_folder(made, tmp_path)
    assert result.data_opened["train"] == []
    assert f"{folder}/train" in result.data_opened["synthetic"]
    assert "referee/agreement" in result.student.more
    experiment = resolve(made)
    assert experiment.bank is not None
    run = RunDirectory(tmp_path / experiment.bank.run_id)
    parts = list(open_pool(run).parts())
    pixels, labels, numbers = (torch.cat(values) for values in zip(*(part[:3] for part in parts), strict=True))
    assert numbers.tolist() == list(range(64))
    spec = train_spec(str(folder), data_spec("digits"), None)
    stored = load_images(str(folder), "train", spec, None)
    shown, expected = spec.normalise(stored.pixels / 255), data_spec("digits").normalise(pixels / 255)
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-5, msg="pixels as they are, in their order")
    assert torch.equal(stored.labels, labels)
    by_id = recipe("kd_digits", bank={"run": run.name, "images": 20}, **same_teacher)
    assert trained(by_id, tmp_path).data_opened["train"] == []
    with pytest.raises(UsageError, match=r"makes 64 images in its 4 steps, and 65 are asked for"):
        trained(recipe("kd_digits", bank={"run": run.name, "images": 65}, **same_teacher), tmp_path)
    with pytest.raises(UsageError, match=r"64 images .* 65 are asked for"):
        synthesize(run, 65, tmp_path / "more", None, World.alone())


def test_more_images_than_a_pool_will_have_are_refused_before_it_is_trained() -> None:
    with pytest.raises(UsageError, match=r"a run of fast_digits makes 64 images in its 4 steps, and 65 are asked for"):
        resolve(recipe("kd_digits", bank={**POOL, "images": 65}))
    with pytest.raises(UsageError, match="name one that trains generators"):
        resolve(recipe("lsgdfd_digits", bank=POOL))


def test_a_referee_judges_and_teaches_nobody(tmp_path: Path) -> None:
    # So few images show no lack of classes, which generators of four steps would be refused for.
    judged = recipe("kd_digits", referee=[{**GENERATORS, "seed": seed, "images": 5} for seed in (0, 1)])
    plain = recipe("kd_digits")
    result, without = trained(judged, tmp_path), trained(plain, tmp_path)
    figures = result.student
    assert 0 <= figures.more["referee/agreement"] <= 100
    assert "referee/accuracy/top1" not in figures.more
    assert resolve(judged).run_id != resolve(plain).run_id
    assert replace(figures, more={}) == without.student
    row = json.loads((tmp_path / resolve(judged).run_id / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["referee/agreement"] == figures.more["referee/agreement"]


def test_a_referee_that_shows_few_classes_is_refused(tmp_path: Path) -> None:
    judged = recipe("kd_digits", referee={**GENERATORS, "images": 300})
    with pytest.raises(RunFailed, match="the referee's images are not to be judged by .*show .* % of its classes"):
        trained(judged, tmp_path)
    assert RunDirectory(tmp_path / resolve(judged).run_id).status()["state"] == "failed"


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("dafl_digits", {"bank": {"recipe": "lsgdfd_digits_bank", "images": 10}}, "trains on no set of images"),
        ("kd_digits", {"bank": {"recipe": "lsgdfd_digits_bank"}}, "takes no 'bank' section"),
        ("kd_digits", {"referee": {"recipe": "dafl_digits"}}, "give 'referee.images'"),
        ("kd_digits", {"referee": [{"recipe": "dafl_digits"}]}, "give 'referee.images'"),
        ("kd_digits", {"referee": [{"recipe": "dafl_digits", "image": 9}]}, "'referee.0.image' is not a field here"),
        ("kd_digits", {"referee": {"recipe": "dafl_digits", "image": 9}}, "'referee.image' .*did you mean .*images"),
        ("kd_digits", {"referee": []}, "'referee' is an empty list"),
        ("supervised_digits_lenet5", {"referee": {"recipe": "dafl_digits", "images": 9}}, "no student and teacher"),
        ("kd_digits", {"bank": {**GENERATORS, "images": 9}, "data.train": "other"}, "given twice"),
        ("kd_digits", {"bank": {"run": "x", "overrides": {"seed": 1}, "images": 9}}, "'overrides' change the 'recipe'"),
    ],
)
def test_what_does_not_fit_is_named(name: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe(name, [f"{key}={json.dumps(value)}" for key, value in fields.items()])


def test_the_same_generators_are_the_same_run() -> None:
    bank = student().bank
    assert bank is not None
    nearly = recipe("kd_digits", bank={**GENERATORS, "images": 301})
    assert resolve(student()).run_id == resolve(recipe("kd_digits", bank={**GENERATORS, "images": 300})).run_id
    assert resolve(student()).run_id != resolve(nearly).run_id
    deep = load_recipe("lsgdfd_digits", ["bank.overrides.method.tv_weight=0.2", "bank.overrides.schedule.steps=7"])
    assert deep.bank is not None
    assert deep.bank.overrides == {"method.tv_weight": 0.2, "schedule.steps": 7}
    assert resolve(deep).run_id != resolve(load_recipe("lsgdfd_digits")).run_id


def test_a_disk_that_takes_no_set_is_named() -> None:
    with pytest.raises(SetupError, match="could not write the set synthetic/.* into /proc/nowhere .*the same command"):
        make_image_sets(resolve(student()), World.alone(), Workspace(None, Path("/proc/nowhere")))
