"""A bank on the disk: whole or recognised as not, loaded as a copy or a share, fitting the data or refused."""

import json
from pathlib import Path

import pytest
import torch

from raykd.artifacts import bank as module
from raykd.artifacts.bank import BankFiles, finish_bank, open_bank, write_products
from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.errors import CorruptError, UsageError
from raykd.generators import EVERY, GeneratorBank, GeneratorConfig
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory

CONFIG = GeneratorConfig(latent_dim=5, width=8)
SPEC = DataSpec("made", 3, 1, 8, (0.5,), (0.5,))


def made(classes: tuple[int, ...] = (0, 1, 2), conditions: int = 0) -> GeneratorBank:
    bank = GeneratorBank(classes, CONFIG, channels=1, size=8, conditions=conditions)
    bank.initialise(3)
    return bank.eval()


def write(directory: Path, bank: GeneratorBank) -> BankFiles:
    names = {label: "class_every" if label == EVERY else f"class_{label:05d}" for label in bank.classes}
    directory.mkdir(exist_ok=True)
    write_products(RunDirectory(directory), {names[label]: bank.member_state(label) for label in bank.classes})
    about = {
        "generator": CONFIG.model_dump(), "channels": 1, "size": 8, "num_classes": 3, "mean": [0.5], "std": [0.5],
        "conditions": bank.conditions, "classes": list(bank.classes), "seed": 0, "steps": 1, "teacher_sha256": None,
    }  # fmt: skip
    finish_bank(RunDirectory(directory), about, World.alone())
    return open_bank(RunDirectory(directory))


def test_members_come_back_as_they_were(tmp_path: Path) -> None:
    bank = made()
    files = write(tmp_path / "run", bank)
    z, labels = torch.randn(6, 5), torch.tensor([2, 0, 1, 1, 0, 2])
    assert torch.equal(files.load((0, 1, 2)).mixed(z, labels), bank.mixed(z, labels))
    share = files.load((2,))
    assert share.classes == (2,)
    assert torch.allclose(share.mixed(z[:1], labels[:1]), bank.mixed(z[:1], labels[:1]))
    assert not any(p.requires_grad for p in share.parameters())
    assert files.numbers == sum(p.numel() for p in bank.parameters())
    assert files.matches(SPEC)


def test_damage_is_named(tmp_path: Path) -> None:
    files = write(tmp_path / "run", made())
    member = files.folder / "class_00001.safetensors"
    content = bytearray(member.read_bytes())
    content[-2] ^= 1
    member.write_bytes(bytes(content))
    with pytest.raises(CorruptError, match=r"class_00001\.safetensors"):
        files.load((0, 1))
    files.load((0, 2))  # what is whole can be used
    (files.folder / "manifest.json").write_text("{}")
    with pytest.raises(CorruptError, match=r"manifest\.json is damaged \(.* is missing\)"):
        open_bank(RunDirectory(tmp_path / "run"))


def test_a_run_without_a_bank_and_one_that_is_not_finished_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"run absent does not exist: there is no directory {tmp_path}/absent"):
        open_bank(RunDirectory(tmp_path / "absent"))
    with pytest.raises(UsageError, match="has no bank"):
        open_bank(RunDirectory(tmp_path))
    write_products(RunDirectory(tmp_path), {"class_00000": made().member_state(0)})
    with pytest.raises(UsageError, match="has not finished its bank"):
        open_bank(RunDirectory(tmp_path))


def test_a_bank_that_lacks_a_member_is_not_finished(tmp_path: Path) -> None:
    write_products(RunDirectory(tmp_path), {"class_00000": made().member_state(0)})
    with pytest.raises(CorruptError, match=r"class_00001\.safetensors is missing \(1 files"):
        finish_bank(RunDirectory(tmp_path), {"classes": [0, 1]}, World.alone())


class _Two(World):
    """A world that says it has two workers of which the other thinks as this one."""

    def gather_objects(self, value: object) -> list[object]:
        return [value, value]


@pytest.mark.parametrize(
    ("free", "wish", "classes", "dtype"),
    [
        (1e12, "auto", (0, 1, 2), torch.float32),
        (1e12, "exchange", (2,), torch.float32),
        (9e3, "auto", (0, 1, 2), torch.bfloat16),
        (6e3, "auto", (2,), torch.float32),
        (6e3, "copy", (0, 1, 2), torch.bfloat16),
    ],
)
def test_what_a_worker_holds_follows_the_memory_and_the_wish(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: float,
    wish: str,
    classes: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    files = write(tmp_path / "run", made())
    share = free * files.numbers / 1000  # in thousandths of the numbers, to read as bytes per number
    monkeypatch.setattr(module, "free_device_memory", lambda device: int(share * 2))
    world = _Two(1, 2, torch.device("cpu"))
    runtime = Runtime.model_validate({"bank": wish})
    assert module.choose_members(files, world, runtime) == (classes, dtype)


def test_one_generator_for_all_classes_is_always_a_copy(tmp_path: Path) -> None:
    files = write(tmp_path / "run", made((EVERY,), conditions=3))
    held = module.choose_members(files, _Two(0, 2, torch.device("cpu")), Runtime(bank="exchange"))
    assert held[0] == (EVERY,)
    bank = files.load(*held[:1])
    assert bank.conditions == 3
    assert json.loads((files.folder / "manifest.json").read_text())["files"].keys() == {"class_every.safetensors"}
