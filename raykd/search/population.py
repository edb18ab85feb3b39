"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846) as trials of a study, by generations.

All members train to the end of a generation. Then the worst go on from copies of the best with other numbers, the
others as they are. A trial is one generation of one member. Its recipe holds the numbers of every generation so far as
``changes``, so a member's run id names all that made it, and training that recipe alone gives the same weights.
"""

import math
import random
from collections.abc import Iterator
from functools import partial

from optuna.trial import FrozenTrial, Trial, TrialState

from raykd.distributed.world import World
from raykd.recipe.experiment import Experiment
from raykd.search.attributes import CHANGES, FOUND, GENERATION, MEMBER, REASON, RUN, START
from raykd.search.dimension import Dimension
from raykd.search.objectives import OBJECTIVES
from raykd.search.space import Values
from raykd.search.study import own_trials
from raykd.search.trials import DONE, WAIT, NoProposal, Proposal, Segment, StudyTrials, TrialOutcome
from raykd.store.fork import fork

_FACTORS = (0.8, 1.2)
_DIGITS = 6  # significant, of a number, so that a recipe stays readable


class Population:
    """Proposes the members of one generation after the other; any tuner of the study proposes the same."""

    def __init__(self, trials: StudyTrials) -> None:
        """Propose trials of a study whose space has numbers and one objective only."""
        self._trials, self._space = trials, trials.space
        self._sign = 1 if OBJECTIVES[trials.objectives[0]] == "maximize" else -1
        self._ends = self._space.generation_ends()
        self.target = self._space.trials * len(self._ends)

    def next(self) -> Proposal | NoProposal:
        """Return a member to train; WAIT while a generation has members at work that the next one depends on."""
        while True:
            generation, members = self._latest_generation()
            if len(members) < self._space.trials:  # the first one, or the tuner that enqueued it died on the way
                self._enqueue(generation)
            elif _all_failed(members):
                return DONE
            elif generation < len(self._ends) - 1 and all(member.state.is_finished() for member in members):
                generation += 1
                self._enqueue(generation)
            if all(member.state != TrialState.WAITING for member in self._members()):
                return DONE if generation == len(self._ends) - 1 else WAIT
            trial = self._trials.ask()
            if not self._is_new_member(trial):
                self._trials.give_back(trial)
                continue
            proposal = self._trials.begin(trial, partial(self._make_experiment, trial), self._segment(trial))
            if proposal is not None:
                return proposal

    def ended(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Record how a member ended; before the last generation the next one may go on from any checkpoint."""
        if self._trials.record_end(trial, outcome) and self._segment(trial).end is None:
            self._trials.remove_checkpoints()

    def failure(self) -> str | None:
        """Return why there is no next generation: all members of the latest one failed."""
        generation, members = self._latest_generation()
        if not _all_failed(members):
            return None
        return f"all {len(members)} members failed in generation {generation}: {members[0].user_attrs.get(REASON)}"

    def _members(self) -> list[FrozenTrial]:
        """Return the trials that a population has enqueued, those that wait among them."""
        return [trial for trial in own_trials(self._trials.study) if GENERATION in trial.user_attrs]

    def _latest_generation(self) -> tuple[int, list[FrozenTrial]]:
        members = self._members()
        latest = max((member.user_attrs[GENERATION] for member in members), default=0)
        return latest, [member for member in members if member.user_attrs[GENERATION] == latest]

    def _is_new_member(self, trial: Trial) -> bool:
        """Tell whether a trial is a member's, and no tuner has asked for the same member and generation before.

        It is nobody's where another tuner took the last waiting trial: then the study makes one up.
        """
        if GENERATION not in trial.user_attrs:
            return False
        started = [
            (other.user_attrs[MEMBER], other.user_attrs[GENERATION])
            for other in self._members()
            if other.number < trial.number and other.state != TrialState.WAITING
        ]
        return (trial.user_attrs[MEMBER], trial.user_attrs[GENERATION]) not in started

    def _make_experiment(self, trial: Trial, values: Values) -> Experiment:
        """Resolve the run of which a member's trial trains a segment; its ``values`` are the last of its changes."""
        return self._space.make_experiment(trial.user_attrs[START], trial.user_attrs[CHANGES])

    def _segment(self, trial: Trial) -> Segment:
        """Return the steps of a member's run that belong to its generation."""
        generation = trial.user_attrs[GENERATION]
        begin = self._ends[generation - 1] if generation else 0
        return Segment(begin, None if generation == len(self._ends) - 1 else self._ends[generation])

    def _enqueue(self, generation: int) -> None:
        """Enqueue the members of a generation that are not in the study yet."""
        enqueued = {t.user_attrs[MEMBER] for t in self._members() if t.user_attrs[GENERATION] == generation}
        # Seeded by the generation: a tuner that takes over draws the same numbers.
        rng = random.Random(f"{self._space.sampler.seed}-{generation}")
        for member, (values, origin) in enumerate(self._succeed(generation, rng) if generation else self._first(rng)):
            if member not in enqueued:
                self._trials.study.enqueue_trial(values, user_attrs={MEMBER: member, GENERATION: generation, **origin})

    def _first(self, rng: random.Random) -> Iterator[tuple[Values, Values]]:
        """Yield the values of each member of the first generation, and its user attributes: the points come first."""
        for member in range(self._space.trials):
            values = {key: _value_at(dimension, rng.random()) for key, dimension in self._space.space.items()}
            if member < len(self._space.points):
                values |= self._space.points[member]
            yield values, {START: values, CHANGES: []}

    def _succeed(self, generation: int, rng: random.Random) -> Iterator[tuple[Values, Values]]:
        """Yield the values of each member of a later generation, and its user attributes.

        The worst of the generation before get copies of the best ones' runs, with other numbers. Runs that nobody goes
        on from are pruned.
        """
        trials = [trial for trial in self._members() if trial.user_attrs[GENERATION] == generation - 1]
        previous = sorted(trials, key=lambda trial: int(trial.user_attrs[MEMBER]))
        ranking = sorted(previous, key=self._rank)
        replaced = min(max(1, int(len(previous) * self._space.scheduler.quantile)), len(previous) // 2)
        best = [trial for trial in ranking[: max(1, replaced)] if trial.state == TrialState.COMPLETE]
        worst = ranking[len(ranking) - replaced :]
        step, continued = self._ends[generation - 1], set()
        for trial in previous:
            donor, values, changes = trial, trial.params, trial.user_attrs[CHANGES]
            if trial in worst or trial.state != TrialState.COMPLETE:
                donor = rng.choice(best)
                values = self._explore(donor.params, rng)
                changes = [*donor.user_attrs[CHANGES], {"at": step, "values": values}]
            run = self._space.make_experiment(donor.user_attrs[START], changes).run_id
            continued.add(run)
            if run != donor.user_attrs[RUN]:
                self._fork(run, donor.user_attrs[RUN], step)
            yield values, {START: donor.user_attrs[START], CHANGES: changes, RUN: run}
        runs = {trial.user_attrs[RUN]: trial for trial in previous if RUN in trial.user_attrs}
        for run in runs.keys() - continued:
            if run not in runs[run].user_attrs.get(FOUND, ()):
                self._trials.prune(run)

    def _fork(self, heir: str, donor: str, step: int) -> None:
        """Let the run ``heir`` begin with the donor's checkpoint of a step."""
        alone, workspace = World.alone(), self._trials.workspace
        workspace.pull([donor, heir], alone)
        if fork(workspace.run(heir), workspace.run(donor), step):
            workspace.push(heir, alone)

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        """Return a key that sorts the best trial first, and failed ones last."""
        value = trial.values[0] if trial.state == TrialState.COMPLETE else -math.inf * self._sign
        return -self._sign * value, trial.number

    def _explore(self, values: Values, rng: random.Random) -> Values:
        """Return numbers near those of a better member, some of them drawn anew."""
        explored = {}
        for key, dimension in self._space.space.items():
            # All three are drawn for each field, so that its number does not depend on what became of the others.
            redraw, factor, share = rng.random(), rng.choice(_FACTORS), rng.random()
            if redraw < self._space.scheduler.resample:
                explored[key] = _value_at(dimension, share)
            else:
                explored[key] = _round(values[key] * factor, dimension)
        return explored


def _all_failed(members: list[FrozenTrial]) -> bool:
    return bool(members) and all(member.state == TrialState.FAIL for member in members)


def _value_at(dimension: Dimension, share: float) -> float:
    """Return the number at a share, from 0 to 1, of a dimension's range, on its scale."""
    low, high = dimension.bounds or (0.0, 1.0)
    value = low * (high / low) ** share if dimension.loguniform is not None else low + (high - low) * share
    return _round(value, dimension)


def _round(value: float, dimension: Dimension) -> float:
    """Round to a few digits, within the bounds."""
    low, high = dimension.bounds or (0.0, 1.0)
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)
