"""Whole runs on the device, and what is done with them: bit for bit those of the processor, whatever they make."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import raykd
from raykd.distributed.world import World
from raykd.engine.finite import FiniteGuard
from raykd.engine.run import RunContext, run
from raykd.engine.stop import Interrupted
from raykd.generators import bank
from raykd.methods import METHODS
from raykd.methods.base import Metrics
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.store.run_directory import RunDirectory
from tests.accelerator.device import accelerator
from tests.golden.shrunk import Load, make_data, shrunk
from tests.methods.toy import assert_same

STEPS = 4
SHORT = [f"schedule.steps={STEPS}", "schedule.report_every=2", "controls=[]"]
RECIPES = (
    "label_smoothing_digits", "kd_digits", "tfkd_self_digits", "tfkd_reg_digits", "blind_kd_mnist", "noise_digits",
    "dafl_digits", "lsgdfd_digits", "lsgdfd_single_digits_bank", "mosaickd_mnist", "fast_digits", "dfad_digits",
    "cda_digits_images",
)  # fmt: skip
RESUMED = ("dafl_digits", "lsgdfd_digits_bank", "fast_digits", "cda_digits_images")
MEASURED = ("gpu_hours", "seconds", "phases")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def small(root: Path, where: str) -> Iterator[tuple[RunContext, Load]]:
    """Give a store on a device that is there, with packaged recipes at a size for tests."""
    # A bank makes more images at once on a device, which rounds otherwise.
    at_once = mock.patch.dict(bank._AT_ONCE, cuda=bank._AT_ONCE["cpu"])
    with shrunk(STEPS, root) as (context, load), at_once:
        yield replace(context, world=World.alone(where)), load


def trained(root: Path, name: str, where: str, until: int | None = None) -> Path:
    """Train a recipe, and what it builds on; return its directory."""
    # In both places it is watched: torch derives some gradients by other operations then, which round otherwise.
    with accelerator() as device, small(root, where) as (context, load):
        experiment = resolve(load(name, SHORT))
        if until is None:
            run(experiment, context)
        else:
            with pytest.raises(Interrupted):
                run(experiment, replace(context, until=until))
        assert device.faults == []
        return context.workspace.store / experiment.run_id


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each device trains, teachers once for all recipes."""
    return {where: tmp_path_factory.mktemp(where) for where in ("cpu", "cuda")}


def rows(directory: Path) -> list[dict[str, Any]]:
    reports = RunDirectory(directory).rows()
    return [{k: v for k, v in row.items() if not k.endswith("_per_second")} for row in reports]


def result(directory: Path) -> dict[str, Any]:
    return {k: v for k, v in RunDirectory(directory).status()["result"].items() if k not in MEASURED}


def experiments(names: tuple[str, ...]) -> Iterator[Experiment]:
    for name in names:
        experiment = resolve(load_recipe(name))
        yield from (experiment, *experiment.sources)


def test_every_method_is_run() -> None:
    assert {experiment.recipe.method.name for experiment in experiments(RECIPES)} == set(METHODS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_there_is_the_run_here(name: str, stores: dict[str, Path]) -> None:
    here, there = (trained(stores[where], name, where) for where in ("cpu", "cuda"))
    assert rows(there) == rows(here)
    assert result(there) == result(here)
    for kind in ("**/*.safetensors", "samples/*.png", "*.parquet"):
        files = sorted(path.relative_to(here) for path in here.glob(kind))
        assert [file for file in files if (there / file).read_bytes() != (here / file).read_bytes()] == []
    environment = RunDirectory(there).environment()
    assert (environment["gpu"], RunDirectory(here).environment()["gpu"]) == ("pretended device", None)
    assert RunDirectory(there).status()["result"]["gpu_hours"] >= 0


@pytest.mark.parametrize("name", ["dafl_digits", "kd_digits"])
def test_between_two_reports_only_the_polls_for_a_stop_wait(
    name: str, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(stores["cuda"], name, "cuda")  # its teacher is there
    shutil.copytree(stores["cuda"], tmp_path / "store")
    between: list[list[str]] = []
    note = FiniteGuard.note
    with accelerator() as device, small(tmp_path / "store", "cuda") as (context, load):

        def look(self: FiniteGuard, losses: Metrics) -> None:
            note(self, losses)
            between.append([sync.where.partition(":")[0] for sync in device.syncs])
            device.syncs.clear()

        monkeypatch.setattr(FiniteGuard, "note", look)
        run(resolve(load(name, ["schedule.steps=12", "schedule.report_every=12", "controls=[]"])), context)
    assert len(between) == 12
    assert {where for steps in between[2:] for where in steps} <= {"raykd/engine/finite.py"}
    assert sum(map(len, between[2:])) <= 10, "and not at every step"


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_there_as_if_nothing_had_happened(name: str, stores: dict[str, Path], tmp_path: Path) -> None:
    whole = trained(stores["cuda"], name, "cuda")
    trained(tmp_path, name, "cuda", until=2)
    ours = trained(tmp_path, name, "cuda")
    assert (rows(ours), result(ours)) == (rows(whole), result(whole))
    for file in whole.glob("*.safetensors"):
        assert_same(load_file(ours / file.name), load_file(file))


def test_a_run_that_began_on_the_processor_ends_on_the_device(stores: dict[str, Path], tmp_path: Path) -> None:
    whole = trained(stores["cuda"], "dafl_digits", "cuda")
    trained(tmp_path, "dafl_digits", "cpu", until=2)
    ours = trained(tmp_path, "dafl_digits", "cuda")
    assert (rows(ours), result(ours)) == (rows(whole), result(whole))


def test_what_is_done_with_runs_and_teachers_gives_the_same_there(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("dafl_digits", "lsgdfd_digits_bank", "fast_digits", "supervised_digits_lenet5_bn")
    student, generators, pool, teacher = (trained(stores["cuda"], name, "cuda") for name in names)
    data = stores["cuda"] / "data"
    make_data("mnist", data)
    answers: dict[str, list[Any]] = {"cpu": [], "cuda": []}
    for where, found in answers.items():
        with accelerator() as device, small(tmp_path / "store", where), monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda where=where: where == "cuda")
            assert World.current().device.type == where
            found.append(raykd.evaluate(student, data_root=data))
            found.append(raykd.inspect(teacher, data_root=data))
            ranking = raykd.ood(teacher, "mnist", data_root=data, images=10, out=f"{where}.parquet")
            measured = raykd.statistics(teacher, per_class=4, out=f"{where}.safetensors", data_root=data)
            exported = raykd.export(student, f"{where}-export", format="safetensors", data_root=data)
            found += [replace(ranking, file=""), replace(measured, file=""), replace(exported, folder="")]
            for one in (student, generators, pool):
                made = raykd.synthesize(one, 20, f"{where}-{one.name}", data_root=data)
                found.append(replace(made, set="", folder=""))
            assert raykd.report(student, out=f"{where}.html", data_root=data).is_file()
            assert device.faults == []
            assert bool(device.syncs) == (where == "cuda"), "it was used"
    assert answers["cuda"] == answers["cpu"]
    for path in [*Path().glob("cuda*.safetensors"), *Path().glob("cuda*/*.safetensors")]:
        assert_same(load_file(path), load_file(str(path).replace("cuda", "cpu", 1)))
    for path in [*Path().glob("cuda*.parquet"), *Path().glob("cuda*/*.parquet")]:
        assert pq.read_table(path).equals(pq.read_table(str(path).replace("cuda", "cpu", 1)))
    assert len([*Path().glob("cuda*/**/*.*"), *Path().glob("cuda*.*")]) > 8, "there is something to compare"
