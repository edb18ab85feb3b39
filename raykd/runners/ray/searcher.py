"""Between Ray Tune and the study: proposes trials, and records how each ends."""

import math
from collections.abc import Callable
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.recipe.experiment import Experiment
from raykd.search.population import Population
from raykd.search.pruning import prune
from raykd.search.space import SearchSpace
from raykd.search.study import FOUND, REASON, RUN, TOO_MANY, TUNER, best_trials, counted, finished, ours, propose
from raykd.store.run_directory import CHECKPOINTS
from raykd.store.workspace import Workspace

FINAL, FAILED, INTERRUPTED, REPORT, TEST, MADE = "final", "failed", "interrupted", "report", "test", "images made"
"""What a trial tells beside its objectives: that it is through, why it is not, at which report, its test accuracy, and
how many images its generators have made."""
BROKEN = "broken"
"""Why no trial can go on, told beside INTERRUPTED."""


Segment = tuple[int, int | None]
"""The steps of its run that a trial is about: from which, and up to which (None: its end)."""
WHOLE: Segment = (0, None)


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray is not typed here
    """Asks the study for values and tells it what became of them; only the driver touches the study."""

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        objectives: tuple[str, ...],
        *,
        tuner: str,
        target: int,
        workspace: Workspace,
        should_stop: Callable[[], bool],
        trial_task: Callable[[Experiment, Segment], dict[str, Any]],
        broken: Callable[[str], None],
        population: Population | None,
    ) -> None:
        """Propose until ``target`` trials are finished or at work.

        ``trial_task`` makes what a trial's process is given; ``broken`` hears of what no trial can go on with.
        """
        super().__init__()
        self._study, self._space, self._objectives = study, space, objectives
        self._tuner, self._target, self._workspace = tuner, target, workspace
        self._should_stop, self._trial_task, self._broken = should_stop, trial_task, broken
        self._population = population
        self._trials: dict[str, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune pickles what it is given, and the study is the record."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept what Tune knows: nothing, since the space is ours."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return what the next trial is told, that there is none (yet: None)."""
        while not self._should_stop():
            if self._population is None:
                if len(counted(self._study)) >= self._target:
                    break
            else:
                room = self._population.has_room()
                if room is None:
                    break
                if not room:
                    return None
            trial = self._study.ask()
            trial.set_user_attr(TUNER, self._tuner)  # first: without it, what a dead tuner had asked for stays its own
            if self._population is not None:
                if not self._population.knows(trial):
                    self._refuse(trial)
                    continue
            elif sum(other.number < trial.number for other in counted(self._study)) >= self._target:
                self._refuse(trial)
                break
            try:
                values = propose(trial, self._space)
                if self._population is None:
                    run, segment = self._space.experiment_of(values), WHOLE
                else:
                    run, segment = self._population.experiment_of(trial), self._population.segment(trial)
            except UsageError as error:
                trial.set_user_attr(REASON, str(error))
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr(RUN, run.run_id)
            trial.set_user_attr("directory", self._workspace.display_name(run.run_id))
            if FOUND not in trial.user_attrs:
                trial.set_user_attr(FOUND, [one for one in self._runs(trial) if self._is_finished(one)])
            self._trials[trial_id] = trial
            return self._trial_task(run, segment)
        return str(Searcher.FINISHED)

    def _refuse(self, trial: Trial) -> None:
        """Give back a trial that another tuner of the same study had asked for before."""
        trial.set_user_attr(TOO_MANY, True)
        self._study.tell(trial, state=TrialState.FAIL)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record how a trial goes."""
        if trial_id in self._trials and not result.get(FINAL):
            self._record(self._trials[trial_id], result)

    def _record(self, trial: Trial, result: dict[str, Any]) -> None:
        """Record a report, if there is one objective and it was told by now."""
        value = result.get(self._objectives[0])
        if len(self._objectives) == 1 and value is not None and math.isfinite(value):
            trial.report(value, result[REPORT])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended; one that was interrupted stays at work in the study, for the next tuner."""
        trial = self._trials.pop(trial_id, None)
        told = result or {}
        if trial is not None and told.get(BROKEN):
            self._broken(f"trial {trial.number}: {told[BROKEN]}")
        through = error or told.get(FINAL) or told.get(FAILED)
        if trial is None or told.get(INTERRUPTED) or (not through and (not told or self._should_stop())):
            return
        values = [float(told.get(name, math.nan)) for name in self._objectives]
        reason = told.get(FAILED) or ("its process died" if error else None)
        if reason is None and told.get(FINAL) and not all(map(math.isfinite, values)):
            reason = f"its objectives are {dict(zip(self._objectives, values, strict=True))}"
        if reason is not None:
            trial.set_user_attr(REASON, str(reason))
            self._study.tell(trial, state=TrialState.FAIL)
        elif told.get(FINAL):
            self._record(trial, told)
            trial.set_user_attr(MADE, int(told[MADE]))
            if told.get(TEST) is not None:
                trial.set_user_attr("test/accuracy/top1", told[TEST])
            self._study.tell(trial, values)
            if self._population is None or self._population.segment(trial)[1] is None:
                self._tidy()
        else:
            self._record(trial, told)  # Tune tells of the report that a trial was ended at here only
            self._study.tell(trial, state=TrialState.PRUNED)
            for run in self._own(trial):
                prune(self._workspace, run)

    def _is_finished(self, run: str) -> bool:
        self._workspace.pull([run], World.alone(), checkpoints="none")
        return self._workspace.run(run).is_finished

    def _own(self, trial: Trial | FrozenTrial) -> list[str]:
        """Return those of a trial's runs that were not there before it, whoever trained them."""
        return [run for run in self._runs(trial) if run not in trial.user_attrs.get(FOUND, ())]

    def _runs(self, trial: Trial | FrozenTrial) -> list[str]:
        """Return a trial's runs, one for each seed."""
        stem, _, seed = str(trial.user_attrs[RUN]).rpartition("-s")
        return [f"{stem}-s{int(seed) + number}" for number in range(self._space.seeds)]

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def _tidy(self) -> None:
        """Remove the checkpoints of trials that are not among the best; their students and results stay."""
        kept = {trial.user_attrs[RUN] for trial in best_trials(self._study)[: self._space.keep]}
        going = {trial.user_attrs.get(RUN) for trial in ours(self._study) if not trial.state.is_finished()}
        for trial in finished(self._study):
            if RUN in trial.user_attrs and trial.user_attrs[RUN] not in kept | going:
                for run in self._own(trial):
                    self._workspace.remove(f"{run}/{CHECKPOINTS}")
