"""Do the judges that look at no real image tell runs that failed from runs that did not? Against the test split.

    python benchmarks/blind_judge.py --steps 200 --out runs/blind_judge

Trains DAFL on digits in ways that work and ways that do not, and scores each run's blind student by

    alike     agreement on the images of the eight latest reports, every image counting alike
    blind     what raykd reports: on images of all reports and other views of them, a mean over the teacher's classes
    one       agreement on the images of one other run that worked, every image counting alike
    failed    the same on those of a run that made few classes
    referee   what raykd reports: on the images of two other runs and that one, which it leaves out

The last rows are rank correlations with the test accuracy over the runs, and mean distances from it. What ``--out`` has
is not trained again.
"""

import argparse
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd.config.runtime import Runtime
from raykd.distributed.world import World, mix
from raykd.engine.blind_pool import balanced_score, class_credit
from raykd.engine.build import build
from raykd.engine.evaluator import score
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.engine.selection import Selection
from raykd.engine.state import averaged_weights
from raykd.models import build_model
from raykd.models.logits import compute_logits
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from raykd.results import COVERAGE, why_not_judged
from raykd.store.workspace import Workspace

CONSTANT = ["method.generator_optim.schedule.name=constant", "student_optim.schedule.name=constant"]
FEW = ["method.generator_width=8", "schedule.global_batch=16"]
RUNS = {
    "referee, seed 1": ["seed=1"],
    "referee, seed 2": ["seed=2"],
    "as it is": [],
    "T = 1, constant rates": ["method.temperature=1", "student_optim.lr=0.002", *CONSTANT],
    "T = 20": ["method.temperature=20"],
    "generator's rate 0.05": ["method.generator_optim.lr=0.05"],
    "found by a search": ["method.onehot_weight=0.28", "method.entropy_weight=7.9", "method.temperature=1.4"],
    "entropy 0.5": ["method.entropy_weight=0.5", "seed=3"],
    "batch 64": ["schedule.global_batch=64"],
    "width 8, batch 32": ["method.generator_width=8", "schedule.global_batch=32"],
    "width 8, batch 16": FEW,
    "no entropy": ["method.entropy_weight=0"],
    "no entropy, batch 16": [*FEW, "method.entropy_weight=0", "seed=4"],
    "entropy of each sample": ["method.entropy=per_sample"],
    "one-hot 50": ["method.onehot_weight=50"],
    "activation 50": ["method.activation_weight=50"],
    "generator's rate 5": ["method.generator_optim.lr=5"],
    "student's rate 0.0001": ["student_optim.lr=0.0001"],
    "a tenth of the steps": ["steps/10"],
}
SOURCES, FAILED = ("referee, seed 1", "referee, seed 2"), "no entropy"
COLUMNS = ("alike", "blind", "one", "failed", "referee")
REPORTS, IMAGES, BATCH, ALONE = 10, 500, 256, World.alone()


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
    rows = [_judged(name, runs) for name in RUNS]
    for name, row in zip(RUNS, rows, strict=True):
        cells = [_written(row[column]) for column in ("test", *COLUMNS)]
        print(f"| {name} | {' | '.join(cells)} | {'judged' if row['judged'] else 'not judged'} |")
    for what, measure in (("Spearman", _spearman), ("Kendall", _kendall), ("mean distance", _distance)):
        print(f"| {what} | | {' | '.join(_over(rows, column, measure) for column in COLUMNS)} | |")


def _trained(name: str, pairs: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Train a run and return its blind student, how it was judged, and images; from the disk if it is there."""
    path = asked.out / f"{name.replace(' ', '_')}.pt"
    if path.is_file():
        return dict(torch.load(path, weights_only=True))
    steps = max(1, asked.steps // 10) if "steps/10" in pairs else asked.steps
    schedule = [f"schedule.steps={steps}", f"schedule.report_every={max(1, steps // REPORTS)}", "controls=[]"]
    pairs = [pair for pair in pairs if pair != "steps/10"]
    experiment = resolve(load_recipe("dafl_digits", [*schedule, *pairs, *asked.overrides]))
    workspace = Workspace(None, asked.out)
    assert experiment.teacher is not None, "digits have a teacher's recipe"
    run(experiment.teacher, RunContext(ALONE, workspace, Runtime(), LocalReporter))
    built = build(experiment, ALONE, Runtime(), workspace)
    method, teacher = built.method, built.teacher
    assert teacher is not None, "as above"
    selection, latest = Selection(method, teacher), deque[Tensor](maxlen=8)
    figures: dict[str, float] = {}
    while method.steps_done < method.total_steps:
        method.step({})
        if method.steps_done % experiment.recipe.schedule.report_every == 0:
            weights = averaged_weights(method.student, ALONE)
            selection.candidate.load_state_dict(weights)
            figures = selection.consider(weights, method.steps_done, built.evaluator.score(selection.candidate))
            latest.append(method.sample(method.context.global_batch, mix(1, method.steps_done)))
    student = selection.candidate
    student.load_state_dict(selection.weights["blind"])
    seen = torch.cat(list(latest))
    images = torch.cat([method.sample(IMAGES // 2, mix(2, part)) for part in (0, 1)])
    result = {
        "test": built.evaluator.score(student)["accuracy/top1"],
        "alike": _agreement(_logits(student, seen), _logits(teacher, seen)),
        "blind": figures["blind/agreement"],
        "judged": why_not_judged(figures) is None,
        "student": selection.weights["blind"],
        "images": images,
        "answers": _logits(teacher, images),
    }
    torch.save(result, path)
    return result


def _judged(name: str, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a run's figures, those by referees too, but for the runs that supply their images."""
    row, failed = runs[name], runs[FAILED]
    if name in (*SOURCES, FAILED):
        return {**row, "one": None, "failed": None, "referee": None}
    student = _student(row["student"])
    sources = [runs[source] for source in (*SOURCES, FAILED)]
    used = [one for one in sources if _shown(one["answers"])] or sources
    answers = torch.cat([one["answers"] for one in used])
    pooled = balanced_score(_logits(student, torch.cat([one["images"] for one in used])), answers, ALONE)
    return {
        **row,
        "one": _agreement(_logits(student, sources[0]["images"]), sources[0]["answers"]),
        "failed": _agreement(_logits(student, failed["images"]), failed["answers"]),
        "referee": pooled["agreement"],
    }


def _shown(answers: Tensor) -> bool:
    return why_not_judged({COVERAGE: 100 * class_credit(answers.argmax(1), 10, ALONE).sum().item()}) is None


def _student(weights: dict[str, Tensor]) -> nn.Module:
    student = build_model("lenet5_half", num_classes=10, channels=1, size=32)
    student.load_state_dict(weights)
    return student


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return compute_logits(network, images.split(BATCH), ALONE)


def _agreement(logits: Tensor, answers: Tensor) -> float:
    return score(logits, None, answers, ALONE)["agreement"]


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
