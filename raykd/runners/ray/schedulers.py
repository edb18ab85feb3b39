"""Which trials end early: by Ray's own rules, told what the study knows."""

from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from raykd.runners.ray.searcher import REPORT
from raykd.search.objectives import OBJECTIVES
from raykd.search.space import SearchSpace
from raykd.search.study import counted

_FEWEST = 3  # trials that a median is of


def scheduler_of(space: SearchSpace, objective: str, study: Study) -> TrialScheduler:
    """Return the scheduler of a space, knowing how the trials of its study went so far.

    So a search that goes on, or is made longer, judges a trial by all before it. What another tuner of the study
    reports from now on is not seen.
    """
    settings = space.scheduler
    if settings.name in ("none", "pbt"):  # Tune's own pbt takes no search algorithm, whose study is our record
        return FIFOScheduler()
    mode = "max" if OBJECTIVES[objective] == "maximize" else "min"
    if settings.name == "median":
        median = _Median(REPORT, objective, mode, grace_period=settings.grace, min_samples_required=_FEWEST)
        for trial in counted(study):
            for report, value in trial.intermediate_values.items():
                median.on_trial_complete(None, _Past(f"{trial.number}"), {REPORT: report, objective: value})
        return median
    asha = ASHAScheduler(
        time_attr=REPORT,
        metric=objective,
        mode=mode,
        max_t=space.reports,
        grace_period=settings.grace,
        reduction_factor=settings.reduction,
        stop_last_trials=False,
    )
    for trial in counted(study):
        past = _Past(f"{trial.number}")
        asha.on_trial_add(None, past)
        for report, value in sorted(trial.intermediate_values.items()):
            asha.on_trial_result(None, past, {REPORT: report, objective: value})
    return asha


@dataclass(frozen=True)
class _Past:
    """A trial of the study, as far as a scheduler looks at one."""

    trial_id: str


class _Median(MedianStoppingRule):  # type: ignore[misc]  # Ray is not typed here
    """Ray's rule, which would pause a trial that cannot be judged yet for a waiting one, and begin it anew later."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(TrialScheduler.CONTINUE)
