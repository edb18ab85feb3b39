"""A teacher's logits kept in the store: the same training bit for bit, shared, and never trusted when damaged."""

import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from raykd.artifacts import teacher_logits as module
from raykd.artifacts.teacher_logits import TeacherQuery, teacher_logits
from raykd.config.runtime import Runtime
from raykd.data.datasets import Images
from raykd.data.streams import TrainStream
from raykd.distributed.world import World
from raykd.engine.build import build
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError
from raykd.models import build_model
from raykd.models.teacher import Teacher
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.spec import DataSpec
from raykd.store.checkpoint import save_weights
from raykd.store.workspace import Workspace
from tests.methods.toy import SPEC, made_images, made_teacher
from tests.worker_pair import run_two_workers

LARGE = DataSpec("large", 10, 1, 32, (0.5,), (0.4,))


def network(name: str) -> nn.Module:
    """An untrained network with strong opinions, laid out in memory as the engine does."""
    torch.manual_seed(0)
    made = build_model(name, num_classes=10, channels=1, size=32)
    list(made.parameters())[-2].data.mul_(20)  # the weights of the last layer
    return made.to(memory_format=torch.channels_last)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with weights of teachers."""
    for name in ("lenet5", "cifar_resnet8"):
        save_weights(network(name).state_dict(), tmp_path / f"{name}.safetensors")
    return tmp_path


def recipe(weights: Path, *pairs: str, batch: int = 32, teacher: str = "lenet5") -> Recipe:
    sections = [
        f"teacher={{model: {teacher}, weights: {weights / teacher}.safetensors}}",
        f"schedule={{steps: 12, report_every: 6, global_batch: {batch}}}",
    ]
    return load_recipe("kd_digits", [*sections, *pairs])


def asked(teacher: Teacher, images: Images, spec: DataSpec = SPEC, sha256: str = "a") -> TeacherQuery:
    return TeacherQuery(teacher, sha256, images, spec, "made/train")


def cached(teacher: Teacher, images: Images, store: Path, spec: DataSpec = SPEC, batch: int = 16) -> Tensor:
    found = teacher_logits(asked(teacher, images, spec), batch, World.alone(), store)
    assert found is not None
    return found


def place(tmp_path: Path, how: str) -> RunContext:
    runtime = Runtime.model_validate({"teacher_logits": how})
    return RunContext(World.alone(), Workspace(tmp_path, tmp_path / how), runtime, LocalReporter)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cached" / "logits").glob("*.parquet"))


@pytest.mark.parametrize(
    ("teacher", "student", "batch", "threads"),
    [
        ("lenet5", "lenet5_half", 32, 1),
        ("lenet5", "lenet5_half", 100, 2),
        ("lenet5", "lenet5_half", 256, 1),
        ("lenet5", "lenet5_half", 2, 1),  # so small that the arithmetic is another
        ("cifar_resnet8", "cifar_resnet8", 20, 1),
        ("cifar_resnet8", "lenet5", 100, 1),
    ],
)
def test_training_from_the_cache_is_bit_equal(
    tmp_path: Path, weights: Path, teacher: str, student: str, batch: int, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one = recipe(weights, f"student.model={student}", batch=batch, teacher=teacher)
        results = {how: run(resolve(one), place(tmp_path, how)) for how in ("live", "cached")}
    finally:
        torch.set_num_threads(before)
    students = [
        (tmp_path / how / resolve(one).run_id / "student.safetensors").read_bytes() for how in ("live", "cached")
    ]
    assert students[0] == students[1]
    assert results["live"].last == results["cached"].last
    assert len(kept(tmp_path)) == 1
    assert not (tmp_path / "live" / "logits").exists()


def test_runs_share_what_was_computed_once(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "raykd")
    run(resolve(recipe(weights)), place(tmp_path, "cached"))
    monkeypatch.setattr(module, "compute", None)  # a second computation would fail
    run(
        resolve(recipe(weights, "seed=1", "student.model=lenet5_half", "method.temperature=2")),
        place(tmp_path, "cached"),
    )
    told = [line for line in caplog.messages if "logits of 1438 images" in line]
    assert len(told) == 2
    assert "computed in" in told[0]
    assert told[1].endswith("read")


def test_images_that_change_in_every_step_are_asked_about_live(tmp_path: Path, weights: Path) -> None:
    one = recipe(weights, "data.augment=[crop]")
    built = build(resolve(one), World.alone(), Runtime(), Workspace(None, tmp_path / "cached"))
    assert built.streams["train"].batch(0).teacher_logits is None
    assert kept(tmp_path) == []


def test_logits_go_with_their_images(tmp_path: Path, weights: Path) -> None:
    built = build(resolve(recipe(weights)), World.alone(), Runtime(), Workspace(None, tmp_path / "cached"))
    batch = built.streams["train"].batch(7)
    assert batch.teacher_logits is not None and built.teacher is not None
    with torch.no_grad():
        assert torch.equal(batch.teacher_logits, built.teacher(batch.images)[0])


def test_the_keys_tell_teachers_images_and_precision_apart(tmp_path: Path) -> None:
    images, teacher = made_images(), made_teacher()
    other = DataSpec("made", 4, 1, 8, (0.5,), (0.4,), ("a", "b", "c", "d"))
    half = World(0, 1, torch.device("cpu"), "bf16")
    changed = Images(images.pixels.clone(), images.labels)
    changed.pixels[3, 0, 2, 2] ^= 1
    relabelled = Images(images.pixels, images.labels.flip(0))
    namesake = made_teacher()
    namesake.network.__class__ = type("Other", (type(namesake.network),), {"_get_name": lambda self: "Plain"})
    assert repr(namesake.network) == repr(teacher.network)
    cases = [
        (asked(teacher, images), World.alone()),
        (asked(teacher, images, sha256="b"), World.alone()),
        (asked(made_teacher(width=4), images), World.alone()),
        (asked(namesake, images), World.alone()),
        (asked(teacher, changed), World.alone()),
        (asked(teacher, images, other), World.alone()),
        (asked(teacher, images), half),
        (asked(teacher, relabelled), World.alone()),
    ]
    for case, world in cases:
        teacher_logits(case, 16, world, tmp_path / "cached")
    assert len(kept(tmp_path)) == len(cases) - 1, "labels do not matter"


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    found = cached(made_teacher(), made_images(), tmp_path / "cached")
    (path,) = kept(tmp_path)
    table = pq.read_table(path)
    assert torch.equal(torch.tensor(table["logits"].to_pylist()), found)
    assert str(table.schema.field("logits").type) == "fixed_size_list<element: float>[4]"
    assert json.loads(table.schema.metadata[b"about"]) == {
        "teacher_sha256": "a", "teacher": "Plain", "precision": "fp32", "device": "cpu", "data": "made/train",
        "count": 40,
    }  # fmt: skip
    assert {other.suffix for other in path.parent.iterdir()} == {".parquet", ".lock"}, "nothing half-written"


@pytest.mark.parametrize("count", [1, 3, 65, 501])
def test_no_image_is_asked_about_in_a_small_batch(tmp_path: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 32, 32), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.zeros(count, dtype=torch.int64))
    teacher = Teacher(network("lenet5"), channels=1, size=32)
    known = cached(teacher, images, tmp_path / "cached", LARGE, batch=32)
    assert len(known) == count
    stream = TrainStream(images, LARGE, World.alone(), 32, 0, teacher_logits=known)
    for step in range(-(-count // 32)):
        batch = stream.batch(step)
        with torch.no_grad():
            assert torch.equal(batch.teacher_logits, teacher(batch.images)[0])  # type: ignore[arg-type]


class Peculiar(nn.Module):
    """Rounds otherwise in batches of fewer than four images, as many a library does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = made_teacher().network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits * (1 - 1e-6) if len(images) < 4 else logits


