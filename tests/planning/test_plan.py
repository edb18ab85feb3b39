"""What a plan foretells: laws of two trials, figures known by hand, what is refused and what is offered instead."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raykd.config.runtime import Runtime
from raykd.distributed.simulated import SimulatedWorld
from raykd.methods.cost import CostAxis, PlannedRun, by_images_of_members, by_members
from raykd.methods.noise import Noise
from raykd.models import build_model
from raykd.planning import predict as prediction
from raykd.planning import profile as trial
from raykd.planning.plan import DoesNotFit, WorkerBudget, gib, plan
from raykd.planning.predict import Line, TrialSite, fit_line, predict
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.store.workspace import Workspace

HALF = 78 + 608 + 12_060 + 2_562 + 430  # LeNet-5-half: convolutions 1-3-8-60 of 5 x 5, layers 60-42-10
WHOLE = 156 + 2_416 + 48_120 + 10_164 + 850  # LeNet-5: 1-6-16-120, 120-84-10
GIB = 2**30
FREE = WorkerBudget(workers=1, memory=None, gpus=0, cpus=1, price=None)


def recipe(**sections: Any) -> Recipe:
    content = {
        "name": "tiny",
        "data": {"name": "digits", "test": False},
        "teacher": {"model": "lenet5", "weights": "teacher.safetensors"},
        "student": {"model": "lenet5_half"},
        "method": {"name": "noise"},
        "student_optim": {"name": "adam", "lr": 1e-3},
        "schedule": {"steps": 400, "report_every": 50, "global_batch": 512},
    }
    return recipe_from_dict({**content, **sections})


def site(tmp_path: Path, workers: int = 1) -> TrialSite:
    return TrialSite(Workspace(None, tmp_path), workers)


def tried(told: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe that a trial is asked to try."""
    recipe: dict[str, Any] = told["experiment"]["runs"][told["experiment"]["run"]]["recipe"]
    return recipe


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trials in this process: everything but the peaks of memory means the same."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    monkeypatch.setattr(prediction, "run_in_process", lambda task, told, site: trial.answer(task, told))
    monkeypatch.setattr(trial, "prepare_host", lambda threads: None)
    torch.set_num_threads(1)


