"""Do the judges that look at no real image tell runs that failed from runs that did not? Against the test split.

    python benchmarks/blind_judge.py --steps 200 --out runs/blind_judge

Trains DAFL on digits in ways that work and ways that do not, and scores each run's last student by

    alike     agreement on the images of the eight latest reports, every image counting alike
    classes   on the images of all reports, a mean over the teacher's classes
    blind     what raykd reports: the same on other views of them too, and on images stretched to the range of pixels
    one       agreement on the images of one other run that worked, every image counting alike
    failed    the same on those of a run that made few classes
    referee   what raykd reports: on the images of two other runs and that one, which it leaves out

The last rows are rank correlations with the test accuracy over the runs, and mean distances from it. What ``--out`` has
is not trained again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd.config.runtime import Runtime
from raykd.distributed.world import World, mix
from raykd.engine.blind_pool import BlindPool, balanced_score, class_credit
from raykd.engine.build import build, build_spec, load_teacher
from raykd.engine.evaluator import score
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.state import averaged_weights
from raykd.models import build_model
from raykd.models.logits import compute_logits
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import load_recipe
from raykd.results import COVERAGE, why_not_judged
from raykd.store.workspace import Workspace

CONSTANT = ["method.generator_optim.schedule.name=constant", "student_optim.schedule.name=constant"]
FOUND = "onehot_weight=0.28 entropy_weight=7.9 activation_weight=0.15 temperature=1.4 generator_optim.lr=0.057"
RUNS: dict[str, list[str]] = {
    "as it is": [],
    "T = 1, constant rates": ["method.temperature=1", "student_optim.lr=0.002", *CONSTANT],
    "T = 20": ["method.temperature=20"],
    "generator's rate 0.05": ["method.generator_optim.lr=0.05"],
    "found by a search": ["student_optim.lr=0.0046", *(f"method.{pair}" for pair in FOUND.split())],
    "entropy 0.5": ["method.entropy_weight=0.5", "seed=3"],
    "batch 64": ["schedule.global_batch=64"],
    "width 8, batch 32": ["method.generator_width=8", "schedule.global_batch=32"],
    "width 8, batch 32, seed 1": ["method.generator_width=8", "schedule.global_batch=32", "seed=1"],
    "width 8, batch 16": ["method.generator_width=8", "schedule.global_batch=16"],
    "generator's rate 5": ["method.generator_optim.lr=5"],
    "one-hot 50": ["method.onehot_weight=50"],
    "no entropy": ["method.entropy_weight=0"],
    "entropy of each sample": ["method.entropy=per_sample"],
    "activation 50": ["method.activation_weight=50"],
    "noise": ["recipe=noise_digits"],
    "student's rate 0.0001": ["student_optim.lr=0.0001"],
    "student's rate 0.1": ["student_optim.lr=0.1"],
    "30 steps": ["schedule.steps=30"],
    "referee, seed 1": ["seed=1"],
    "referee, seed 2": ["seed=2"],
}
SOURCES, FAILED = ("referee, seed 1", "referee, seed 2"), "no entropy"
COLUMNS = ("alike", "classes", "blind", "one", "failed", "referee")
REPORTS, LATEST, IMAGES, BATCH, HELD_OUT, ALONE = 10, 8, 500, 256, 0x4E1D, World.alone()


def main() -> None:
    """Print a row for each run, and how each judge ranks them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/blind_judge"))
    asked = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    print(f"| run | test top-1 | {' | '.join(COLUMNS)} | blind is |")
    print(f"|---|{'---|' * (len(COLUMNS) + 2)}")
    runs = {name: _trained(name, pairs, asked) for name, pairs in RUNS.items()}
    experiment, workspace = _experiment([], asked), Workspace(None, asked.out)
    teacher, _ = load_teacher(experiment, build_spec(experiment.recipe.data, workspace), workspace)
    rows = [_judged(name, runs, teacher, experiment, workspace) for name in RUNS]
    for name, row in zip(RUNS, rows, strict=True):
        cells = [_written(row[column]) for column in ("test", *COLUMNS)]
        print(f"| {name} | {' | '.join(cells)} | {'judged' if row['judged'] else 'not judged'} |")
    for what, measure in (("Spearman", _spearman), ("Kendall", _kendall), ("mean distance", _distance)):
        print(f"| {what} | | {' | '.join(_over(rows, column, measure) for column in COLUMNS)} | |")