def test_batches_that_round_otherwise_are_asked_about_live(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "raykd")
    case = asked(Teacher(Peculiar(), channels=1, size=8), made_images())
    assert teacher_logits(case, 4, World.alone(), tmp_path / "cached") is not None
    assert teacher_logits(case, 3, World.alone(), tmp_path / "cached") is None
    assert "batches of 3 give the teacher's logits other last bits" in caplog.text


def test_of_runs_at_once_one_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, asking = module.compute, []

    def slowly(*arguments: Any) -> Tensor:
        asking.append(threading.get_ident())
        time.sleep(0.3)
        return plain(*arguments)

    monkeypatch.setattr(module, "compute", slowly)
    found: list[Tensor] = []
    cases = [(made_teacher(), made_images()) for _ in range(4)]

    def take(teacher: Teacher, images: Images) -> None:
        found.append(cached(teacher, images, tmp_path / "cached"))

    threads = [threading.Thread(target=take, args=case) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(asking), len(found)) == (1, len(cases))
    assert all(torch.equal(one, found[0]) for one in found)


def test_a_stopped_run_goes_on_from_the_cache(tmp_path: Path, weights: Path) -> None:
    one, where = recipe(weights), place(tmp_path, "cached")
    with pytest.raises(Interrupted):
        run(resolve(one), replace(where, make_reporter=lambda directory: LocalReporter(directory, lambda: True)))
    run(resolve(one), where)
    run(resolve(one), place(tmp_path, "live"))
    students = [
        (tmp_path / how / resolve(one).run_id / "student.safetensors").read_bytes() for how in ("live", "cached")
    ]
    assert students[0] == students[1]


