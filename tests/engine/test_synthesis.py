"""Sets made of a bank: the same bytes however often interrupted, never much in memory, and only from what fits."""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from raykd.artifacts.bank import BankFiles, finish_bank, open_bank, write_products
from raykd.artifacts.synthetic_set import SyntheticFolder
from raykd.data import parquet
from raykd.data.datasets import data_spec, load_images, train_spec
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine import image_sources as generated
from raykd.engine import synthesis
from raykd.engine.synthesis import synthesize
from raykd.errors import CorruptError, RunFailed, UsageError
from raykd.generators import EVERY, GeneratorBank
from raykd.models import build_model
from raykd.recipe.recipe import dump_recipe, load_recipe
from raykd.store.run_directory import RunDirectory
from tests.planning.untrained_bank import CONFIG, save_bank, save_run, save_teacher

SPEC = data_spec("digits")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with an untrained teacher; files of 100 images, batches of 16, groups of 3 members."""
    torch.set_num_threads(1)
    save_teacher(tmp_path)
    monkeypatch.setattr(parquet, "SHARD_BYTES", 100 * (32 * 32 + 4 * 10))
    monkeypatch.setattr(generated, "_MOST_IMAGES", 16)
    monkeypatch.setattr(generated, "_SAMPLE", 64)
    return tmp_path


@pytest.fixture
def run(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of a bank of ten members."""
    made = save_run(store, "bank-run")
    save_bank(made, tuple(range(10)))
    files = open_bank(RunDirectory(made))
    monkeypatch.setattr(generated, "_GROUP_BYTES", 4 * 3 * files.numbers // 10)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def columns(folder: Path) -> tuple[list[int], Tensor]:
    tables = [pq.read_table(path) for path in parquet.find_files(folder, "train")]
    logits = [row for table in tables for row in table["teacher_logits"].to_pylist()]
    return [label for table in tables for label in table["label"].to_pylist()], torch.tensor(logits)


def test_a_set_holds_what_its_bank_makes(store: Path, run: Path) -> None:
    made = synthesize(RunDirectory(run), 250, store / "made", None, World.alone())
    assert (made.files, made.written, made.bank) == (3, 3, "bank-run")
    spec = train_spec("made", SPEC, store)
    opened = OpenedData(store)
    images = opened.open("train", "made", "train", spec)
    assert opened.by_role()["synthetic"] == ["made/train"]
    assert opened.by_role()["train"] == []
    labels, logits = columns(store / "made")
    assert images.labels.tolist() == labels
    for first in range(0, 250, 10):  # every class once among ten rows
        assert Counter(labels[first : first + 10]) == Counter(range(10))
    assert labels[:10] != labels[10:20]
    shown = spec.normalise(images.pixels.float() / 255)
    network = build_model("lenet5", num_classes=10, channels=1, size=32).eval()
    network.load_state_dict(load_file(store / "teacher.safetensors"))
    with torch.no_grad():
        assert torch.allclose(logits, network(shown), atol=1e-5)
    # Row 137 by hand, from the bank as a whole.
    source = generated.BankSource(open_bank(RunDirectory(run)), 3, torch.device("cpu"))
    with torch.no_grad():
        image = (
            open_bank(RunDirectory(run)).load(range(10)).mixed(source._latents([137]), torch.tensor(labels[137:138]))[0]
        )
    manifest = json.loads((store / "made" / "manifest.json").read_text())
    low, high = manifest["pixel_range"]["low"][0], manifest["pixel_range"]["high"][0]
    error = (shown[137] - image.clamp(low, high)).abs().max().item()
    assert error <= (high - low) / 255 / 2 + 1e-5
    assert image.min() < -SPEC.mean[0] / SPEC.std[0] or image.max() > (1 - SPEC.mean[0]) / SPEC.std[0]


def test_the_manifest_says_what_the_set_is(store: Path, run: Path) -> None:
    synthesize(RunDirectory(run), 120, store / "made", None, World.alone())
    manifest = json.loads((store / "made" / "manifest.json").read_text())
    weights = (store / "teacher.safetensors").read_bytes()
    assert manifest["rows"] == 120
    assert manifest["bank"] == "bank-run"
    assert manifest["seed"] == "3"
    assert manifest["teacher_sha256"] == hashlib.sha256(weights).hexdigest()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents(store / "made").items()}
    assert manifest["files"] == {name: digest for name, digest in sums.items() if name != "manifest.json"}
    low, high = manifest["pixel_range"]["low"][0], manifest["pixel_range"]["high"][0]
    found = data_spec("made", data_root=store)
    assert math.isclose(-found.mean[0] / found.std[0], low, rel_tol=1e-9)
    assert math.isclose((1 - found.mean[0]) / found.std[0], high, rel_tol=1e-9)
    assert list(found.mean) == manifest["normalisation"]["mean"]