def _experiment(pairs: list[str], asked: argparse.Namespace) -> Experiment:
    given = {key: value for key, _, value in (pair.partition("=") for pair in [*pairs, *asked.overrides])}
    recipe = given.pop("recipe", "dafl_digits")
    steps = min(asked.steps, int(given.get("schedule.steps", asked.steps)))
    given |= {"schedule.steps": str(steps), "schedule.report_every": str(max(1, steps // REPORTS)), "controls": "[]"}
    if recipe != "dafl_digits":
        given.pop("method.generator_width", None)
    return resolve(load_recipe(recipe, [f"{key}={value}" for key, value in given.items()]))


def _trained(name: str, pairs: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Train a run; return held-out images of all its reports, its last student and that one's test accuracy."""
    path = asked.out / f"{name.replace(' ', '_')}.pt"
    if path.is_file():
        return dict(torch.load(path, weights_only=True))
    experiment, workspace = _experiment(pairs, asked), Workspace(None, asked.out)
    assert experiment.teacher is not None, "digits have a teacher's recipe"
    run(experiment.teacher, RunContext(ALONE, workspace, Runtime(), LocalReporter))
    built = build(experiment, ALONE, Runtime(), workspace)
    method, context, images = built.method, built.method.context, {}
    while method.steps_done < method.total_steps:
        method.step({})
        if method.steps_done % experiment.recipe.schedule.report_every == 0:
            seed = mix(context.seed, HELD_OUT, method.steps_done)
            images[method.steps_done] = method.sample(context.global_batch, seed).half()
    student = averaged_weights(method.student, ALONE)
    sample = method.sample(2 * IMAGES, mix(context.seed, HELD_OUT)).half()[:IMAGES]
    test = built.evaluator.score(method.student)["accuracy/top1"]
    found = {"test": test, "images": images, "student": student, "sample": sample}
    torch.save(found, path)
    return found


def _judged(
    name: str, runs: dict[str, dict[str, Any]], teacher: nn.Module, experiment: Experiment, workspace: Workspace
) -> dict[str, Any]:
    """Return a run's figures; those by a referee not for the runs that it is made of."""
    own, spec = runs[name], build_spec(experiment.recipe.data, workspace)
    student = build_model("lenet5_half", num_classes=10, channels=1, size=spec.size)
    student.load_state_dict(own["student"])
    pool = BlindPool(spec, 0, mirrored=False)
    for step, images in own["images"].items():
        pool.add(images.float(), step, teacher, ALONE)
    everything = torch.cat(list(own["images"].values()))
    row: dict[str, Any] = {
        "test": own["test"],
        "alike": _agreement(student, teacher, torch.cat(list(own["images"].values())[-LATEST:])),
        "classes": balanced_score(_logits(student, everything), _logits(teacher, everything), ALONE)["agreement"],
        "blind": pool.score(student, ALONE)["agreement"],
        "judged": why_not_judged({COVERAGE: pool.coverage}) is None,
        **dict.fromkeys(("one", "failed", "referee")),
    }
    if name in (*SOURCES, FAILED):
        return row
    samples = [runs[source]["sample"] for source in (*SOURCES, FAILED)]
    used = torch.cat([images for images in samples if _shown(_logits(teacher, images))] or samples)
    row["one"], row["failed"] = (_agreement(student, teacher, images) for images in (samples[0], samples[-1]))
    row["referee"] = balanced_score(_logits(student, used), _logits(teacher, used), ALONE)["agreement"]
    return row


def _shown(answers: Tensor) -> bool:
    credit = class_credit(answers.argmax(1), answers.shape[1], ALONE)
    return why_not_judged({COVERAGE: 100 * credit.sum().item()}) is None


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return compute_logits(network, (batch.float() for batch in images.split(BATCH)), ALONE)


def _agreement(student: nn.Module, teacher: nn.Module, images: Tensor) -> float:
    return score(_logits(student, images), None, _logits(teacher, images), ALONE)["agreement"]


def _over(rows: list[dict[str, Any]], column: str, measure: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Write a measure of a column against the test accuracy, over the rows that have it."""
    pairs = torch.tensor([(row[column], row["test"]) for row in rows if row[column] is not None], dtype=torch.float64)
    return f"{measure(*pairs.T).item():.2f}"


def _spearman(judged: Tensor, test: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([_ranks(judged), _ranks(test)]))[0, 1]


def _ranks(values: Tensor) -> Tensor:
    return (values[:, None] > values).double().sum(1) + (values[:, None] == values).double().sum(1) / 2


def _kendall(judged: Tensor, test: Tensor) -> Tensor:
    signs = [(values[:, None] - values).sign() for values in (judged, test)]
    return (signs[0] * signs[1]).sum() / (signs[0].abs().sum() * signs[1].abs().sum()).sqrt()


def _distance(judged: Tensor, test: Tensor) -> Tensor:
    return (judged - test).abs().mean()


def _written(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.1f}"


if __name__ == "__main__":
    main()
