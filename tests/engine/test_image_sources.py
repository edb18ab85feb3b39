"""Images by number, of a run's own generator or of a bank."""

import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.artifacts.pool_files import PoolFiles, finish_pool
from raykd.data.datasets import data_spec, load_images, train_spec
from raykd.data.image_pool import PoolPart, to_pixels
from raykd.distributed.world import World
from raykd.engine.image_sources import MethodSource, PoolSource
from raykd.engine.synthesis import synthesize
from raykd.errors import CorruptError, UsageError
from raykd.recipe.experiment import resolve
from raykd.spec import DataSpec
from raykd.store.checkpoint import Sums
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.artifacts.test_pool_files import part, report
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


def test_a_pool_is_read_part_by_part_into_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fill most of the memory: no more than what is just decoded is there beside it."""
    run, parts = RunDirectory(tmp_path), [part(8 * number, 8, views=2) for number in (2, 0, 1)]
    pool: Sums = {}
    for step, images in enumerate(parts, 1):
        pool = report(run, step, pool, images)
    finish_pool(run, run.checkpoints / "step_0000003", {"teacher_sha256": "abc"})
    read, alive = PoolFiles.parts, []

    def noted(*args: Any, **options: Any) -> Iterator[PoolPart]:
        for found in read(*args, **options):
            assert found.view_logits is None
            alive.append(weakref.ref(found.pixels))
            assert sum(one() is not None for one in alive) <= 2
            yield found
            del found

    monkeypatch.setattr(PoolFiles, "parts", noted)
    spec = DataSpec("tiny", 4, 3, 6, (0.5,) * 3, (0.5,) * 3)
    source = PoolSource(run, spec)
    assert len(alive) == 3
    ordered = [parts[1], parts[2], parts[0]]
    assert torch.equal(source.targets(range(24)), torch.cat([one.labels for one in ordered]))
    pixels = torch.cat([images for _, images in source.images(range(24))])
    assert torch.equal(to_pixels(pixels, spec), torch.cat([one.pixels for one in ordered]))
    with pytest.raises(UsageError, match="images of other shapes .*3x6x6 and 3x8x8"):
        PoolSource(run, replace(spec, size=8))
    with pytest.raises(CorruptError, match=r"images-0000001-00000.*has label 3, and the run has 2 classes"):
        PoolSource(run, replace(spec, num_classes=2))


def test_a_pool_with_a_gap_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    report(run, 2, report(run, 1, {}, part(0, 8)), part(9, 8))
    finish_pool(run, run.checkpoints / "step_0000002", {"teacher_sha256": None})
    with pytest.raises(CorruptError, match="not those from 0 to 15, each once"):
        PoolSource(run, DataSpec("tiny", 4, 3, 6, (0.5,) * 3, (0.5,) * 3))
