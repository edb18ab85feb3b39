"""What a run takes on the disk is known before its first step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.distributed.world import World
from raykd.engine import disk
from raykd.engine import run as engine
from raykd.engine.disk import DiskNeed, disk_need, require_space, set_bytes
from raykd.engine.run import run
from raykd.engine.synthesis import synthesize
from raykd.errors import SetupError
from raykd.files import write_json
from raykd.recipe.experiment import resolve
from raykd.store import checkpoint
from raykd.store.run_directory import RunDirectory
from raykd.store.space import size_of
from tests.golden.shrunk import shrunk

PAIRS = ["schedule.steps=8", "schedule.report_every=2", "controls=[]"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "name", ["dafl_digits", "fast_digits", "kd_digits", "lsgdfd_digits_bank", "supervised_digits_lenet5_bn"]
)
def test_the_estimate_is_what_the_folder_takes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the most, while its last checkpoint is written, and in the end."""
    needs: dict[str, DiskNeed] = {}
    peaks: dict[str, int] = {}

    def note(experiment: Any, built: Any, workspace: Any) -> None:
        needs[experiment.run_id] = disk_need(built, experiment.recipe)
        require_space(experiment, built, workspace)

    def measure(path: Path, value: Any) -> None:  # the manifest is the last file of a checkpoint
        write_json(path, value)
        run_folder = path.parents[2]
        peaks[run_folder.name] = max(peaks.get(run_folder.name, 0), size_of(run_folder))

    monkeypatch.setattr(engine, "require_space", note)
    monkeypatch.setattr(checkpoint, "write_json", measure)
    with shrunk(8, tmp_path) as (place, load):
        experiment = resolve(load(name, PAIRS))
        run(experiment, place)
        folder = place.workspace.store / experiment.run_id
        need = needs[experiment.run_id]
        assert peaks[experiment.run_id] == pytest.approx(need.total, rel=0.3)
        in_the_end = need.total - (need.checkpoint if need.checkpoints > checkpoint.KEPT else 0)
        if not need.bank:  # of whose generators none is left unfinished in the last checkpoint
            assert size_of(folder) == pytest.approx(in_the_end, rel=0.3)
        saved = max((path for path in folder.glob("checkpoints/*/*")), key=lambda path: path.stat().st_size)
        assert saved.stat().st_size == pytest.approx(need.largest, rel=0.3)
        if name == "dafl_digits":
            whole = synthesize(RunDirectory(folder), 2000, tmp_path / "made", place.workspace.data, World.alone())
            written = sum(path.stat().st_size for path in (tmp_path / "made").glob("*.parquet"))
            spec = RunDirectory(folder).data()
            assert spec is not None
            assert written == pytest.approx(set_bytes(whole.images, spec), rel=0.3)


@pytest.mark.parametrize("policy", ["warn", "rewind"])
def test_the_last_good_checkpoint_counts_where_it_must_stay(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three reports in a row each says something else against the run."""
    most, needs = 0, []

    def note(experiment: Any, built: Any, workspace: Any) -> None:
        needs.append(disk_need(built, experiment.recipe))

    def count(path: Path, value: Any) -> None:
        nonlocal most
        write_json(path, value)
        most = max(most, len(list(path.parents[1].glob("*step_*"))))

    monkeypatch.setattr(engine, "require_space", note)
    monkeypatch.setattr(checkpoint, "write_json", count)
    said = {4: ["one: 1"], 6: ["two: 2"], 8: ["one: 1"]}
    monkeypatch.setattr("raykd.engine.sentinel.find_warnings", lambda rows: said.get(rows[-1]["step"], []))
    with shrunk(8, tmp_path) as (place, load):
        run(resolve(load("supervised_digits_lenet5", [*PAIRS, f"sentinel.policy={policy}"])), place)
    assert needs[0].checkpoints == most == {"warn": 3, "rewind": 4}[policy]


def test_a_run_that_has_no_room_is_refused_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where it needs more than is free; what it has written before is not counted again."""
    free = 0
    monkeypatch.setattr("raykd.store.space.free_space", lambda folder: free)
    with shrunk(8, tmp_path) as (place, load):
        recipe = load("supervised_digits_lenet5", PAIRS)
        folder = place.workspace.store / resolve(recipe).run_id
        with pytest.raises(SetupError, match=r"^run \S+ needs about \S+ .iB, 0 B free in .*: free space, or .*--out"):
            run(resolve(recipe), place)
        assert not folder.exists(), "nothing is left of it"
        free = 10**9
        run(resolve(recipe), place)
        (folder / "status.json").unlink()
        free = disk._RECORDS_BYTES + size_of(folder) // 2
        run(resolve(recipe), place)
