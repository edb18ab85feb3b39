"""Who proposes the trials of a search: a sampler, trial by trial, or a population, generation by generation."""

import logging
from typing import Protocol

from optuna.trial import Trial

from raykd.search.grid import count_trials
from raykd.search.population import Population
from raykd.search.study import enqueue, learn_from_earlier, started_trials
from raykd.search.trials import DONE, NoProposal, Proposal, Segment, StudyTrials, TrialOutcome

logger = logging.getLogger(__name__)


class Proposer(Protocol):
    """Proposes trials and hears how they end. Any tuner of the study may ask: all that is known is in the study."""

    @property
    def target(self) -> int:
        """Return how many trials the search makes."""

    def next(self) -> Proposal | NoProposal:
        """Return a trial to train now; WAIT if there is none until others have ended, DONE if there is none at all."""

    def ended(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Record how a trial ended, and remove the checkpoints that nobody goes on from."""

    def failure(self) -> str | None:
        """Return why the search cannot reach its target, None while it can."""


class Sampling:
    """Proposes what the study's sampler draws, whatever is at work, until the target is reached."""

    def __init__(self, trials: StudyTrials) -> None:
        """Propose trials of a study; what is to be tried first is enqueued there."""
        self._trials = trials
        self.target = count_trials(trials.space)

    def next(self) -> Proposal | NoProposal:
        """Return a trial to train, DONE once as many as the target have ended or are at work."""
        study, space = self._trials.study, self._trials.space
        while len(started_trials(study)) < self.target:
            trial = self._trials.ask()
            if sum(other.number < trial.number for other in started_trials(study)) >= self.target:
                self._trials.give_back(trial)  # other tuners have asked for the last ones since the look above
                return DONE
            proposal = self._trials.begin(trial, space.make_experiment, Segment())
            if proposal is not None:
                return proposal
        return DONE

    def ended(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Record how a trial ended; of complete trials the best keep their checkpoints."""
        if self._trials.record_end(trial, outcome):
            self._trials.remove_checkpoints()

    def failure(self) -> str | None:
        """Return None: however trials fail, the next may not."""
        return None


def make_proposer(trials: StudyTrials) -> Proposer:
    """Return the proposer of a space; for a sampler the points, the grid and earlier trials are put into the study.

    Raises:
        UsageError: if the space names an earlier search and that cannot be read, or its objectives are others.
    """
    if trials.space.scheduler.name == "pbt":
        return Population(trials)
    enqueue(trials.study, trials.space)
    if learnt := learn_from_earlier(trials.study, trials.space):
        logger.info("%d trials of %s are known beforehand", learnt, trials.space.earlier)
    return Sampling(trials)
