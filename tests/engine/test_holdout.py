"""Images kept out of the training: never shown, the same for all seeds, and what students are judged by."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from raykd.config.runtime import Runtime
from raykd.data.datasets import Images
from raykd.distributed.world import World
from raykd.engine.build import Built, build
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.workspace import Workspace
from tests.engine.test_other_images import made, workspace

SMALL = ["schedule={steps: 4, report_every: 2, global_batch: 30}"]


def built(where: Workspace, *pairs: str, recipe: str = "supervised_digits_lenet5") -> Built:
    return build(resolve(load_recipe(recipe, [*SMALL, *pairs])), World.alone(), Runtime(), where)


def rows(pixels: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in pixels}


def test_what_is_held_out_is_not_learnt_from(tmp_path: Path) -> None:
    where = Workspace(None, tmp_path)
    whole, rest = built(where), built(where, "data.holdout=0.1")
    apart = rest.evaluator.extra_evaluators["holdout"]
    before, shown, held_out = whole.streams["train"].images, rest.streams["train"].images, apart.images
    assert isinstance(before, Images) and isinstance(shown, Images) and isinstance(held_out, Images)
    everything = rows(before.pixels)
    assert len(held_out.labels) == round(0.1 * len(before.labels))
    assert rows(shown.pixels) | rows(held_out.pixels) == everything
    assert not rows(shown.pixels) & rows(held_out.pixels)
    again = built(where, "data.holdout=0.1", "seed=5")
    theirs = again.evaluator.extra_evaluators["holdout"].images
    assert theirs is not None
    assert torch.equal(theirs.pixels, held_out.pixels)


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