@pytest.mark.slow
def test_two_workers_learn_from_the_cache_what_they_learn_live(tmp_path: Path, weights: Path) -> None:
    one = recipe(weights, batch=64)
    (tmp_path / "recipe.json").write_text(one.model_dump_json())
    run_two_workers("tests.artifacts.two_students", tmp_path, OMP_NUM_THREADS="1")
    students = [
        (tmp_path / how / resolve(one).run_id / "student.safetensors").read_bytes() for how in ("live", "cached")
    ]
    assert students[0] == students[1]
    (path,) = kept(tmp_path)
    build(resolve(one), World.alone(), Runtime(), Workspace(None, tmp_path / "alone"))
    alone = tmp_path / "alone" / "logits" / path.name
    # Up to rounding: this process may have other host settings. Shares in a wrong order would differ wholly.
    rows = [torch.tensor(pq.read_table(file)["logits"].to_pylist()) for file in (path, alone)]
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("damage", ["torn", "changed", "other"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    images, teacher, store = made_images(), made_teacher(), tmp_path / "cached"
    first = cached(teacher, images, store)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    if damage == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "changed":
        table = pq.read_table(path)
        pq.write_table(table.take(list(reversed(range(len(table))))), path)
    else:
        path.write_text("not a table")
    again = cached(teacher, images, store)
    assert torch.equal(first, again)
    assert "is damaged" in caplog.text
    assert path.read_bytes() == whole


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    images, store = made_images(), tmp_path / "cached"
    right = cached(made_teacher(), images, store)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    refused = 0
    for bit in range(0, 8 * len(whole), 97):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert torch.equal(module._read(path, *right.shape), right), bit
        except CorruptError:
            refused += 1
    assert refused > 40


def test_what_does_not_fit_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 40 * 4 * 4)
    assert teacher_logits(asked(made_teacher(), made_images()), 16, World.alone(), tmp_path / "cached") is None
    assert not (tmp_path / "cached").exists()


def test_logits_that_cannot_be_kept_are_computed_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher, images = made_teacher(), made_images(40)
    kept_ones = cached(teacher, images, tmp_path)
    assert torch.equal(cached(teacher, images, Path("/proc/nowhere")), kept_ones)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert ["cannot be kept in /proc/nowhere/logits" in one for one in said] == [True], said
