"""Schedulers that end trials early: Ray's own, which first learn from the study's trials."""

from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from raykd.runners.ray.trial import REPORT
from raykd.search.objectives import OBJECTIVES
from raykd.search.space import SearchSpace
from raykd.search.study import started_trials

_MEDIAN_TRIALS = 3  # the fewest that a median is taken of


def make_scheduler(space: SearchSpace, objective: str, study: Study) -> TrialScheduler:
    """Make the scheduler of a space, and replay the reports of its study's trials to it.

    So a search that goes on, or is made longer, judges a trial by all before it. Reports of other tuners of the study
    that come later are not seen.
    """
    config = space.scheduler
    if config.name in ("none", "pbt"):  # Tune's own pbt takes no search algorithm, and the study is our record
        return FIFOScheduler()
    mode = "max" if OBJECTIVES[objective] == "maximize" else "min"
    if config.name == "median":
        median = _Median(REPORT, objective, mode, grace_period=config.grace, min_samples_required=_MEDIAN_TRIALS)
        for trial in started_trials(study):
            for report, value in trial.intermediate_values.items():
                # Not on_trial_result, which would judge it: this one only notes the report.
                median.on_trial_complete(None, _PastTrial(f"{trial.number}"), {REPORT: report, objective: value})
        return median
    asha = ASHAScheduler(
        time_attr=REPORT,
        metric=objective,
        mode=mode,
        max_t=space.reports,
        grace_period=config.grace,
        reduction_factor=config.reduction,
        stop_last_trials=False,
    )
    for trial in started_trials(study):
        past = _PastTrial(f"{trial.number}")
        asha.on_trial_add(None, past)
        for report, value in sorted(trial.intermediate_values.items()):
            asha.on_trial_result(None, past, {REPORT: report, objective: value})
    return asha


@dataclass(frozen=True)
class _PastTrial:
    """A trial of the study, with all that a scheduler reads of one of Tune's."""

    trial_id: str


class _Median(MedianStoppingRule):  # type: ignore[misc]  # Ray is not typed here
    """Ray's rule, but a trial that cannot be judged yet goes on: Ray's own would pause it, and later begin it anew.

    A report that a trial's next process makes again, after its first has died, is noted once.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._noted: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a trial by a report that is new."""
        report = result.get(REPORT, 0)
        if report <= self._noted.get(trial.trial_id, 0):
            return str(TrialScheduler.CONTINUE)
        self._noted[trial.trial_id] = report
        return str(super().on_trial_result(tune_controller, trial, result))

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(TrialScheduler.CONTINUE)
