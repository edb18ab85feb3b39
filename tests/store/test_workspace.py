"""Runs in an object store: gone on with by another machine, through an outage, and by machines that share no disk."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import raykd
from raykd.artifacts.bank import open_bank
from raykd.artifacts.pool_files import open_pool
from raykd.cli.app import app
from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.engine.stop import Interrupted
from raykd.engine.synthesis import make_image_sets
from raykd.errors import SetupError, UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe
from raykd.results import RunResult
from raykd.runners.train import train
from raykd.store.remote import Remote
from raykd.store.workspace import local_folder, open_workspace, pull_run
from tests.engine.test_synthetic_sets import student as frozen_student
from tests.golden.shrunk import make_data, shrunk
from tests.models.test_weights_file import sharded
from tests.object_store import Server
from tests.runners.runs import recipe, save_teacher
from tests.store.conftest import on_machine
from tests.store.two_machines import RECIPES
from tests.worker_pair import run_two_workers

BRIEF = {"steps": 4, "report_every": 4, "global_batch": 16}
HERE = Cluster(name="here", workers=0)


def trained(what: Recipe, store: str | Path, after: int | None = None, data: str | None = None) -> RunResult:
    """Train, asking to stop once so many checkpoints were written."""
    folder = local_folder(store) / resolve(what).run_id / "checkpoints"

    def enough() -> bool:
        return after is not None and len(list(folder.glob(f"step_*{after}"))) > 0

    return train(resolve(what), HERE, store=store, data_root=data, should_stop=enough)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "student.safetensors")


def test_another_machine_goes_on_to_the_same_bits(
    server: Server, machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"{server.scheme}://{server.new_bucket()}/runs"
    schedule = {"steps": 20, "report_every": 5, "global_batch": 16}
    what = recipe(save_teacher(tmp_path / "teacher.safetensors"), schedule=schedule)
    monkeypatch.setattr("raykd.engine.stop._SECONDS_BETWEEN", 0)
    whole = trained(what, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        trained(what, store, after=10)
    told = json.loads(Remote(store).read(f"{resolve(what).run_id}/status.json") or b"")
    assert told["state"] == "interrupted"
    there = server.files(f"{store}/{resolve(what).run_id}")
    assert {"status.json", "recipe.yaml", "metrics.jsonl"} <= there
    assert not {path for path in there if path.startswith(".")}
    assert len({path.split("/")[1] for path in there if path.startswith("checkpoints/")}) == 2
    on_machine("b", tmp_path, monkeypatch)
    result = trained(what, store)
    assert result.last == whole.last
    run = local_folder(store) / resolve(what).run_id
    expected = tensors(tmp_path / "undisturbed" / resolve(what).run_id)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(run).items())
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == [5, 10, 15, 20], "those of before the stop among them"
    on_machine("c", tmp_path, monkeypatch)
    caplog.set_level("INFO")
    on_ray = Cluster(name="ray", address="127.0.0.1:1", workers=2)
    again = train(resolve(what), on_ray, store=store, data_root=None, should_stop=lambda: False)
    assert again == result, "read, not trained again, for which no Ray is needed"
    assert "finished already: reading its result" in caplog.text
    assert not list((local_folder(store) / resolve(what).run_id / "checkpoints").glob("*/state.pt")), (
        "nor are checkpoints brought"
    )


def test_a_student_that_is_gone_from_the_store_is_trained_where_the_cluster_says(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = recipe(save_teacher(tmp_path / "teacher.safetensors"), schedule=BRIEF)
    trained(what, store)
    Remote(store).remove_file(f"{resolve(what).run_id}/student.safetensors")
    on_machine("b", tmp_path, monkeypatch)
    on_ray = Cluster(name="ray", address="127.0.0.1:1", workers=2)
    with pytest.raises(SetupError, match="nothing answers at 127.0.0.1:1"):
        train(resolve(what), on_ray, store=store, data_root=None, should_stop=lambda: False)


def test_a_front_in_the_store_is_the_latest_one(store: str, s3: Server) -> None:
    """Recipes of trials that others have beaten do not stay, nor does the folder's other content go."""
    workspace, alone = open_workspace(store, None), World.alone()
    folder = workspace.store / "searches/made-0"
    folder.mkdir(parents=True)
    for name in ("search.json", "best-1.yaml", "best-2.yaml", "best.yaml", "study.db"):
        (folder / name).write_text("{}")
    workspace.push("searches/made-0", alone)
    for name in ("best-1.yaml", "best.yaml"):
        (folder / name).unlink()
    workspace.push("searches/made-0", alone)
    assert s3.files(f"{store}/searches/made-0") == {"search.json", "best-2.yaml", "best.yaml", "study.db"}


