"""What a search adds to its trials: Ray Tune, Optuna and the record, on a Ray that is up, one trial at a time.

    python benchmarks/search_overhead.py --trials 12 --rounds 3 --steps 2

The same runs, teacher there beforehand, are trained one after the other in this process and as trials of a search,
interleaved; the difference of the medians is what a trial costs more.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from statistics import median

import optuna
import ray

from raykd.cluster.config import Cluster
from raykd.cluster.ray_settings import apply_ray_settings
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe
from raykd.runners.train import train
from raykd.runners.tune import search
from raykd.search.dimension import Dimension
from raykd.search.setup import plan_search
from raykd.search.space import SearchSpace


def main() -> None:
    """Print seconds per trial bare and searched, and what is between and inside the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    asked = parser.parse_args()
    cluster = Cluster(name="one", cpus_per_worker=1, threads=1)
    apply_ray_settings(cluster)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        rounds = [_round(Path(folder) / str(number), cluster, asked) for number in range(asked.rounds)]
    bare, searched, inside, between = (median(column) for column in zip(*rounds, strict=True))
    print(f"trials of {asked.steps} steps, {asked.trials} in each of {asked.rounds} rounds, medians:")
    print(f"bare      {bare:6.2f} s a trial")
    print(f"searched  {searched:6.2f} s a trial, {60 / searched:.0f} a minute: {searched - bare:.2f} s more, of which")
    print(f"          {inside - bare:6.2f} s from the start of a trial to its end, {between:.2f} s between trials")


def _round(folder: Path, cluster: Cluster, asked: argparse.Namespace) -> tuple[float, float, float, float]:
    """Return seconds: of a bare run, of a trial by the search's wall clock, inside a trial, between trials."""
    space = SearchSpace(
        name="overhead",
        recipe="kd_digits",
        overrides={
            "teacher.overrides": {"schedule.steps": 8, "schedule.report_every": 8},
            "schedule.steps": asked.steps,
            "schedule.report_every": asked.steps,
        },
        trials=asked.trials,
        space={"student_optim.lr": Dimension(loguniform=(0.0001, 0.01))},
    )

    def bare(recipe: Recipe) -> float:
        started = time.perf_counter()
        train(
            resolve(recipe),
            Cluster(name="here", workers=0, threads=1),
            store=folder / "bare",
            data_root=None,
            should_stop=lambda: False,
        )
        return time.perf_counter() - started

    planned = plan_search(space, folder)
    bare(planned.space.make_recipe({}))  # with the teacher
    by_hand = [
        bare(planned.space.make_recipe({"student_optim.lr": 0.001 * (1 + number)})) for number in range(asked.trials)
    ]

    def searched(trials: int) -> float:
        more = plan_search(space.model_copy(update={"trials": trials}), folder)
        started = time.perf_counter()
        search(more, cluster, store=folder, data_root=None, should_stop=lambda: False, show=lambda report: None)
        return time.perf_counter() - started

    searched(2)  # trains the teacher and starts the trials' process
    wall = searched(2 + asked.trials)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{planned.folder / 'study.db'}")
    trials = study.trials[2:]
    spans = [
        (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp())
        for trial in trials
        if trial.datetime_start and trial.datetime_complete
    ]
    inside = median(end - begin for begin, end in spans)
    between = median(later[0] - earlier[1] for earlier, later in zip(spans, spans[1:], strict=False))
    return median(by_hand), wall / asked.trials, inside, between


if __name__ == "__main__":
    main()
