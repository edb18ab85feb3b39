"""What a run opens and shows: images of another domain, be it one, and what a held-out part leaves."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from raykd.config.runtime import Runtime
from raykd.data.datasets import Images, load_images
from raykd.data.streams import TrainStream
from raykd.distributed.world import World
from raykd.engine.build import Built, build
from raykd.engine.evaluator import Evaluator
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace
from tests.engine.other_images import made, workspace


def test_only_the_other_images_are_opened(tmp_path: Path) -> None:
    result = run(resolve(made(tmp_path)), RunContext(World.alone(), workspace(tmp_path), Runtime(), LocalReporter))
    assert result.data_opened == {
        "train": [], "synthetic": [], "ood": ["ours/train"], "calibration": [], "test": ["digits/test"], "teacher": [],
    }  # fmt: skip
    assert result.selected == "last"


def test_a_student_is_shown_them_as_the_teacher_wants_images(tmp_path: Path) -> None:
    built = build(resolve(made(tmp_path)), World.alone(), Runtime(), workspace(tmp_path))
    batch, spec = built.streams["ood"].batch(0), built.spec
    assert (spec.name, spec.num_classes) == ("digits", 10)
    shown = spec.normalise(load_images("ours", "train", spec, tmp_path, torch.arange(5)).pixels / 255)
    assert batch.images.shape == (32, 1, 32, 32)
    nearest = (batch.images[:, None] - shown).abs().amax((2, 3, 4)).min(1)
    assert nearest.values.max() < 1e-6
    assert set(nearest.indices.tolist()) == set(range(5)), "all of them, and no more"
    assert built.teacher is not None and batch.teacher_logits is not None
    with torch.no_grad():
        assert torch.equal(batch.teacher_logits, built.teacher(batch.images)[0])


def test_of_one_image_many_are_made(tmp_path: Path) -> None:
    data = "{name: digits, ood: ours, ood_images: 1, augment: [strong]}"
    recipe = made(tmp_path, "schedule.global_batch=512", data=data)
    built = build(resolve(recipe), World.alone(), Runtime(), workspace(tmp_path))
    stream = built.streams["ood"]
    with patch.object(torch, "randperm", wraps=torch.randperm) as drawn:
        batches = [stream.batch(step) for step in range(4)]
    assert drawn.call_count <= 2 * len(batches), "no order for every single image"
    for batch in batches:
        assert batch.images.shape == (512, 1, 32, 32)
        assert batch.teacher_logits is None
        assert len(torch.unique(batch.images.flatten(1), dim=0)) == 512
    assert not torch.equal(batches[0].images, batches[1].images)
    workers = [World(rank, 2, torch.device("cpu")) for rank in range(2)]
    shares = [TrainStream(stream.images, built.spec, one, 512, 0, ("strong",)).batch(1) for one in workers]
    torch.testing.assert_close(torch.cat([share.images for share in shares]), batches[1].images)


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = made(tmp_path, "data.ood=theirs")
    with pytest.raises(UsageError, match="unknown data set 'theirs'"):
        build(resolve(recipe), World.alone(), Runtime(), workspace(tmp_path))


def test_what_no_recipe_of_before_could_say_changes_no_run_id() -> None:
    ids = {name: resolve(load_recipe(name)).run_id for name in ("noise_digits", "supervised_digits_lenet5")}
    assert ids == {
        "noise_digits": "noise_digits-3b10622c-s0",
        "supervised_digits_lenet5": "supervised_digits_lenet5-0eab3dcb-s0",
    }
    whole, other, one = (
        resolve(load_recipe("blind_kd_mnist", pairs)).content_hash
        for pairs in ([], ["data.ood=fashion-mnist"], ["data.ood_images=1"])
    )
    assert len({whole, other, one}) == 3


SMALL = ["schedule={steps: 4, report_every: 2, global_batch: 30}"]


def built(where: Workspace, *pairs: str, recipe: str = "supervised_digits_lenet5") -> Built:
    return build(resolve(load_recipe(recipe, [*SMALL, *pairs])), World.alone(), Runtime(), where)


def rows(pixels: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in pixels}


def test_what_is_held_out_is_not_learnt_from(tmp_path: Path) -> None:
    where = Workspace(None, tmp_path)
    whole, rest = built(where), built(where, "data.holdout=0.1")
    apart = rest.evaluator.extra_evaluators["holdout"]
    assert isinstance(apart, Evaluator)
    before, shown, held_out = whole.streams["train"].images, rest.streams["train"].images, apart.images
    assert isinstance(before, Images) and isinstance(shown, Images) and isinstance(held_out, Images)
    everything = rows(before.pixels)
    assert len(held_out.labels) == round(0.1 * len(before.labels))
    assert rows(shown.pixels) | rows(held_out.pixels) == everything
    assert not rows(shown.pixels) & rows(held_out.pixels)
    again = built(where, "data.holdout=0.1", "seed=5")
    theirs = again.evaluator.extra_evaluators["holdout"]
    assert isinstance(theirs, Evaluator) and isinstance(theirs.images, Images)
    assert torch.equal(theirs.images.pixels, held_out.pixels)


def test_its_figures_stand_beside_those_of_the_test_split(tmp_path: Path) -> None:
    recipe = load_recipe("supervised_digits_lenet5", [*SMALL, "data.holdout=0.2"])
    place = RunContext(World.alone(), Workspace(None, tmp_path), Runtime(), LocalReporter)
    result = run(resolve(recipe), place)
    assert result.last is not None
    assert {"accuracy/top1", "holdout/accuracy/top1"} <= result.last.to_dict().keys()
    assert result.data_opened["train"] == ["digits/train"]
    plain = load_recipe("supervised_digits_lenet5", SMALL)
    assert resolve(plain).run_id != resolve(recipe).run_id
    assert not any(key.startswith("holdout") for key in run(resolve(plain), place).student.to_dict())


def test_other_images_measure_agreement_alone(tmp_path: Path) -> None:
    recipe = made(tmp_path).model_copy(update={"data": made(tmp_path).data.model_copy(update={"holdout": 0.4})})
    figures = build(resolve(recipe), World.alone(), Runtime(), workspace(tmp_path))
    found = figures.evaluator.score(figures.method.student)
    assert "holdout/agreement" in found
    assert "holdout/accuracy/top1" not in found


def test_a_method_without_images_has_none_to_hold_out() -> None:
    with pytest.raises(UsageError, match="'dafl' learns from no images of which 'data.holdout' could be a part"):
        load_recipe("dafl_digits", ["data.holdout=0.1"])


def test_padding_frames_what_is_shown_of_every_set(tmp_path: Path) -> None:
    built = build(resolve(made(tmp_path, "data.pad=2")), World.alone(), Runtime(), workspace(tmp_path))
    black = -built.spec.mean[0] / built.spec.std[0]
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[2:30, 2:30] = False
    images = built.streams["ood"].batch(0).images
    torch.testing.assert_close(images[..., frame], torch.full_like(images[..., frame], black))
    test = built.evaluator.images
    assert isinstance(test, Images)
    assert not test.pixels[..., frame].any()
    plain = load_images("digits", "test", replace(built.spec, size=28, pad=0), None)
    assert torch.equal(test.pixels[..., 2:30, 2:30], plain.pixels)
