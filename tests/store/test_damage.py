"""No damaged file ends in a traceback, or in a result that is not right."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.store.damage import FILES, Case, Store, cases
from tests.store.small_store import PLACES, found

CASES = {case.name: case for case in cases()}
REPRESENTATIVE = (
    "finished: experiment.json: a bit: evaluate the finished",
    "finished: experiment.json: gone: evaluate the finished",
    "finished: experiment.json: no UTF-8: inspect the finished",
    "finished: status.json: a bit: read the finished",
    "finished: status.json: an object: read the finished",
    "finished: status.json: every value text: evaluate the finished",
    "finished: environment.json: depth: inspect the finished",
    "finished: environment.json: a bit: draw from the finished",
    "finished: student.safetensors: a bit: evaluate the finished",
    "finished: student.safetensors: a directory: inspect the finished",
    "finished: student.safetensors: gone: evaluate the finished",
    "finished: student.safetensors: gone: read the finished",
    "finished: checkpoints/step_0000006: code: draw from the finished",
    "stopped: status.json: a list: resume",
    "stopped: environment.json: every value a list: evaluate the stopped",
    "stopped: metrics.jsonl: noise: resume",
    "stopped: checkpoints: a file: evaluate the stopped",
    "stopped: checkpoints/step_0000004/manifest.json: depth: resume",
    "stopped: checkpoints/step_0000004/manifest.json: every value an object: resume",
    "stopped: checkpoints/step_0000004: a file: evaluate the stopped",
    "stopped: checkpoints/step_0000004: code: resume",
    "stopped: checkpoints/step_0000004: both: code: evaluate the stopped",
    "stopped: checkpoints/step_0000004: a method of other keys: resume",
    "stopped: checkpoints/step_0000004: an optimizer of other shapes: resume",
    "stopped: checkpoints/step_0000004: both: weights of other shapes: resume",
    "stopped: checkpoints/step_0000004: weights of other keys: evaluate the stopped",
    "teacher: student.safetensors: a bit: distil",
    "teacher: statistics.safetensors: a loop: evaluate the finished",
    "bank: bank/manifest.json: a bit: draw from the bank",
    "bank: bank/manifest.json: every value null: draw from the bank",
    "bank: bank: a file: draw from the bank",
    "half a bank: bank/class_00003.safetensors: a bit: resume the bank",
    "half a bank: checkpoints/step_0000006: a shard of other keys: resume the bank",
    "pool: pool/manifest.json: a bit: draw from the pool",
    "pool: pool/manifest.json: every value an object: distil from the pool",
    "pool: pool/manifest.json: gone: draw from the pool",
    "pool: pool/images-0000006-00000.parquet: half: draw from the pool",
    "pool: pool: a file: draw from the pool",
    "half a pool: pool/images-0000002-00000.parquet: half: resume the pool",
    "half a pool: pool/images-0000004-00000.parquet: half: resume the pool",
    "half a pool: pool: gone: resume the pool",
    "weights: *.safetensors: a bit: evaluate without the teacher's file",
    "kept: status.json: half: evaluate without the teacher's file",
    "set: manifest.json: a directory: distil on the set",
    "set: train-00000-of-00001.parquet: a bit: distil on the set",
    "set: train-00000-of-00001.parquet: half: distil on the set",
    "set: train-00000-of-00001.parquet: a bit at 0/24: distil on the set",
    "set: train-00000-of-00001.parquet: a bit at 21/24: distil on the set",
    "logits: *.parquet: a bit: distil",
    "logits: *.parquet: a directory: distil",
    "search: study.db: half: search",
    "search: study.db: nothing: search",
    "search: search.json: depth: search",
)


LEFT_OUT = (".lock", "figures/", ".tuners/")  # nobody reads them


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_it_is_told_or_mended(store: Store, name: str) -> None:
    judge(store, CASES[name])


@pytest.mark.endurance
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in REPRESENTATIVE])
def test_whatever_is_damaged_it_is_told_or_mended(store: Store, name: str) -> None:
    judge(store, CASES[name])


def judge(store: Store, case: Case) -> None:
    outcome, fault = store.judge(case)
    assert fault is None, f"{fault} (exit code {outcome.code}):\n{outcome.told}"


@pytest.mark.parametrize(
    "place", ["finished", "teacher", "bank", "half a bank", "pool", "half a pool", "set", "search"]
)
def test_every_kind_of_file_is_tried(store: Store, place: str) -> None:
    folder = found(store.whole, PLACES[place])

    def kinds(paths: Iterable[Path]) -> set[str]:
        names = {path.relative_to(folder).as_posix() for path in paths}
        return {re.sub(r"\d+", "0", name) for name in names if not name.startswith(LEFT_OUT)}

    patterns = [re.sub(r"\d{5,}", "*", name) for name in (*FILES[place], *FILES["finished"], *FILES["half a bank"])]
    tried = {path for pattern in patterns for path in folder.glob(pattern)}  # all checkpoints are read alike
    assert kinds(path for path in folder.rglob("*") if path.is_file()) <= kinds(tried)
