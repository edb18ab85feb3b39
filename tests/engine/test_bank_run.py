"""A bank from recipe to manifest: in waves, stopped and dealt anew, and two students from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raykd.artifacts.bank import open_bank
from raykd.config.runtime import Runtime
from raykd.distributed.host import prepare_host
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError, UsageError
from raykd.files import sha256_of
from raykd.generators import GeneratorBank
from raykd.recipe.experiment import resolve
from raykd.store.checkpoint import latest_checkpoint, read_checkpoint, save_weights
from raykd.store.run_directory import RunDirectory
from tests.golden.shrunk import shrunk

STEPS, CLASSES = 4, 10
WAVES = Runtime(compile="off", wave=4)  # 10 members: waves of 4, 3 and 3


@pytest.fixture(scope="module", autouse=True)
def host() -> None:
    """Give float32 products one way of being computed, whatever ran before."""
    prepare_host(1)


def images(directory: Path) -> torch.Tensor:
    bank: GeneratorBank = open_bank(RunDirectory(directory)).load(range(CLASSES))
    z = torch.randn(2 * CLASSES, bank.latent_dim, generator=torch.Generator().manual_seed(1))
    return bank.mixed(z, torch.arange(CLASSES).repeat(2))


def stopping(place: RunContext, after: int) -> RunContext:
    """Ask to stop once a report of that step or a later one is on the disk."""

    def make(run: RunDirectory) -> LocalReporter:
        return LocalReporter(run, lambda: bool(list(run.checkpoints.glob(f"step_*{after}"))))

    return replace(place, make_reporter=make)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """The bank trained at once, unbroken; its root and its images."""
    root = tmp_path_factory.mktemp("whole")
    with shrunk(STEPS, root) as (place, load):
        recipe = load("lsgdfd_digits_bank")
        result = run(resolve(recipe), place)
        directory = place.workspace.store / resolve(recipe).run_id
    assert result.images == STEPS * 2 * CLASSES
    assert result.data_opened["calibration"] == ["digits/train (100 of each class)"]
    assert result.data_opened["train"] == []
    assert {"classes", "hit", "pixel_diversity"} <= result.image_quality.keys()
    return root, images(directory)


def test_waves_give_the_same_bank_step_by_step(whole: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    with shrunk(STEPS, tmp_path) as (place, load):
        recipe = load("lsgdfd_digits_bank")
        run(resolve(recipe), replace(place, runtime=WAVES))
        directory = place.workspace.store / resolve(recipe).run_id
    assert torch.allclose(images(directory), whole[1], atol=1e-3)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [STEPS, 2 * STEPS, 3 * STEPS], "a report at the end of every wave"
    assert [row["wave"] for row in rows] == [0, 1, 2]
    assert len(list((directory / "bank").glob("class_*.safetensors"))) == CLASSES


@pytest.mark.parametrize("later", [WAVES, Runtime(compile="off", wave=3), Runtime(compile="off")])
def test_a_stopped_bank_goes_on_however_its_waves_are_cut(
    whole: tuple[Path, torch.Tensor], tmp_path: Path, later: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.engine.stop._SECONDS_BETWEEN", 0)
    with shrunk(STEPS, tmp_path) as (place, load):
        recipe = load("lsgdfd_digits_bank", ["schedule.report_every=2"])
        with pytest.raises(Interrupted):
            run(resolve(recipe), replace(stopping(place, 6), runtime=WAVES))  # in the middle of the second wave
        checkpoint = latest_checkpoint(place.workspace.store / resolve(recipe).run_id / "checkpoints")
        assert checkpoint is not None
        parts = read_checkpoint(checkpoint).shard
        assert {name.partition("/")[0] for name in parts} == {"00004", "00005", "00006"}, "the wave's members only"
        run(resolve(recipe), replace(place, runtime=later))
        found = images(place.workspace.store / resolve(recipe).run_id)
    assert torch.allclose(found, whole[1], atol=1e-3)


def test_one_bank_serves_different_students_and_says_so(whole: tuple[Path, torch.Tensor]) -> None:
    root, _ = whole
    with shrunk(STEPS, root) as (place, load):
        bank = place.workspace.store / resolve(load("lsgdfd_digits_bank")).run_id
        written = (bank / "bank" / "manifest.json").stat().st_mtime_ns
        for model in ("lenet5_half", "lenet5_bn"):
            result = run(resolve(load("lsgdfd_digits", [f"student.model={model}"])), place)
            assert result.data_opened["train"] == []
            assert result.data_opened["calibration"] == ["digits/train (100 of each class)"], "its bank opened them"
            assert result.image_quality["pixel_diversity"] > 0
        assert (bank / "bank" / "manifest.json").stat().st_mtime_ns == written
        by_id = run(resolve(load("lsgdfd_digits", [f"bank={{run: {bank.name}}}", "student.model=lenet5_half"])), place)
        assert by_id.run != result.run


def test_a_student_of_another_teacher_is_refused(whole: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    with shrunk(STEPS, whole[0]) as (place, load):
        experiment = resolve(load("lsgdfd_digits", ["student.model=lenet5", "seed=7"]))
        assert experiment.teacher is not None
        student = place.workspace.run(experiment.teacher.run_id).student
        trained = student.read_bytes()
        try:
            tensors = load_file(student)
            save_weights({name: tensor * 2 for name, tensor in tensors.items()}, student)
            place.workspace.run(experiment.teacher.run_id).write_status(student_sha256=sha256_of(student))
            with pytest.raises(UsageError, match=r"other weights than .* \(sha256 \w{64} then, \w{64} here\): put"):
                run(experiment, place)
            student.write_bytes(trained[:-1] + bytes([trained[-1] ^ 1]))
            with pytest.raises(CorruptError, match=r"student\.safetensors is damaged"):
                run(experiment, place)
        finally:
            student.write_bytes(trained)
            place.workspace.run(experiment.teacher.run_id).write_status(student_sha256=sha256_of(student))


def test_statistics_from_a_file_are_those_from_the_teacher(whole: tuple[Path, torch.Tensor]) -> None:
    root, expected = whole
    with shrunk(STEPS, root) as (place, load):
        teacher = resolve(load("lsgdfd_digits_bank")).teacher
        assert teacher is not None
        file = place.workspace.store / teacher.run_id / "statistics.safetensors"
        recipe = load("lsgdfd_digits_bank", [f"calibration={{file: {file}}}"])
        result = run(resolve(recipe), place)
        found = images(place.workspace.store / resolve(recipe).run_id)
    assert result.data_opened["calibration"] == ["digits/train (100 of each class)"]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("recipe", "pairs", "message"),
    [
        ("lsgdfd_digits", ["bank={run: elsewhere-12345678-s0}"], "no directory .*/runs/elsewhere-12345678-s0;"),
        ("lsgdfd_digits", ["bank={run: runs/elsewhere-12345678-s0}"], "give the name alone, 'elsewhere-12345678-s0'"),
        ("lsgdfd_digits_bank", ["schedule.global_batch=25"], "must give each of the 10 classes equally many"),
        ("lsgdfd_digits_bank", ["schedule.global_batch=10"], "2 or more: try 20"),
        ("lsgdfd_digits_bank", ["calibration=null"], "needs the teacher's moments by class"),
        ("lsgdfd_digits_bank", ["teacher={recipe: supervised_digits_lenet5}"], "no BatchNorm"),
        ("lsgdfd_digits_bank", ["method.generator.latent_dim=200"], "large_latent: true"),
        ("lsgdfd_digits_bank", ["calibration={file: absent.safetensors}"], "raykd statistics"),
        ("lsgdfd_digits_bank", ["student={model: lenet5}"], "takes no 'student' section"),
        ("dafl_digits", ["calibration={per_class: 9}"], "takes no 'calibration' section"),
        ("lsgdfd_digits", ["bank=null"], "needs a 'bank' section"),
        (
            "lsgdfd_digits",
            ["data.mean=[0.1]", "teacher={model: lenet5_bn, weights: made.safetensors}"],
            "normalised by",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    whole: tuple[Path, torch.Tensor], recipe: str, pairs: list[str], message: str
) -> None:
    # Loading may refuse as well as running.
    with shrunk(STEPS, whole[0]) as (place, load), pytest.raises(UsageError, match=message):
        run(resolve(load(recipe, pairs)), place)
