"""Learning from other images: what a recipe may say, what is opened, and what a student is shown, be it one image."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from raykd.config.runtime import Runtime
from raykd.data import parquet
from raykd.data.datasets import load_images
from raykd.data.streams import TrainStream
from raykd.distributed.world import World
from raykd.engine.build import build
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.errors import UsageError
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.store.checkpoint import save_weights
from raykd.store.workspace import Workspace

CLASSES = 3  # of the other images; the task has ten


def other_images(root: Path, count: int = 9) -> None:
    """Write small images in colour."""
    rng = np.random.default_rng(0)
    records = [(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).tobytes(), row % CLASSES) for row in range(count)]
    about = {"name": "ours", "split": "train", "count": str(count), "shape": "[8, 8, 3]", "encoding": parquet.RAW}
    parquet.write(root / "ours", "train", records, {**about, "classes": '["a", "b", "c"]'})


def made(root: Path, *pairs: str, data: str = "{name: digits, ood: ours, ood_images: 5}") -> Recipe:
    """A short run of a teacher with strong opinions, on digits, whose students see other images."""
    other_images(root)
    torch.manual_seed(0)
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    list(network.parameters())[-2].data.mul_(20)
    save_weights(network.state_dict(), root / "teacher.safetensors")
    teacher = f"teacher={{model: lenet5, weights: {root / 'teacher.safetensors'}}}"
    schedule = "schedule={steps: 4, report_every: 2, global_batch: 32}"
    return load_recipe("blind_kd_mnist", [f"data={data}", teacher, schedule, *pairs])


def workspace(root: Path) -> Workspace:
    return Workspace(root, root / "runs")


def test_only_the_other_images_are_opened(tmp_path: Path) -> None:
    result = run(resolve(made(tmp_path)), RunContext(World.alone(), workspace(tmp_path), Runtime(), LocalReporter))
    assert result.data_opened == {
        "train": [], "synthetic": [], "ood": ["ours/train"], "calibration": [], "test": ["digits/test"],
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


@pytest.mark.parametrize(
    ("recipe", "pairs", "says"),
    [
        ("blind_kd_mnist", ["data.ood=null"], "'blind_kd' needs other images: give 'data.ood'"),
        ("kd_digits", ["data.ood=usps"], "'kd' takes no other images: leave out 'data.ood'"),
        ("noise_digits", ["data.ood=usps"], "'noise' takes no other images"),
        ("kd_digits", ["data.ood_images=3"], "'ood_images' chooses of the set that 'ood' names"),
        ("blind_kd_mnist", ["data.ood_images=0"], "ood_images"),
    ],
)
def test_a_recipe_names_other_images_where_they_are_wanted(recipe: str, pairs: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe(recipe, pairs)


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
