"""A teacher's logits kept in the store: the same training bit for bit, shared, and never trusted when damaged."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raykd.config import Runtime
from raykd.data import parquet
from raykd.data.datasets import Images, load_images
from raykd.data.spec import DataSpec
from raykd.engine import logits as module
from raykd.engine.build import Roots, build
from raykd.engine.checkpoint import save_weights
from raykd.engine.logits import teacher_logits
from raykd.engine.report import LocalReporter
from raykd.engine.run import Place, run
from raykd.models import build_model
from raykd.parallel import World
from raykd.recipe import Recipe, load_recipe
from tests.methods.toy import SPEC, made_images, made_teacher


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of an untrained network with strong opinions, as a teacher."""
    torch.manual_seed(0)
    network = build_model("cifar_resnet8", num_classes=10, channels=1, size=32)
    network.linear.weight.data.mul_(20)
    save_weights(network.state_dict(), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def recipe(weights: Path, batch: int = 32, **sections: Any) -> Recipe:
    pairs = [
        f"teacher={{model: cifar_resnet8, weights: {weights}}}",
        f"schedule={{steps: 12, report_every: 6, global_batch: {batch}}}",
        *(f"{key}={value}" for key, value in sections.items()),
    ]
    return load_recipe("kd_digits", pairs)


def place(tmp_path: Path, how: str) -> Place:
    runtime = Runtime.model_validate({"teacher_logits": how})
    return Place(World.alone(), Roots(tmp_path, tmp_path / how), runtime, LocalReporter)


def write_set(folder: Path) -> None:
    """Write nine small images in colour of three classes."""
    rng = np.random.default_rng(0)
    records = [(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).tobytes(), row % 3) for row in range(9)]
    about = {"name": "ours", "split": "train", "count": "9", "shape": "[8, 8, 3]", "encoding": parquet.RAW}
    parquet.write(folder, "train", records, {**about, "classes": '["a", "b", "c"]'})


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cached" / "logits").glob("*.parquet"))


@pytest.mark.parametrize(("batch", "threads"), [(20, 1), (100, 2), (256, 1)])
def test_training_from_the_cache_is_bit_equal(tmp_path: Path, weights: Path, batch: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one = recipe(weights, batch)
        results = {how: run(one, place(tmp_path, how)) for how in ("live", "cached")}
    finally:
        torch.set_num_threads(before)
    students = [(tmp_path / how / one.run_id / "student.safetensors").read_bytes() for how in ("live", "cached")]
    assert students[0] == students[1]
    assert results["live"]["last"] == results["cached"]["last"]
    assert len(kept(tmp_path)) == 1
    assert not (tmp_path / "live" / "logits").exists()


def test_runs_share_what_was_computed_once(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "raykd")
    run(recipe(weights), place(tmp_path, "cached"))
    monkeypatch.setattr(module, "_compute", None)  # a second computation would fail
    run(recipe(weights, seed=1, **{"student.model": "lenet5", "method.temperature": 2}), place(tmp_path, "cached"))
    told = [line for line in caplog.messages if "logits of 1438 images" in line]
    assert len(told) == 2
    assert "computed in" in told[0]
    assert told[1].endswith("read")


def test_images_that_change_in_every_step_are_asked_about_live(tmp_path: Path, weights: Path) -> None:
    one = recipe(weights, **{"data.augment": "[crop]"})
    built = build(one, World.alone(), Runtime(), Roots(None, tmp_path / "cached"))
    assert built.streams["train"].batch(0).teacher_logits is None
    assert kept(tmp_path) == []


def test_logits_go_with_their_images(tmp_path: Path, weights: Path) -> None:
    built = build(recipe(weights), World.alone(), Runtime(), Roots(None, tmp_path / "cached"))
    batch = built.streams["train"].batch(7)
    assert batch.teacher_logits is not None
    assert built.teacher is not None
    with torch.no_grad():
        assert torch.equal(batch.teacher_logits, built.teacher(batch.images)[0])


def test_the_keys_tell_teachers_images_and_precision_apart(tmp_path: Path) -> None:
    images, teacher = made_images(), made_teacher()
    other = DataSpec("made", 4, 1, 8, (0.5,), (0.4,), ("a", "b", "c", "d"))
    half = World(0, 1, torch.device("cpu"), "bf16")
    changed = Images(images.pixels.clone(), images.labels)
    changed.pixels[3, 0, 2, 2] ^= 1
    relabelled = Images(images.pixels, images.labels.flip(0))
    cases = [
        (teacher, "a", images, SPEC, World.alone()),
        (teacher, "b", images, SPEC, World.alone()),
        (made_teacher(width=4), "a", images, SPEC, World.alone()),
        (teacher, "a", changed, SPEC, World.alone()),
        (teacher, "a", images, other, World.alone()),
        (teacher, "a", images, SPEC, half),
        (teacher, "a", relabelled, SPEC, World.alone()),
    ]
    for case in cases:
        teacher_logits(*case, tmp_path / "cached")
    assert len(kept(tmp_path)) == len(cases) - 1, "labels do not matter"


@pytest.mark.parametrize("damage", ["torn", "changed", "other"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    images, teacher, store = made_images(), made_teacher(), tmp_path / "cached"
    first = teacher_logits(teacher, "a", images, SPEC, World.alone(), store)
    assert first is not None
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    if damage == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "changed":
        table = pq.read_table(path)
        pq.write_table(table.take(list(reversed(range(len(table))))), path)
    else:
        path.write_text("not a table")
    again = teacher_logits(teacher, "a", images, SPEC, World.alone(), store)
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert "is damaged" in caplog.text
    assert path.read_bytes() == whole


def test_what_does_not_fit_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 40 * 4 * 4)
    assert teacher_logits(made_teacher(), "a", made_images(), SPEC, World.alone(), tmp_path / "cached") is None
    assert not (tmp_path / "cached").exists()


def test_other_images_are_opened_as_such(tmp_path: Path, weights: Path) -> None:
    write_set(tmp_path / "ours")
    one = load_recipe(
        "blind_kd_mnist",
        [
            "data={name: digits, ood: ours, ood_images: 5}",
            f"teacher={{model: cifar_resnet8, weights: {weights}}}",
            "schedule={steps: 4, report_every: 2, global_batch: 32}",
        ],
    )
    result = run(one, place(tmp_path, "cached"))
    assert result["data_opened"] == {
        "train": [],
        "synthetic": [],
        "ood": ["ours/train"],
        "calibration": [],
        "test": ["digits/test"],
    }
    assert result["selected"] == "last"
    built = build(one, World.alone(), Runtime(), Roots(tmp_path, tmp_path / "cached"))
    batch = built.streams["ood"].batch(0)
    spec = built.spec
    shown = spec.normalise(load_images("ours", "train", spec, tmp_path, 5).pixels / 255)
    assert batch.images.shape == (32, 1, 32, 32)
    for image in batch.images:
        assert min((image - one_of).abs().max().item() for one_of in shown) < 1e-6
    assert built.teacher is not None and batch.teacher_logits is not None
    with torch.no_grad():
        assert torch.equal(batch.teacher_logits, built.teacher(batch.images)[0])
