"""Trials of a study as one tuner handles them: asks for them, begins them, and records what becomes of them.

The study is the record of a search, so all of this is written there at once; run directories are only tidied.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.recipe.experiment import Experiment, images_of_pool
from raykd.search.attributes import DIRECTORY, FOUND, HAS_POOL, IMAGES_MADE, REASON, RUN, TEST_ACCURACY, TOO_MANY, TUNER
from raykd.search.space import SearchSpace, Values
from raykd.search.study import best_trials, draw_values, end_trial, ended_trials, own_trials
from raykd.store.checkpoint import IMAGES_REMOVED, POOL
from raykd.store.run_directory import CHECKPOINTS
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)


class Segment(NamedTuple):
    """The steps of its run that a trial trains: from ``begin`` to ``end``, None for the end of the run."""

    begin: int = 0
    end: int | None = None


class Proposal(NamedTuple):
    """A trial of the study that this tuner is to train now."""

    trial: Trial
    experiment: Experiment
    segment: Segment


class NoProposal(Enum):
    """Why there is no trial to train."""

    WAIT = "trials at work decide what comes next"
    DONE = "all trials are ended or at work"


WAIT, DONE = NoProposal.WAIT, NoProposal.DONE


@dataclass(frozen=True)
class TrialReport:
    """The objectives that a trial has measured by its report ``number``, counted from 1 over all its seeds."""

    number: int
    objectives: Mapping[str, float]


@dataclass(frozen=True)
class Complete:
    """A trial ran to its end; its last report has all objectives."""

    report: TrialReport
    images_made: int
    test_accuracy: float | None


@dataclass(frozen=True)
class Pruned:
    """A trial was ended early, at this report."""

    report: TrialReport


@dataclass(frozen=True)
class Failed:
    """A trial has no result, for this reason."""

    reason: str


TrialOutcome = Complete | Pruned | Failed


@dataclass(frozen=True)
class StudyTrials:
    """The trials of a study, for one of its tuners.

    Attributes:
        study: the record.
        space: what is searched.
        objectives: names of the objectives, in the order of the study's values.
        workspace: the store of the trials' runs.
        tuner: name of this process in the study, see ``raykd.search.tuners.registered_tuner``.
    """

    study: Study
    space: SearchSpace
    objectives: tuple[str, ...]
    workspace: Workspace
    tuner: str
    _lost: set[int] = field(default_factory=set, init=False)

    def ask(self) -> Trial:
        """Take a waiting trial of the study, or a new one."""
        trial = self.study.ask()
        trial.set_user_attr(TUNER, self.tuner)  # at once: a trial without it would not be taken over if this tuner dies
        return trial

    def give_back(self, trial: Trial) -> None:
        """Record that a trial is not trained: another tuner of the study has asked for it before."""
        trial.set_user_attr(TOO_MANY, True)
        self.study.tell(trial, state=TrialState.FAIL)

    def begin(self, trial: Trial, make_experiment: Callable[[Values], Experiment], segment: Segment) -> Proposal | None:
        """Draw a trial's values and record its run; None, and a failed trial, where they do not make a recipe."""
        try:
            experiment = make_experiment(draw_values(trial, self.space))
        except UsageError as error:
            self._fail(trial, str(error))
            return None
        trial.set_user_attr(RUN, experiment.run_id)
        if images_of_pool(experiment.recipe) is not None:
            trial.set_user_attr(HAS_POOL, True)
        trial.set_user_attr(DIRECTORY, self.workspace.display_name(experiment.run_id))
        if FOUND not in trial.user_attrs:  # a trial that is taken over knows from its first start
            trial.set_user_attr(FOUND, [run for run in self._runs(trial) if self._is_finished(run)])
        return Proposal(trial, experiment, segment)

    def record_report(self, trial: Trial, report: TrialReport) -> bool:
        """Record a report: with one objective, which it has measured; Optuna keeps none of several.

        One that was recorded before its tuner died is left as it is.

        Returns:
            Whether the trial is still this tuner's; of one that another has taken over nothing is recorded.
        """
        if self._is_lost(trial):
            return False
        value = report.objectives.get(self.objectives[0])
        if len(self.objectives) > 1 or value is None or not math.isfinite(value):
            return True
        if report.number not in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(value, report.number)
        return True

    def record_end(self, trial: Trial, outcome: TrialOutcome) -> bool:
        """Record how a trial ended; tell whether it is complete. A pruned one's checkpoints are removed.

        One that another tuner has taken over is that one's to record.
        """
        if self._is_lost(trial):
            return False
        match outcome:
            case Failed(reason):
                self._fail(trial, reason)
                for run in set(self._created_runs(trial)) - self._runs_at_work():  # its process may have died
                    self.workspace.note_end(run, reason)
            case Pruned(report):
                self.record_report(trial, report)  # that it was ended at, which nobody else has reported
                end_trial(self.study, trial, None)
                for run in self._created_runs(trial):
                    self.prune(run)
            case Complete(report, images_made, test_accuracy):
                values = {name: float(report.objectives.get(name, math.nan)) for name in self.objectives}
                if not all(map(math.isfinite, values.values())):
                    self._fail(trial, f"its objectives are {values}")
                    return False
                self.record_report(trial, report)
                trial.set_user_attr(IMAGES_MADE, images_made)
                if test_accuracy is not None:
                    trial.set_user_attr(TEST_ACCURACY, test_accuracy)
                end_trial(self.study, trial, list(values.values()))
                return True
        return False

    def prune(self, run_id: str) -> None:
        """Mark a run as given up, unless it is finished, and remove its checkpoints and images; its records stay."""
        alone, run = World.alone(), self.workspace.run(run_id)
        self.workspace.pull([run_id], alone, checkpoints="none")
        if run.status().get("state") not in (None, "finished"):
            run.write_status(state="pruned")
            self.workspace.push(run_id, alone)
            self.workspace.remove(f"{run_id}/{POOL}")
        self.workspace.remove(f"{run_id}/{CHECKPOINTS}")

    def remove_checkpoints(self) -> None:
        """Remove checkpoints and images of ended trials that are not among the best; students and results stay."""
        best = {trial.user_attrs[RUN] for trial in best_trials(self.study)[: self.space.keep]}
        at_work = self._runs_at_work()
        for trial in ended_trials(self.study):
            if RUN in trial.user_attrs and trial.user_attrs[RUN] not in best | at_work:
                for run in self._created_runs(trial):
                    self.workspace.remove(f"{run}/{CHECKPOINTS}")
                    if HAS_POOL in trial.user_attrs:
                        self._remove_pool(run)

    def _remove_pool(self, run_id: str) -> None:
        """Remove a run's images; the status of a finished run tells, since others may ask for them."""
        run, alone = self.workspace.run(run_id), World.alone()
        if not run.status().get(IMAGES_REMOVED):
            self.workspace.pull([run_id], alone, checkpoints="none")
            if run.is_finished:
                run.write_status(**{IMAGES_REMOVED: "by the search that it is a trial of"})
                self.workspace.push(run_id, alone)
        self.workspace.remove(f"{run_id}/{POOL}")

    def _runs_at_work(self) -> set[str]:
        """Return the ids of runs that trials have begun and not ended: of equal values, several train the same run."""
        at_work = [trial for trial in own_trials(self.study) if not trial.state.is_finished()]
        return {run for trial in at_work if RUN in trial.user_attrs for run in self._runs(trial)}

    def _is_lost(self, trial: Trial) -> bool:
        """Tell, and say, if another tuner has taken a trial over: this machine was asleep, or its network down."""
        now = self.study.get_trials(deepcopy=False)[trial.number]
        is_lost = now.state != TrialState.RUNNING or now.user_attrs.get(TUNER, self.tuner) != self.tuner
        if is_lost and trial.number not in self._lost:
            self._lost.add(trial.number)
            logger.warning(
                "trial %d: another tuner has taken it over, since none of this one's signs of life had arrived",
                trial.number,
            )
        return is_lost

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL)

    def _runs(self, trial: Trial | FrozenTrial) -> list[str]:
        """Return the ids of a trial's runs, one for each seed."""
        stem, _, seed = str(trial.user_attrs[RUN]).rpartition("-s")
        return [f"{stem}-s{int(seed) + number}" for number in range(self.space.seeds)]

    def _created_runs(self, trial: Trial | FrozenTrial) -> list[str]:
        """Return the ids of the runs that a trial created; one that was finished before, by anybody, is excluded."""
        return [run for run in self._runs(trial) if run not in trial.user_attrs.get(FOUND, ())]

    def _is_finished(self, run_id: str) -> bool:
        self.workspace.pull([run_id], World.alone(), checkpoints="none")
        return self.workspace.run(run_id).is_finished