Told = Mapping[str, Any]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trials by formula: 0.1 s and 1 GiB, plus 0.01 s and 100 MiB for each member or image. Returns sizes tried."""
    asked: list[int] = []

    def answer(task: str, told: Told, site: TrialSite) -> dict[str, Any]:
        if task == "prepare":
            return {"experiment": told["experiment"], "placeholders": []}
        by_class = Noise.sharded_by == "classes"
        size = tried(told)["schedule"]["global_batch"] // site.workers
        if by_class:
            size = told["runtime"]["wave"] or 10
        if told["steps"]:
            asked.append(size)
        grown = 100 * 2**20 * size
        return {
            "device": "a machine",
            "on_gpu": False,
            "parameters": {"student": 50},
            "trained": {"student": 50},
            "classes": 40,
            "total_steps": tried(told)["schedule"]["steps"] * (-(-40 // (size * site.workers)) if by_class else 1),
            "built": GIB,
            "seconds": 0.1 + 0.01 * size,
            "cpu_seconds": 0.06 + 0.006 * size,
            "report_seconds": 0.5,
            "optimizer": 8 * 50,
            "steps_peak": GIB + grown,
            "report_peak": GIB + grown // 2,
            "checkpoint": 1000,
            "traffic": {"gradients": 200, "exchanged": 4 * size},
            "test_missing": None,
        }

    monkeypatch.setattr(prediction, "run_in_process", answer)
    return asked


def test_a_line_through_two_points_grows_and_never_falls() -> None:
    assert fit_line([(2, 5.0), (4, 9.0)]) == Line(1.0, 2.0)
    assert fit_line([(2, 5.0)]) == Line(5.0, 0.0)
    assert fit_line([(2, 5.0), (4, 4.0)]) == Line(4.0, 0.0), "noise is no saving"
    assert fit_line([(2, 1.0), (4, 9.0)]) == Line(0.0, 2.25), "nothing starts below zero"
    assert fit_line([(2, 5.0), (4, 9.0)]).fits(21.5) == 10
    assert fit_line([(2, 5.0), (4, 9.0)]).fits(0.5) == 0


@pytest.mark.parametrize(("amount", "told"), [(3 * GIB, "3.00 GiB"), (1.5 * 2**20, "1.50 MiB"), (80, "80 B")])
def test_bytes_for_a_reader(amount: float, told: str) -> None:
    assert gib(amount) == told


def test_one_worker_plays_four_and_counts() -> None:
    world = SimulatedWorld(0, 4, torch.device("cpu"))
    tensor = torch.ones(10, requires_grad=True)
    assert torch.equal(world.sum(tensor), torch.full((10,), 4.0))
    assert world.sent == {"gradients": 60}, "2 x 3/4 of 40 bytes"
    world.mean(tensor).sum().backward()
    assert torch.equal(tensor.grad if tensor.grad is not None else tensor, torch.ones(10))
    assert world.sent["batch_terms"] == 120, "the gradient takes the way back"
    assert world.gather(torch.zeros(2)).shape == (4, 2)
    assert world.sent["gathered"] == 24
    arrived = world.exchange(torch.arange(6.0).view(3, 2), [1, 2, 0, 0], [1, 1, 1, 2])
    assert torch.equal(arrived[:, 0], torch.tensor([0.0, 2, 4, 0, 2]))
    assert world.sent["exchanged"] == 2 * 8, "its own row stays"
    assert world.exchange(torch.empty(0, 2), [0] * 4, [0, 1, 0, 0]).shape == (1, 2)
    assert world.share(8) == 2


def test_classes_that_one_has_are_followed_by_the_others() -> None:
    held = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])
    table = SimulatedWorld(0, 3, torch.device("cpu")).gather(held)
    assert torch.equal(table[1], torch.tensor([0, 0, 0, 1, 1, 1, 0, 0]))
    assert table.sum(0).min() == 1
    assert SimulatedWorld(0, 3, torch.device("cpu")).gather(torch.ones(8, dtype=torch.int64)).all()


@pytest.mark.usefixtures("in_process")
def test_figures_of_a_small_recipe_are_those_reckoned_by_hand(tmp_path: Path) -> None:
    found = plan(resolve(recipe()), Runtime(), site(tmp_path, 4), WorkerBudget(4, None, 0, 2, 3.0)).to_dict()
    (run,) = found["runs"]
    assert run["images_per_worker"] == 128
    assert run["parameters"] == {"student": HALF, "teacher": WHOLE} == {"student": 15_738, "teacher": 61_706}
    assert run["trained_parameters"] == HALF
    assert run["optimizer_bytes"] == 2 * 4 * HALF + 4 * 10, "two moments, and a counter for each of ten tensors"
    assert run["traffic_bytes"]["gradients"] == round(2 * 3 / 4 * 4 * HALF)
    assert run["checkpoint_bytes"] > 5 * 4 * HALF, "last, blind and best student, two moments"
    assert (run["steps"], run["reports"]) == (400, 8)
    assert found["total"]["hours"] == pytest.approx(
        (400 * run["seconds_per_step"] + 8 * run["seconds_per_report"]) / 3600
    )
    assert found["total"]["cpu_hours"] == pytest.approx(8 * found["total"]["hours"])
    assert found["total"]["price"] == pytest.approx(12 * found["total"]["hours"])
    assert not list(tmp_path.glob("tiny-*")), "a plan leaves nothing in the store"


@pytest.mark.usefixtures("in_process")
def test_runs_that_are_not_there_are_planned_too_and_stood_in_for(tmp_path: Path) -> None:
    one = recipe(teacher={"recipe": "supervised_digits_lenet5"}, schedule={**SHORT, "global_batch": 16})
    found = plan(resolve(one), Runtime(), site(tmp_path), FREE).to_dict()
    teacher, own = found["runs"]
    assert teacher["parameters"] == {"student": WHOLE}
    assert own["notes"][0] == f"run {teacher['run']} is not there: random weights stand in for its network"
    assert found["total"]["hours"] == teacher["hours"] + own["hours"]
    folder = tmp_path / teacher["run"]
    folder.mkdir()
    (folder / "status.json").write_text('{"state": "finished", "result": {}}')
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), folder / "student.safetensors")
    teacher, own = plan(resolve(one), Runtime(), site(tmp_path), FREE).to_dict()["runs"]
    assert teacher == {"run": folder.name, "state": "finished"}
    assert not any("stand in" in note for note in own["notes"])


SHORT = {"steps": 4, "report_every": 2}


def test_a_dear_size_is_foretold_and_a_cheap_one_is_tried(tmp_path: Path, made_up: list[int]) -> None:
    found = predict(resolve(recipe()), Runtime(), site(tmp_path), tmp_path / "a", memory=None)
    assert made_up == [64, 128], "0.74 s, and 8 times that for each of 7 steps"
    assert found.at("seconds") == pytest.approx(0.1 + 0.01 * 512)
    assert found.peak() == GIB + 512 * 100 * 2**20
    small = recipe(schedule={**SHORT, "global_batch": 32})
    assert set(predict(resolve(small), Runtime(), site(tmp_path), tmp_path / "b", memory=None).trials) == {8, 32}
    assert set(predict(resolve(small), Runtime(), site(tmp_path), tmp_path / "c", memory=4 * GIB).trials) == {8, 16}, (
        "no room"
    )
    assert set(
        predict(resolve(small), Runtime(), site(tmp_path), tmp_path / "d", memory=None, direct=False).trials
    ) == {8, 16}


def shard_by_classes(monkeypatch: pytest.MonkeyPatch, axis: Callable[[PlannedRun], CostAxis]) -> None:
    monkeypatch.setattr(Noise, "sharded_by", "classes")
    monkeypatch.setattr(Noise, "cost_axis", lambda config, run: axis(run))


def test_waves_and_their_time(tmp_path: Path, made_up: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    shard_by_classes(monkeypatch, by_members)
    found = plan(resolve(recipe(schedule={"steps": 400, "report_every": 100, "global_batch": 160})), Runtime(wave=12),
                 site(tmp_path, 2), WorkerBudget(2, None, 1, 1, None)).to_dict()  # fmt: skip
    (run,) = found["runs"]
    assert (run["waves"], run["wave"], run["classes_per_worker"]) == (2, 10, 20), "40 classes, 24 at once"
    assert (run["images_per_class"], run["images_per_worker"]) == (4, 40)
    assert run["seconds_per_step"] == pytest.approx(0.2)
    assert "of 0.2 s a step, 0.12 s were the processor's" in run["notes"][-1]
    assert (run["steps"], run["reports"]) == (800, 8)
    assert found["total"] == {"hours": pytest.approx(164 / 3600), "gpu_hours": pytest.approx(328 / 3600)}


def refusal(tmp_path: Path, one: Recipe, budget: WorkerBudget, runtime: Runtime = Runtime()) -> str:  # noqa: B008
    with pytest.raises(DoesNotFit) as caught:
        plan(resolve(one), runtime, site(tmp_path, budget.workers), budget)
    return str(caught.value)


@pytest.mark.usefixtures("made_up")
def test_what_does_not_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    one = recipe(schedule={**SHORT, "global_batch": 64})
    told = refusal(tmp_path, one, WorkerBudget(2, 2 * GIB + 1, 0, 1, None))
    assert "needs 4.12 GiB on each of 2 workers, which may use 2.00 GiB" in told
    assert "8 workers; schedule.global_batch=20 (now 64); perhaps precision: bf16" in told
    assert "bf16" not in refusal(tmp_path, one, WorkerBudget(1, 2 * GIB, 0, 1, None), Runtime(precision="bf16"))
    assert "workers with more memory" in refusal(
        tmp_path, one, WorkerBudget(1, GIB, 0, 1, None), Runtime(precision="bf16")
    )


@pytest.mark.usefixtures("made_up")
def test_a_wave_too_large_is_refused_with_one_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard_by_classes(monkeypatch, by_members)
    one = recipe(schedule={**SHORT, "global_batch": 80})
    told = refusal(tmp_path, one, WorkerBudget(1, GIB + 600 * 2**20, 0, 1, None), Runtime(wave=20))
    assert "wave: 6 in the cluster file (now 20); 7 workers for a single wave" in told


@pytest.mark.usefixtures("made_up")
def test_members_that_learn_together_are_tried_with_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard_by_classes(monkeypatch, by_images_of_members)
    answer = prediction.run_in_process

    def together(task: str, told: Told, where: TrialSite) -> dict[str, Any]:
        images = tried(told)["schedule"]["global_batch"] // 40
        found = answer(task, told, where)
        return {**found, "seconds": 1.0 + images} if task == "measure" else found

    monkeypatch.setattr(prediction, "run_in_process", together)
    one = recipe(schedule={"steps": 400, "report_every": 100, "global_batch": 40 * 64})
    found = predict(resolve(one), Runtime(wave=40), site(tmp_path), tmp_path / "a", memory=None)
    axis = found.axis
    assert (axis.counts, axis.planned, axis.members, axis.stages) == ("images of a member", 64, 40, (64,))
    assert sorted(found.trials) == [8, 16]
    assert axis.smaller(20) == ["schedule.global_batch=800 (now 2560)"]
    assert axis.smaller(1) == []
    assert found.at("seconds") == pytest.approx(65)


@pytest.mark.usefixtures("made_up")
def test_a_bank_too_large_to_copy_is_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = prediction.run_in_process

    def with_bank(task: str, told: Told, where: TrialSite) -> dict[str, Any]:
        found = answer(task, told, where)
        bank = {"mode": "copy", "members": 40, "bytes": GIB // 2, "dtype": "float32"}
        return {**found, "bank": bank} if task == "measure" else found

    monkeypatch.setattr(prediction, "run_in_process", with_bank)
    one = recipe(schedule={**SHORT, "global_batch": 32})
    told = refusal(tmp_path, one, WorkerBudget(4, round(1.5 * GIB), 0, 1, None))
    assert "bank: exchange in the cluster file (1.41 GiB) instead of a copy" in told
    (run,) = plan(resolve(one), Runtime(), site(tmp_path, 4), WorkerBudget(4, 2 * GIB, 0, 1, None)).to_dict()["runs"]
    assert run["bank"]["mode"] == "copy"
    assert run["traffic_bytes"] == {"exchanged": 32, "gradients": 200}


def test_a_trial_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    one = recipe(schedule={**SHORT, "global_batch": 64})
    found = prediction.measure(resolve(one), Runtime(threads=1), site(tmp_path), tmp_path / "a", 2)
    assert found["steps_peak"] >= found["built"] > 100 * 2**20, "libraries and all"
    assert found["cpu_seconds"] > 0


@pytest.mark.endurance
@pytest.mark.slow
def test_time_and_memory_of_real_processes_are_foretold_roughly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(build_model("lenet5", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    one = recipe(schedule={**SHORT, "global_batch": 4096})
    runtime = Runtime(threads=1)
    predicted = predict(resolve(one), runtime, site(tmp_path), tmp_path / "a", memory=None, direct=False)
    assert sorted(predicted.trials) == [512, 1024]
    measured = prediction.measure(resolve(one), runtime, site(tmp_path), tmp_path / "a", 5)
    assert 0.5 < predicted.at("cpu_seconds") / measured["cpu_seconds"] < 2
    grown = predicted.at("steps_peak") - predicted.at("built"), measured["steps_peak"] - measured["built"]
    assert 0.5 < grown[0] / grown[1] < 2
    assert predicted.peak() > 200 * 2**20, "a whole process, libraries and all"
