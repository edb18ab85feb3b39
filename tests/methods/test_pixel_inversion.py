"""How jobs are dealt to workers changes who makes which images when, never the images."""

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from raykd.config.runtime import Runtime
from raykd.data.datasets import DATASETS
from raykd.data.image_pool import PoolPart
from raykd.distributed.world import World
from raykd.engine.image_sources import PoolSource
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext
from raykd.engine.run import run as run_recipe
from raykd.engine.stop import Interrupted
from raykd.engine.synthesis import synthesize
from raykd.errors import UsageError
from raykd.methods.base import MethodContext
from raykd.methods.pixel_inversion import PixelInversion
from raykd.methods.suitability import judge
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.results import RunResult
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from tests.methods.patterns import pattern_setting, teacher_of_patterns
from tests.methods.saved_images import Saved
from tests.methods.test_suitability import HEALTHY
from tests.methods.toy import SPEC, advance, assert_same, made_config, made_method

STEPS, BATCH, COUNT = 4, 6, 28
JOBS = 5  # of 6, 6, 6, 6 and 4 images
FIELDS = {
    "images": COUNT,
    "keep": "best",
    "roll": 2,
    "crop": {"schedule": "curriculum", "smallest": 0.3},
    "pixel_optim": {"name": "adam", "lr": 0.1, "schedule": {"name": "cosine"}},
}
Images = dict[int, tuple[Tensor, int]]
State = tuple[dict[str, Any], dict[str, Tensor]]


def one(world: World | None = None, seed: int = 0, **fields: Any) -> PixelInversion:
    context = MethodContext(
        spec=SPEC,
        world=world or World.alone(),
        networks={"teacher": teacher_of_patterns()},
        student_optim=None,
        steps=STEPS,
        global_batch=BATCH,
        seed=seed,
        compiler=lambda network: network,
    )
    method = made_method("pixel_inversion", context, **{**FIELDS, **fields})
    assert isinstance(method, PixelInversion)
    return method


def workers(count: int) -> list[PixelInversion]:
    """They have no collectives, so they need not be joined."""
    return [one(World(rank, count, torch.device("cpu"))) for rank in range(count)]


def run(team: list[PixelInversion], steps: int | None = None) -> list[PoolPart]:
    """Let all workers make some steps, or all; return their images as of a checkpoint behind."""
    left = team[0].total_steps - team[0].steps_done if steps is None else steps
    for _ in range(left):
        for worker in team:
            worker.step({})
        assert {(worker.total_steps, worker.images_per_step) for worker in team} == {
            (team[0].total_steps, team[0].images_per_step)
        }
    parts = [worker.new_images() for worker in team]
    assert [worker.new_images() for worker in team] == [None] * len(team), "once each"
    return [part for part in parts if part is not None]


def by_number(parts: list[PoolPart]) -> Images:
    found: Images = {}
    for part in parts:
        for pixels, label, number in zip(part.pixels, part.labels.tolist(), part.numbers.tolist(), strict=True):
            assert number not in found
            found[number] = pixels, label
    return found


def saved(team: list[PixelInversion]) -> State:
    """What the engine writes: the state of one worker and the shards of all, through a file."""
    shards = [worker.shard() for worker in team]
    assert sum(map(len, shards)) == len({name for shard in shards for name in shard})
    states = [worker.state_dict() for worker in team]
    assert all(state == states[0] for state in states)
    buffer = io.BytesIO()
    torch.save((states[0], {name: part for shard in shards for name, part in shard.items()}), buffer)
    buffer.seek(0)
    state, parts = torch.load(buffer, weights_only=True)
    return state, parts


def resumed(state: State, made: list[PoolPart], team: list[PixelInversion]) -> list[PixelInversion]:
    for worker in team:
        worker.load_state_dict(copy.deepcopy(state[0]))
        worker.load_shard(state[1])
        worker.load_images(Saved(made))
    return team


def assert_equal(ours: Images, theirs: Images) -> None:
    assert sorted(ours) == sorted(theirs)
    for number, (pixels, label) in theirs.items():
        assert label == ours[number][1] == number % SPEC.num_classes
        assert torch.equal(pixels, ours[number][0]), number


