"""``raykd plan``: what it prints, for a reader and for a program, and how it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.cli.plan import durations
from raykd.cluster.config import Cluster
from raykd.errors import RunFailed
from raykd.planning import on_cluster
from raykd.planning import predict as prediction
from raykd.planning import profile as trial
from raykd.recipe.experiment import Experiment
from raykd.results import Plan
from tests.cli.conftest import Raykd, WriteRecipe

CLUSTER = "workers: 2\nthreads: 1\n"


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "run_in_process", lambda task, told, site: trial.answer(task, told))
    monkeypatch.setattr(trial, "prepare_host", lambda threads: None)
    monkeypatch.setattr("raykd.planning.on_cluster.find_spec", lambda name: None)
    torch.set_num_threads(1)


def cluster(text: str = "") -> str:
    Path("mine.yaml").write_text(CLUSTER + text)
    return "./mine.yaml"


def test_a_reader_is_told_everything(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("plan", tiny(), "--cluster", cluster("price_per_hour: 2\n"))
    assert done.exit_code == 0, done.stderr
    told = dict(line.strip().split("  ", 1) for line in done.stdout.splitlines()[1:])
    assert told["workers"].strip() == "2"
    assert told["parameters, student"].strip() == "15,738"
    assert told["sent in a step"].strip() == "gradients 61.48 KiB", "2 x 1/2 of 4 bytes for each parameter"
    assert "a worker" in told["peak memory"] and " of " in told["peak memory"]
    assert "x 4 steps" in told["time"] and "x 2 reports" in told["time"] and "of CPUs" in told["time"]
    assert "to pay" in told["in all"]
    assert "on this machine (" in told["measured"]
    assert "without the network" in told["note 1"]
    assert not Path("runs").exists()


def test_one_process_and_a_program_that_reads(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("plan", tiny(), "schedule.steps=40", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (run,) = found["runs"]
    assert (found["cluster"], found["workers"], run["steps"], run["images_per_worker"]) == ("here", 1, 40, 8)
    assert run["traffic_bytes_in_all"] == 0
    assert "price" not in found["total"]
    assert run["peak_bytes"] < run["available_bytes"]


def test_an_elastic_cluster_is_planned_at_its_largest_that_fits(raykd: Raykd, tiny: WriteRecipe) -> None:
    Path("mine.yaml").write_text("workers: [1, 3]\naddress: head:6379\ngpus_per_worker: 1\n")
    found = json.loads(raykd("plan", tiny(), "--cluster", "./mine.yaml", "--json").stdout)
    assert (found["workers"], found["allowed_workers"]) == (2, [1, 2])
    assert "gpu_hours" in found["total"]
    assert found["runs"][0]["available_bytes"] is None
    assert any("expect another time" in note for note in found["notes"])
    assert any("memory_per_worker_gib is not set" in note for note in found["notes"])


def test_only_workers_that_compute_on_this_machines_cores_share_them(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    for text, shared in (("", True), ("gpus_per_worker: 1\n", False)):
        found = json.loads(raykd("plan", tiny(), "--cluster", cluster(text), "--json").stdout)
        assert any("share this machine's cores" in note for note in found["notes"]) is shared


def test_what_cannot_fit_is_refused(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("plan", tiny(), "--cluster", cluster("memory_per_worker_gib: 0.01\n"), "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "on each of 2 workers, which may use 10.24 MiB. What would fit:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["schedule.global_batch=9", "--cluster", "local"], "do not divide"),
        (["schedule.stps=1"], "schedule.steps"),
        (["--cluster", "locl"], "local"),
        (["teacher.weights=none.pt"], "none.pt"),
    ],
)
def test_slips_are_those_of_training(raykd: Raykd, tiny: WriteRecipe, arguments: list[str], word: str) -> None:
    wrong = raykd("plan", tiny(), *arguments)
    assert wrong.exit_code == 2
    assert word in wrong.stderr


@pytest.mark.parametrize(
    ("hours", "price", "told"),
    [
        (0.00356, 0.000356, ["13 s", "< 0.01 to pay at price_per_hour"]),
        (0.5, 0.5, ["30 min", "0.50 to pay at price_per_hour"]),
        (1.5, 0.0, ["90 min", "0.00 to pay at price_per_hour"]),
        (30.0, 12.345, ["30 hours", "12.35 to pay at price_per_hour"]),
        (100.0, 1.0, ["4.2 days", "1.00 to pay at price_per_hour"]),
        (1e-6, 1.0, ["< 0.1 s", "1.00 to pay at price_per_hour"]),
    ],
)
def test_times_and_prices_are_in_units_that_are_read(hours: float, price: float, told: list[str]) -> None:
    assert durations({"hours": hours, "price": price}) == told


def test_a_plan_says_what_it_is_doing(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("plan", tiny(method={"name": "noise"}))
    assert "tiny-" in done.stderr
    assert "trying a few steps on this machine: half a minute or more, 10 minutes at most" in done.stderr
    assert [line.partition(": ")[2] for line in done.stderr.splitlines() if "measuring" in line] == [
        "measuring steps of 2 images",
        "measuring steps of 8 images",
    ]


def test_numbers_of_workers_are_compared_in_a_table(raykd: Raykd, tiny: WriteRecipe) -> None:
    network = cluster("network_gbit_per_s: 10\nnetwork_latency_us: 100\n")
    done = raykd("plan", tiny(), "--cluster", network, "--workers", "1,3,4", "--json")
    found = json.loads(done.stdout)["workers"]
    assert "do not divide" in found["3"]["error"]
    (one,), (four,) = found["1"]["runs"], found["4"]["runs"]
    assert one["traffic_bytes_in_all"] == 0
    assert four["images_per_worker"] * 4 == one["images_per_worker"]
    assert four["collectives_per_step"] == 1, "the student's gradients"
    expected = 1 * 4 * 100e-6 + four["traffic_bytes_in_all"] * 8 / 10e9
    assert four["network_seconds_per_step"] == pytest.approx(expected)
    assert four["seconds_per_step"] > four["network_seconds_per_step"]
    assert four["collectives_per_report"] > 0
    table = raykd("plan", tiny(), "--workers", "1,4")
    assert "faster" in table.stdout and "1.00" in table.stdout
    assert "network_gbit_per_s in the cluster file counts it" in table.stdout


def test_a_number_of_workers_whose_trial_fails_keeps_no_other_from_the_table(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = on_cluster.plan_on

    def failing(experiment: Experiment, cluster: Cluster, **options: Any) -> Plan:
        if cluster.workers == 4:
            raise RunFailed("the trial has died")
        return own(experiment, cluster, **options)

    monkeypatch.setattr(on_cluster, "plan_on", failing)
    found = json.loads(raykd("plan", tiny(), "--workers", "1,4", "--json").stdout)["workers"]
    assert found["4"]["error"] == "the trial has died"
    assert found["1"]["runs"]


@pytest.mark.parametrize(("there", "gpus"), [(True, 1.0), (False, 0.0)])
def test_without_a_cluster_workers_are_compared_on_the_gpu_that_there_is(
    raykd: Raykd, tiny: WriteRecipe, monkeypatch: pytest.MonkeyPatch, there: bool, gpus: float
) -> None:
    """As one process without a cluster would use it: no machine of a test run has to have one."""
    asked: list[float] = []

    def refusing(experiment: Experiment, cluster: Cluster, **_: Any) -> Plan:
        asked.append(cluster.gpus_per_worker)
        raise RunFailed("not here")

    monkeypatch.setattr(on_cluster, "plan_on", refusing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    done = raykd("plan", tiny(), "--workers", "1,2")
    assert (asked, done.exit_code) == ([gpus, gpus], 1)


@pytest.mark.parametrize("counts", ["", "0", "1,x", "4,", "-2", "1000000", "1.5"])
def test_what_are_no_numbers_of_workers_is_said(raykd: Raykd, tiny: WriteRecipe, counts: str) -> None:
    done = raykd("plan", tiny(), "--workers", counts)
    assert done.exit_code == 2
    assert "is no list of numbers of workers, as in 1,8,64" in done.stderr


def test_none_of_the_numbers_fits(raykd: Raykd, tiny: WriteRecipe) -> None:
    done = raykd("plan", tiny(), "--workers", "3,7")
    assert done.exit_code == 2
    assert "do not divide" in done.stderr
