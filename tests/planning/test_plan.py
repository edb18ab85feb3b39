"""What a plan foretells: figures known by hand, what is refused and what is offered instead."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from raykd.config.runtime import Runtime
from raykd.files import gib
from raykd.methods.cost import by_members
from raykd.models import build_model
from raykd.planning import predict as prediction
from raykd.planning.plan import DoesNotFit, WorkerBudget, plan
from raykd.planning.predict import TrialSite
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe
from tests.planning.tiny import GIB, SHORT, Told, recipe, shard_by_classes, site

HALF = 78 + 608 + 12_060 + 2_562 + 430  # LeNet-5-half: convolutions 1-3-8-60 of 5 x 5, layers 60-42-10
WHOLE = 156 + 2_416 + 48_120 + 10_164 + 850  # LeNet-5: 1-6-16-120, 120-84-10
FREE = WorkerBudget(workers=1, memory=None, gpus=0, cpus=1, price=None)


@pytest.mark.parametrize(("amount", "told"), [(3 * GIB, "3.00 GiB"), (1.5 * 2**20, "1.50 MiB"), (80, "80 B")])
def test_bytes_for_a_reader(amount: float, told: str) -> None:
    assert gib(amount) == told


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
    assert 3 * run["checkpoint_bytes"] < run["disk_bytes"] < 4 * run["checkpoint_bytes"], "one more while it is written"
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


@pytest.mark.usefixtures("made_up")
def test_a_pool_that_was_allocated_before_any_step_is_not_taken_off_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU it is part of what is built."""
    answer, mib = prediction.run_in_process, 2**20

    def activations(added: int) -> int:
        def with_pool(*args: Any) -> dict[str, Any]:
            return {**answer(*args), "pool_memory": 9 * mib, "pool_added": added}

        monkeypatch.setattr(prediction, "run_in_process", with_pool)
        (run,) = plan(resolve(recipe()), Runtime(), site(tmp_path), FREE).runs
        assert run.pool_bytes == 9 * mib
        assert run.activation_bytes is not None
        return run.activation_bytes

    assert activations(0) - activations(9 * mib) == 9 * mib


@pytest.mark.usefixtures("in_process")
def test_jobs_are_planned(tmp_path: Path) -> None:
    method = {"name": "pixel_inversion", "images": 24, "pixel_optim": {"name": "adam", "lr": 0.1}}
    made = {"method": {**method, "moment_weight": 0}, "schedule": {**SHORT, "global_batch": 4}}
    one = recipe(student=None, student_optim=None, **made)
    (run,) = plan(resolve(one), Runtime(), site(tmp_path, 2), WorkerBudget(2, None, 0, 1, None)).to_dict()["runs"]
    assert (run["images_per_worker"], run["jobs_per_worker"], run["steps"]) == (4, 3, 12)