@pytest.fixture(scope="module")
def undisturbed() -> Images:
    (alone,) = team = workers(1)
    assert alone.total_steps == JOBS * STEPS
    parts = run(team)
    assert [part.pixels.dtype for part in parts] == [torch.uint8]
    images = by_number(parts)
    assert sorted(images) == list(range(COUNT))
    assert len(torch.stack([pixels for pixels, _ in images.values()]).unique(dim=0)) == COUNT
    return images


@pytest.mark.parametrize(("count", "rounds"), [(2, 3), (3, 2), (5, 1), (7, 1)])
def test_images_are_the_same_on_any_number_of_workers(count: int, rounds: int, undisturbed: Images) -> None:
    team = workers(count)
    assert team[0].total_steps == rounds * STEPS
    assert_equal(by_number(run(team)), undisturbed)
    assert saved(team) == ({"steps_done": rounds * STEPS, "left": {}}, {})


@pytest.mark.parametrize(
    "layouts",
    [
        [(1, 6), (1, 3), (1, None)],  # workers, steps until the next interruption: inside a job
        [(1, 4), (1, 4), (1, None)],  # between two jobs
        [(3, 2), (1, 1), (2, None)],  # fewer workers: jobs that have begun have to wait
        [(2, 5), (4, 1), (1, 2), (3, None)],
        [(5, 3), (1, 2), (1, None)],
    ],
)
def test_an_interruption_changes_no_image(layouts: list[tuple[int, int | None]], undisturbed: Images) -> None:
    made: list[PoolPart] = []
    state: State | None = None
    for count, steps in layouts:
        team = workers(count)
        if state is not None:
            team = resumed(state, made, team)
            assert_same(saved(team)[1], state[1])  # nothing is lost by being interrupted at once
        torch.manual_seed(count)
        made += run(team, steps)
        state = saved(team)
        assert team[0].steps_done == state[0]["steps_done"]
    assert_equal(by_number(made), undisturbed)
    assert team[0].steps_done == team[0].total_steps


def test_what_a_killed_run_made_behind_its_checkpoint_is_made_again(undisturbed: Images) -> None:
    first = workers(2)
    made = run(first, 5)
    state = saved(first)
    run(first, 4)  # lost
    made += run(resumed(state, made, workers(2)))
    assert_equal(by_number(made), undisturbed)


def test_missing_images_are_noticed() -> None:
    first = workers(2)
    made = run(first, 5)
    with pytest.raises(ValueError, match="6 of its images are missing"):
        resumed(saved(first), made[:1], workers(2))


def test_another_seed_makes_other_images(undisturbed: Images) -> None:
    other = by_number(run([one(seed=1)]))
    assert not any(torch.equal(other[number][0], pixels) for number, (pixels, _) in undisturbed.items())


def test_figures_are_those_of_all_jobs_of_now() -> None:
    """The engine averages over workers, some of which have nothing to do any more."""
    rows: dict[int, list[dict[str, float]]] = {}
    for count in (2, 3):
        team = workers(count)
        for _ in range(STEPS + 1):
            each = [worker.step({}) for worker in team]
            row = {name: sum(float(values[name]) for values in each) / count for name in each[0]}
            rows.setdefault(count, []).append(row)
    alone = advance(one(), 3 * STEPS + 1)
    for name in ("loss/class", "teacher/hit"):
        assert rows[2][1][name] == pytest.approx((alone[1][name] + alone[STEPS + 1][name]) / 2)
        # In the second round the third worker has none of the last two jobs.
        first = alone[3 * STEPS][name]
        second = rows[3][STEPS][name] * 2 - first
        assert second == pytest.approx(advance(one(), 4 * STEPS + 1)[-1][name])
    assert [row["jobs_left"] for row in rows[2]] == [5, 5, 5, 3, 3]


