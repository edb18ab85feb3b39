"""A run that begins with what another has done, if that is whole and nothing has begun here."""

from dataclasses import replace
from pathlib import Path

import pytest

from raykd.engine.run import run
from raykd.engine.stop import Interrupted
from raykd.recipe.experiment import resolve
from raykd.store.fork import fork
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.engine.killed import RECIPES
from tests.engine.test_fit import CHANGES, trained
from tests.engine.test_run import assert_same_run
from tests.golden.shrunk import shrunk


def test_nothing_is_inherited_from_a_damaged_checkpoint(tmp_path: Path) -> None:
    donor, heir = trained(tmp_path, CHANGES, until=4), tmp_path / "heir"
    (donor / "checkpoints/step_0000004/state.pt").write_bytes(b"torn")
    assert not fork(RunDirectory(heir), RunDirectory(donor), 4)
    assert not fork(RunDirectory(heir), RunDirectory(donor), 6), "it never was there"
    assert not heir.exists()


def test_whoever_goes_on_from_a_run_that_went_back_goes_on_as_it_did(tmp_path: Path) -> None:
    donor, heir = RunDirectory(trained(tmp_path, CHANGES, until=4)), RunDirectory(tmp_path / "heir")
    rewinds = [{"to": to, "cause": "of the test"} for to in (2, 4)]  # the second is behind what the heir takes over
    donor.write_status(rewinds=rewinds)
    assert fork(heir, donor, 4)
    assert heir.status()["rewinds"] == rewinds[:1]


def test_who_has_begun_inherits_nothing(tmp_path: Path) -> None:
    donor = trained(tmp_path, CHANGES, until=4)
    heir = trained(tmp_path / "other", CHANGES, until=2)
    assert fork(RunDirectory(heir), RunDirectory(donor), 4)
    assert [path.name for path in (heir / "checkpoints").iterdir()] == ["step_0000002"]


def test_the_images_that_a_checkpoint_names_are_inherited_with_it(tmp_path: Path) -> None:
    with shrunk(2, tmp_path) as (place, load):
        experiment = resolve(load("fast_digits", [*RECIPES["fast_digits"], "schedule.steps=8"]))
        other = replace(place, workspace=Workspace(place.workspace.data, tmp_path / "heirs"))
        donor, heir = (one.workspace.run(experiment.run_id) for one in (place, other))
        with pytest.raises(Interrupted):
            run(experiment, replace(place, until=6))
        assert fork(heir, donor, 4)
        assert [path.name for path in sorted(heir.pool.iterdir())] == [
            f"images-{step:07d}-00000.parquet" for step in (2, 4)
        ]
        for context in (place, other):
            run(experiment, context)
    assert_same_run(heir.path, donor.path)
