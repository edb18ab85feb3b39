"""How many workers a recipe may have: a number that divides its batches."""

from pathlib import Path

import pytest

from raykd.cluster.workers import fitting_workers
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from tests.runners import runs
from tests.runners.test_train import cluster


@pytest.mark.parametrize(
    ("workers", "fitting"),
    [(0, [0]), (1, [1]), (4, [4]), ((1, 8), [1, 2, 4, 8]), ((3, 7), [4]), ((5, 16), [8, 16])],
)
def test_numbers_of_workers_divide_the_batch(workers: int | tuple[int, int], fitting: list[int]) -> None:
    assert fitting_workers(resolve(runs.recipe(Path("none"))), cluster(workers)) == fitting


def test_the_batches_of_teacher_and_controls_count_too(tmp_path: Path) -> None:
    control = tmp_path / "control.yaml"
    control.write_text(
        "data: digits\nstudent: {model: lenet5}\nmethod: {name: supervised}\n"
        "student_optim: {name: sgd, lr: 0.1}\n"
        "schedule: {steps: 1, report_every: 1, global_batch: 12}\n"
    )
    recipe = runs.recipe(Path("none"), controls=[str(control)])
    assert fitting_workers(resolve(recipe), cluster((1, 8))) == [1, 2, 4]


@pytest.mark.parametrize("workers", [3, 32, (5, 7)])
def test_what_does_not_divide_is_refused_with_what_would(workers: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"global batches \(tiny: 32\); these would: 1, 2, 4"):
        fitting_workers(resolve(runs.recipe(Path("none"))), cluster(workers))
