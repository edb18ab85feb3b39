"""Images by number, of a run's own generator or of a bank."""

import shutil
from pathlib import Path

import pytest
import torch

from raykd.data.datasets import data_spec, load_images, train_spec
from raykd.distributed.world import World
from raykd.engine.image_sources import MethodSource
from raykd.engine.synthesis import synthesize
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.engine.test_synthetic_sets import recipe, set_folder, student, trained


def test_the_set_holds_the_images_of_the_generator_up_to_its_levels(tmp_path: Path) -> None:
    made = student()
    trained(made, tmp_path)
    folder, spec = set_folder(made, tmp_path), data_spec("digits")
    run = next(tmp_path.glob("dafl_digits-*"))
    source = MethodSource(RunDirectory(run), World.alone(), Workspace(None, tmp_path))
    shown = train_spec(str(folder), spec, None)
    stored = load_images(str(folder), "train", shown, None)
    wanted = torch.empty(300, 1, 32, 32)
    for places, images in source.images(range(300)):
        wanted[places] = images
    level = 1 / 255 / shown.std[0]
    inside = (stored.pixels > 0) & (stored.pixels < 255)
    error = (shown.normalise(stored.pixels.float() / 255) - wanted).abs()
    assert error[inside].max() < 0.51 * level
    assert inside.float().mean() > 0.9
    with torch.no_grad():
        agree = source.teacher(shown.normalise(stored.pixels.float() / 255))[0].argmax(1) == stored.labels
    assert agree.all(), "where no class is asked for, the label is the teacher's"
    assert torch.equal(torch.cat([i for _, i in source.images(range(250, 260))]), wanted[250:260]), "rows by number"


def test_a_generator_that_is_gone_is_named(tmp_path: Path) -> None:
    made = recipe("dafl_digits", **{"method.generator_width": 8})
    trained(made, tmp_path)
    shutil.rmtree(tmp_path / resolve(made).run_id / "checkpoints")
    with pytest.raises(UsageError, match="has no checkpoint, in which its generator was"):
        synthesize(RunDirectory(tmp_path / resolve(made).run_id), 10, tmp_path / "set", None, World.alone())