def test_a_longer_set_begins_like_a_shorter_one(store: Path, run: Path) -> None:
    for rows in (130, 205):
        synthesize(RunDirectory(run), rows, store / f"made{rows}", None, World.alone())
    spec = train_spec("made130", SPEC, store)
    short, long = (load_images(f"made{rows}", "train", spec, store) for rows in (130, 205))
    # Rows 100 to 129 are computed beside others there, so a value between two levels may fall either way.
    differing = (short.pixels.int() - long.pixels[:130].int()).abs()
    assert differing.max() <= 1
    assert (differing > 0).float().mean() < 1e-3
    assert torch.equal(short.labels, long.labels[:130])


@pytest.mark.parametrize("moment", ["before a file", "within a file", "before the manifest"])
def test_a_killed_command_goes_on_to_the_same_bytes(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    synthesize(RunDirectory(run), 250, store / "made", None, World.alone())
    whole = contents(store / "made")
    (store / "made").rename(store / "whole")
    with monkeypatch.context() as patch:
        calls = Counter[str]()

        def killing(place: Any, name: str, at: int) -> None:
            inner = getattr(place, name)

            def call(*arguments: Any, **keywords: Any) -> Any:
                calls[name] += 1
                if calls[name] == at:
                    raise KeyboardInterrupt
                return inner(*arguments, **keywords)

            patch.setattr(place, name, call)

        if moment == "before the manifest":
            killing(synthesis, "write_json", 1)
        else:
            killing(*((SyntheticFolder, "write", 3) if moment == "before a file" else (pq, "write_table", 2)))
        with pytest.raises(KeyboardInterrupt):
            synthesize(RunDirectory(run), 250, store / "made", None, World.alone())
    left = contents(store / "made")
    assert len(left) == {"before a file": 2, "within a file": 1, "before the manifest": 3}[moment]
    assert all(whole[name] == data for name, data in left.items())
    stamps = {name: (store / "made" / name).stat().st_mtime_ns for name in left}
    torch.manual_seed(1)  # nothing hangs on torch's own generator
    monkeypatch.setattr(generated, "_SAMPLE", 32)  # nor is the range taken anew
    (store / "made" / ".train-00001-of-00003.parquet.writing").write_bytes(b"left by SIGKILL")
    made = synthesize(RunDirectory(run), 250, store / "made", None, World.alone())
    assert made.written == 3 - len(left)
    assert {name: (store / "made" / name).stat().st_mtime_ns for name in left} == stamps
    (store / "made" / ".train-00001-of-00003.parquet.writing").unlink(missing_ok=True)
    assert contents(store / "made") == whole


def test_a_finished_set_is_checked_and_left_alone(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    synthesize(RunDirectory(run), 120, store / "made", None, World.alone())
    with monkeypatch.context() as patch:
        patch.setattr(synthesis, "_make_file", lambda *_: pytest.fail("images were made again"))
        with caplog.at_level("INFO", "raykd"):
            assert synthesize(RunDirectory(run), 120, store / "made", None, World.alone()).written == 0
    assert "finished already" in caplog.text
    second = store / "made" / "train-00001-of-00002.parquet"
    data = bytearray(second.read_bytes())
    data[100] ^= 1
    second.write_bytes(data)
    with pytest.raises(CorruptError, match=f"{second.name} is damaged .it differs from its checksum"):
        synthesize(RunDirectory(run), 120, store / "made", None, World.alone())
    second.unlink()
    assert synthesize(RunDirectory(run), 120, store / "made", None, World.alone()).written == 1
    assert synthesize(RunDirectory(run), 120, store / "made", None, World.alone()).written == 0


def test_memory_is_bounded_by_file_group_and_batch(store: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, groups, files = [], [], []
    mixed, load, write = GeneratorBank.mixed, BankFiles.load, SyntheticFolder.write

    def watched_mixed(bank: GeneratorBank, z: Tensor, labels: Tensor) -> Tensor:
        batches.append(len(z))
        return mixed(bank, z, labels)

    def watched_load(bank: Any, classes: tuple[int, ...], **more: Any) -> GeneratorBank:
        groups.append(tuple(classes))
        return load(bank, classes, **more)

    def watched_write(folder: SyntheticFolder, path: Path, pixels: Tensor, *rest: Any) -> None:
        files.append(len(pixels))
        write(folder, path, pixels, *rest)

    monkeypatch.setattr(GeneratorBank, "mixed", watched_mixed)
    monkeypatch.setattr(BankFiles, "load", watched_load)
    monkeypatch.setattr(SyntheticFolder, "write", watched_write)
    synthesize(RunDirectory(run), 250, store / "made", None, World.alone())
    assert max(batches) == 16
    assert sum(batches) == 64 + 250
    assert files == [100, 100, 50]
    four = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    assert groups == four * 4  # for the range and for each of three files


@pytest.mark.parametrize("conditions", [0, 10])
def test_a_single_generator_is_labelled_by_the_teacher_or_by_what_was_asked(store: Path, conditions: int) -> None:
    run = save_run(store, "single-run")
    save_bank(run, (EVERY,), conditions)
    synthesize(RunDirectory(run), 60, store / "made", None, World.alone())
    labels, logits = columns(store / "made")
    if conditions:
        assert Counter(labels) == Counter({label: 6 for label in range(10)})
    else:
        assert labels == logits.argmax(1).tolist()


def test_runs_that_cannot_serve_say_what_would(store: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="^images is 0; a set has 1 image or more"):
        synthesize(RunDirectory(run), 0, store / "made", None, World.alone())
    with pytest.raises(UsageError, match="does not exist; no recipe.yaml"):
        synthesize(RunDirectory(store / "nowhere"), 10, store / "made", None, World.alone())
    with pytest.raises(UsageError, match="run plain has no checkpoint, in which"):
        synthesize(RunDirectory(save_run(store, "plain")), 10, store / "made", None, World.alone())
    other = save_run(store, "other")
    other_recipe = load_recipe("kd_digits", ["controls=[]"])
    (other / "recipe.yaml").write_text(dump_recipe(other_recipe))
    with pytest.raises(UsageError, match="run other has no bank.*trains generators"):
        synthesize(RunDirectory(other), 10, store / "made", None, World.alone())
    (run / "bank" / "manifest.json").rename(store / "manifest.json")
    with pytest.raises(UsageError, match="has not finished its bank"):
        synthesize(RunDirectory(run), 10, store / "made", None, World.alone())
    (store / "manifest.json").rename(run / "bank" / "manifest.json")
    weights = store / "teacher.safetensors"
    weights.rename(store / "elsewhere")
    with pytest.raises(UsageError, match="no weights file.*teacher.safetensors"):
        synthesize(RunDirectory(run), 10, store / "made", None, World.alone())
    save_teacher(store, seed=1)
    with pytest.raises(UsageError, match="not those that run .* was trained against"):
        synthesize(RunDirectory(run), 10, store / "made", None, World.alone())
    assert not (store / "made").exists()


def test_a_bank_trained_again_does_not_go_on_with_the_old_set(store: Path, run: Path) -> None:
    synthesize(RunDirectory(run), 120, store / "made", None, World.alone())
    save_bank(run, tuple(range(10)), seed=10)
    with pytest.raises(UsageError, match="whose bank_sha256 is"):
        synthesize(RunDirectory(run), 120, store / "made", None, World.alone())


@pytest.mark.parametrize("value", [math.nan, 3e38])
def test_a_bank_that_makes_no_numbers_is_refused(store: Path, value: float) -> None:
    run = save_run(store, "broken-run")
    bank = GeneratorBank((0, 1), CONFIG, channels=1, size=32)
    bank.initialise(seed=1)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.fill_(value)
    save_bank(run, (0, 1))
    write_products(RunDirectory(run), {"class_00001": bank.member_state(1)})
    about = json.loads((run / "bank" / "manifest.json").read_text())
    if math.isnan(value):
        with pytest.raises(CorruptError, match=r"class_00001.* holds numbers that are not finite"):
            finish_bank(RunDirectory(run), about, World.alone())
        return
    finish_bank(RunDirectory(run), about, World.alone())
    with pytest.raises(RunFailed, match="not finite"):
        synthesize(RunDirectory(run), 10, store / "made", None, World.alone())
