"""Adapter between Ray Tune and a search's proposer: Tune asks for trials and tells how they go, by their ids."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.trial import Trial
from ray.tune.search import Searcher

from raykd.errors import SetupError
from raykd.recipe.experiment import Experiment
from raykd.runners.ray.trial import FAILED, FINAL, INTERRUPTED, OUTAGE, REPORT
from raykd.search.attributes import IMAGES_MADE, TEST_ACCURACY
from raykd.search.proposer import Proposer
from raykd.search.study_storage import storage_errors
from raykd.search.trials import (
    DONE,
    Complete,
    Failed,
    NoProposal,
    Proposal,
    Pruned,
    Segment,
    StudyTrials,
    TrialOutcome,
    TrialReport,
)


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray is not typed here
    """Runs in the driver, which alone touches the study; trials know nothing of it."""

    def __init__(
        self,
        trials: StudyTrials,
        proposer: Proposer,
        *,
        should_stop: Callable[[], bool],
        make_config: Callable[[Experiment, Segment], dict[str, Any]],
        on_outage: Callable[[str], None],
        on_taken_over: Callable[[str], None],
    ) -> None:
        """Pass on what ``proposer`` proposes.

        Args:
            trials: the trials of the study.
            proposer: who proposes and is told of ends.
            should_stop: whether no trial is to start any more.
            make_config: makes what a trial's process is given.
            on_outage: is told the reason once no trial can go on: a full disk, a store or a database that is gone.
            on_taken_over: is told Tune's id of a trial that another tuner has, which is to be left unsaved here.
        """
        super().__init__()
        self._study_trials, self._proposer = trials, proposer
        self._should_stop, self._make_config, self._on_outage = should_stop, make_config, on_outage
        self._on_taken_over = on_taken_over
        self._trials: dict[str, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune pickles its searcher, and the study is the record."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept what Tune knows of the space: nothing, since the space is ours."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of a trial to start; in Tune's words None for one that has to wait, FINISHED for none."""
        proposal: Proposal | NoProposal = DONE
        with self._noting_outages():
            if not self._should_stop():
                proposal = self._proposer.next()
        if isinstance(proposal, Proposal):
            self._trials[trial_id] = proposal.trial
            return self._make_config(proposal.experiment, proposal.segment)
        return str(Searcher.FINISHED) if proposal is DONE else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a report; the last one of a trial is recorded with its end, and none of one that another has."""
        if trial_id in self._trials and not result.get(FINAL):
            with self._noting_outages():
                if not self._study_trials.record_report(self._trials[trial_id], self._report(result)):
                    self._on_taken_over(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended; ``error`` tells that its process died more often than it may."""
        trial, result = self._trials.pop(trial_id, None), result or {}
        if trial is None:
            return
        if OUTAGE in result:
            self._on_outage(f"trial {trial.number}: {result[OUTAGE]}")
        outcome = self._outcome(result, error)
        if outcome is not None:
            with self._noting_outages():  # it stays at work, for the next tuner, which finds its run finished
                self._proposer.ended(trial, outcome)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    @contextmanager
    def _noting_outages(self) -> Iterator[None]:
        """Pass on what a disk or a database refuses within: Tune would take what is raised here for a trial's fault."""
        try:
            with storage_errors(self._study_trials.study.study_name):
                yield
        except SetupError as error:
            self._on_outage(str(error))

    def _report(self, result: Mapping[str, Any]) -> TrialReport:
        measured = {name: result[name] for name in self._study_trials.objectives if name in result}
        return TrialReport(int(result.get(REPORT, 0)), measured)

    def _outcome(self, result: Mapping[str, Any], died: bool) -> TrialOutcome | None:
        """Return how a trial ended; None for one that was interrupted: it stays at work, for the next tuner."""
        if INTERRUPTED in result or (died and self._should_stop()):  # ended since it did not answer, it has not saved
            return None
        if FAILED in result or died:
            return Failed(str(result.get(FAILED, "its process died")))
        if FINAL in result:
            return Complete(self._report(result), int(result[IMAGES_MADE]), result.get(TEST_ACCURACY))
        if not result or self._should_stop():  # Tune ended it because the search ends, not by its reports
            return None
        return Pruned(self._report(result))