def test_images_learn_their_classes() -> None:
    fields = {"moment_weight": 1.0, "crop": {}, "keep": "last", "images": 16, "flip": False, "roll": 0}
    context = pattern_setting(steps=60)
    method = made_method("pixel_inversion", context, **{**FIELDS, **fields})
    rows = advance(method, 60)
    assert rows[0]["teacher/hit"] < 60
    assert rows[-1]["teacher/hit"] > 90
    for name in ("loss/class", "loss/moments"):
        assert rows[-1][name] < 0.5 * rows[0][name], name
    assert isinstance(method, PixelInversion)
    part = method.new_images()
    assert part is not None
    logits, _ = teacher_of_patterns()(SPEC.normalise(part.pixels / 255))
    assert (logits.argmax(1) == part.labels).float().mean() > 0.85, "of the images as they are kept"


def test_the_last_gradients_of_a_job_are_refused_for_all_to_see() -> None:
    method = one()
    advance(method, STEPS - 1)
    with torch.no_grad():
        assert method._job is not None
        method._job._pixels[0] = torch.inf
    method.step({})
    assert method.updaters["pixels"].refused == 1
    method.step({})
    assert method.updaters["pixels"].refused == 1, "also once the next job has begun"
    assert method.updaters["pixels"].at_fault == 1


def test_a_checkpoint_takes_the_bytes_that_were_foretold() -> None:
    method = one(keep="last")
    expected = method.checkpoint_bytes()
    advance(method, 1)
    assert sum(part.nbytes for part in method.shard().values() if part.dim()) == expected


@pytest.mark.parametrize(("norms", "verdict"), [(3, "usable"), (0, "limited")])
def test_teachers_without_batch_norm_are_of_limited_use(norms: int, verdict: str) -> None:
    suitability = judge(PixelInversion, replace(HEALTHY, batch_norms=norms))
    assert suitability.verdict == verdict
    assert any("moment_weight=0" in text for text in suitability.texts("without")) == (norms == 0)


def test_a_job_is_a_batch_of_the_recipe() -> None:
    assert made_config("pixel_inversion", images=7).images == 7
    assert one().images_per_step == BATCH
    assert [worker.images_per_step for worker in workers(7)] == [COUNT] * 7


RECIPE = {
    "data": {"name": "digits", "test": False},
    "teacher": {"model": "lenet5_bn", "weights": "teacher.safetensors"},
    "method": {"name": "pixel_inversion", **FIELDS, "images": 16},
    "schedule": {"steps": STEPS, "report_every": 3, "global_batch": BATCH},
}


def train(store: Path, until: int | None = None) -> tuple[RunResult, RunDirectory]:
    experiment, workspace = resolve(load_recipe("images.yaml")), Workspace(None, store)
    result = run_recipe(
        experiment, RunContext(World.alone(), workspace, Runtime(compile="off"), LocalReporter, until=until)
    )
    return result, workspace.run(experiment.run_id)


def test_a_run_stopped_inside_a_job_goes_on_and_its_images_are_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images.yaml").write_text(yaml.safe_dump(RECIPE))
    torch.manual_seed(0)
    save_file(build_model("lenet5_bn", num_classes=10, channels=1, size=32).state_dict(), "teacher.safetensors")
    result, whole = train(tmp_path / "whole")
    assert result.images == 16 * STEPS
    assert not any(result.data_opened.values()), "strictly data-free"
    with pytest.raises(Interrupted, match=f"stopped at step 5 of {3 * STEPS}"):
        train(tmp_path / "parts", until=5)
    with pytest.raises(UsageError, match="not finished its images"):
        synthesize(
            RunDirectory(next((tmp_path / "parts").glob("images-*"))), 16, tmp_path / "early", None, World.alone()
        )
    _, parts = train(tmp_path / "parts")
    spec = DATASETS["digits"]
    ours, theirs = PoolSource(parts, spec), PoolSource(whole, spec)
    rows = range(16)
    assert ours.targets(rows).tolist() == [number % 10 for number in rows]
    (_, first), (_, second) = next(ours.images(rows)), next(theirs.images(rows))
    assert torch.equal(first, second)
    assert synthesize(parts, 16, tmp_path / "set", None, World.alone()).written == 1
    with pytest.raises(UsageError, match="makes 16 images .* and 17 are asked for"):
        synthesize(parts, 17, tmp_path / "more", None, World.alone())