def test_a_run_survives_an_outage(store: str, s3: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    schedule = {"steps": 9, "report_every": 3, "global_batch": 16}
    what = recipe(save_teacher(tmp_path / "teacher.safetensors"), schedule=schedule)
    run = local_folder(store) / resolve(what).run_id

    def cut() -> None:
        while not list(run.glob("checkpoints/step_*")):
            pass
        s3.stop()
        threading.Timer(2, s3.start).start()

    threading.Thread(target=cut).start()
    result = trained(what, store)
    assert "trying again" in caplog.text
    told = Remote(store).read(f"{resolve(what).run_id}/status.json")
    assert json.loads(told or b"")["result"] == result.to_dict()


def test_evaluate_reads_an_address(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = recipe(save_teacher(tmp_path / "teacher.safetensors"), schedule=BRIEF)
    result = trained(what, store)
    on_machine("b", tmp_path, monkeypatch)
    done = CliRunner().invoke(app, ["evaluate", f"{store}/{resolve(what).run_id}", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["accuracy/top1"] == pytest.approx(result.student.top1)
    assert found["directory"] == f"{store}/{resolve(what).run_id}"
    with pytest.raises(UsageError, match=r"elsewhere-s0 is no run; give what"):
        pull_run(f"{store}/elsewhere-s0", None)


@pytest.mark.parametrize("options", [("--format", "onnx", "--int8"), ("--format", "safetensors")], ids=" ".join)
def test_export_reads_an_address(
    options: tuple[str, ...], store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = recipe(save_teacher(tmp_path / "teacher.safetensors"), schedule=BRIEF)
    result = trained(what, store)
    on_machine("b", tmp_path, monkeypatch)
    out = tmp_path / "export"
    done = CliRunner().invoke(app, ["export", f"{store}/{result.run}", *options, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["run"], found["compared_on"]) == (result.run, "digits/test")
    assert found["model"]["accuracy/top1"] == pytest.approx(result.student.top1)
    if "--int8" in options:
        assert result.run in found["calibrated_on"], "its generator was brought"
    assert (out / found["model"]["file"]).is_file()
    refused = CliRunner().invoke(app, ["export", f"{store}/elsewhere-s0", "--out", str(tmp_path / "none")])
    assert refused.exit_code == 2
    assert "elsewhere-s0 is no run" in refused.stderr


def test_machines_that_share_no_disk_train_one_bank(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_two_workers("tests.store.two_machines", store, tmp_path / "shared", "lsgdfd_digits_bank", LOCAL_RANK="0")
    on_machine("reader", tmp_path, monkeypatch)
    with shrunk(4, tmp_path / "alone") as (_, load):
        run_id = resolve(load("lsgdfd_digits_bank", RECIPES["lsgdfd_digits_bank"])).run_id
    directory, _ = pull_run(f"{store}/{run_id}", None)
    assert json.loads((directory.path / "status.json").read_text())["state"] == "finished"
    assert len(open_bank(directory).load(range(10)).classes) == 10


@pytest.mark.endurance
@pytest.mark.slow
def test_machines_that_share_no_disk_fill_one_pool(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sends its own part, once, and takes what it lacks when the run goes on elsewhere."""
    run_two_workers("tests.store.two_machines", store, tmp_path / "shared", "fast_digits", LOCAL_RANK="0")
    on_machine("reader", tmp_path, monkeypatch)
    with shrunk(4, tmp_path / "alone") as (_, load):
        run_id = resolve(load("fast_digits", RECIPES["fast_digits"])).run_id
    there = Remote(store).entries(f"{run_id}/pool")
    parts = [f"images-{step:07d}-{rank:05d}.parquet" for step in (2, 4) for rank in (0, 1)]
    assert sorted(there) == [*parts, "manifest.json"]
    directory, _ = pull_run(f"{store}/{run_id}", None)
    assert [path.name for path in directory.pool.iterdir()] == ["manifest.json"], "who evaluates needs no images"
    directory, _ = pull_run(f"{store}/{run_id}", None, checkpoints="all")
    numbers = torch.cat([part.numbers for part in open_pool(directory).parts()])
    assert sorted(numbers.tolist()) == list(range(4 * 16))


def test_a_frozen_set_is_made_by_one_machine_and_read_by_another(
    store: str, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = frozen_student(images=40)
    assert first.bank is not None
    trained(first, store)
    (images,) = resolve(first).image_sets
    name = images.name
    files = s3.files(f"{store}/{name}")
    assert "manifest.json" in files
    assert any(file.endswith(".parquet") for file in files)
    on_machine("b", tmp_path, monkeypatch)
    assert make_image_sets(resolve(first), World.alone(), open_workspace(store, None)) == 0, "no image is made again"
    other = first.model_copy(update={"seed": 1})
    result = trained(other, store)
    assert result.data_opened["synthetic"] == [f"{local_folder(store) / name}/train"]


def test_data_come_from_an_object_store(store: str, s3: Server, tmp_path: Path) -> None:
    make_data("usps", tmp_path / "data")
    bucket = s3.new_bucket()
    remote = Remote(f"s3://{bucket}/data")
    for path in (tmp_path / "data").rglob("*.parquet"):
        remote.push(path, path.relative_to(tmp_path / "data").as_posix())
    remote.push(save_teacher(tmp_path / "teacher.safetensors"), "weights/teacher.safetensors")
    what = recipe(
        Path("weights/teacher.safetensors"),
        data={"name": "usps", "size": 32},
        schedule=BRIEF,
    )
    shutil.rmtree(tmp_path / "data")
    for _ in range(2):
        result = trained(what, tmp_path / "runs", data=f"s3://{bucket}/data")
        assert result.data_opened["test"] == ["usps/test"]
    held = sorted(path.name for path in (local_folder(f"s3://{bucket}/data") / "usps").glob("*.parquet"))
    assert held == ["test-00000-of-00001.parquet"], "no image that nobody opens is brought"


def test_weights_in_several_files_come_from_an_object_store(s3: Server, machine: None, tmp_path: Path) -> None:
    make_data("usps", tmp_path / "data")
    address = f"s3://{s3.new_bucket()}/data"
    index = sharded(tmp_path, load_file(save_teacher(tmp_path / "teacher.safetensors")))
    for path in [*(tmp_path / "data").rglob("*.parquet"), index, *tmp_path.glob("model-*.safetensors")]:
        place = path.relative_to(tmp_path / "data") if path.suffix == ".parquet" else Path("weights", path.name)
        Remote(address).push(path, place.as_posix())
    what = recipe(Path("weights", index.name), data={"name": "usps", "size": 32}, schedule=BRIEF)
    assert trained(what, tmp_path / "runs", data=address).student.step == BRIEF["steps"]


def test_eight_bits_are_calibrated_on_a_train_split_of_an_object_store(
    s3: Server, machine: None, tmp_path: Path
) -> None:
    make_data("usps", tmp_path / "data")
    address = f"s3://{s3.new_bucket()}/data"
    for path in (tmp_path / "data").rglob("*.parquet"):
        Remote(address).push(path, path.relative_to(tmp_path / "data").as_posix())
    what = recipe(
        save_teacher(tmp_path / "teacher.safetensors"),
        data={"name": "usps", "size": 32},
        method={"name": "kd"},
        schedule=BRIEF,
    )
    trained(what, tmp_path / "runs", data=address)
    shutil.rmtree(local_folder(address))
    shutil.rmtree(tmp_path / "data")
    made = raykd.export(tmp_path / "runs" / resolve(what).run_id, tmp_path / "out", int8=True, data_root=address)
    assert made.calibrated_on is not None and made.calibrated_on.startswith("usps/train, ")
    assert made.compared_on == "usps/test"
