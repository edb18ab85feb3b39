"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846) as trials of a study, by generations.

All members train to the end of a generation. Then the worst go on from copies of the best with other numbers, the
others as they are. A trial is one generation of one member. Its recipe holds the numbers of every generation so far as
``changes``, so a member's run id names all that made it, and training that recipe alone gives the same weights.
"""

import math
import random
from collections.abc import Iterator

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from raykd.distributed.world import World
from raykd.recipe.experiment import Experiment
from raykd.search.dimension import Dimension
from raykd.search.pruning import prune
from raykd.search.space import SearchSpace, Values
from raykd.search.study import FOUND, GENERATION, REASON, RUN, ours
from raykd.store.fork import fork
from raykd.store.workspace import Workspace

MEMBER, START, CHANGES = "member", "start", "changes"
"""User attributes of trials: which member of the population, its first numbers, and how they became others."""
_FACTORS = (0.8, 1.2)
_DIGITS = 6  # of a number, so that a recipe stays readable


class Population:
    """Says which members are to train next; asked again by any tuner of the study, it says the same."""

    def __init__(self, study: Study, space: SearchSpace, workspace: Workspace, sign: int) -> None:
        """``sign`` is 1 where a greater objective is better, -1 where a smaller one is."""
        self._study, self._space, self._workspace, self._sign = study, space, workspace, sign
        self._ends = space.generation_ends()

    def has_room(self) -> bool | None:
        """Tell whether a trial can be asked for: None where there will never be one again."""
        trials = self._members()
        generation = max((trial.user_attrs[GENERATION] for trial in trials), default=0)
        mine = [trial for trial in trials if trial.user_attrs[GENERATION] == generation]
        if len({trial.user_attrs[MEMBER] for trial in mine}) < self._space.trials:  # a tuner may have died in between
            self._propose(generation)
        elif all(trial.state.is_finished() for trial in mine):
            if all(trial.state == TrialState.FAIL for trial in mine):
                return None
            if generation < len(self._ends) - 1:
                generation += 1
                self._propose(generation)
        if any(trial.state == TrialState.WAITING for trial in self._members()):
            return True
        return None if generation == len(self._ends) - 1 else False

    def failure(self) -> str | None:
        """Return why the population has ended before its time, where all members of a generation failed."""
        trials = self._members()
        generation = max((trial.user_attrs[GENERATION] for trial in trials), default=0)
        mine = [trial for trial in trials if trial.user_attrs[GENERATION] == generation]
        if not mine or any(trial.state != TrialState.FAIL for trial in mine):
            return None
        return f"all {len(mine)} members failed in generation {generation}: {mine[0].user_attrs.get(REASON)}"

    def knows(self, trial: Trial) -> bool:
        """Tell whether a trial is to be trained: it is a member's, and no other tuner asked for the same before.

        One that nobody proposed is what a study makes up when another tuner took the last that was waiting.
        """
        if GENERATION not in trial.user_attrs:
            return False
        place = (trial.user_attrs[MEMBER], trial.user_attrs[GENERATION])
        earlier = [
            other.user_attrs
            for other in self._members()
            if other.number < trial.number and other.state != TrialState.WAITING
        ]
        return all((told[MEMBER], told[GENERATION]) != place for told in earlier)

    def _members(self) -> list[FrozenTrial]:
        """Return the trials that were proposed here."""
        return [trial for trial in ours(self._study) if GENERATION in trial.user_attrs]

    def experiment_of(self, trial: Trial | FrozenTrial) -> Experiment:
        """Return the run that a placed trial trains a part of."""
        return self._space.experiment_of(trial.user_attrs[START], trial.user_attrs[CHANGES])

    def segment(self, trial: Trial) -> tuple[int, int | None]:
        """Return the step that a trial begins at and the one that it is left at, None at the end."""
        generation = trial.user_attrs[GENERATION]
        begin = self._ends[generation - 1] if generation else 0
        return begin, None if generation == len(self._ends) - 1 else self._ends[generation]

    def _propose(self, generation: int) -> None:
        """Ask for the members of a generation that are not asked for yet."""
        asked = {t.user_attrs[MEMBER] for t in self._members() if t.user_attrs[GENERATION] == generation}
        rng = random.Random(f"{self._space.sampler.seed}-{generation}")
        for member, (values, told) in enumerate(self._next(generation, rng) if generation else self._first(rng)):
            if member not in asked:
                self._study.enqueue_trial(values, user_attrs={MEMBER: member, GENERATION: generation, **told})

    def _first(self, rng: random.Random) -> Iterator[tuple[Values, Values]]:
        for member in range(self._space.trials):
            values = {key: self._drawn(dimension, rng.random()) for key, dimension in self._space.space.items()}
            if member < len(self._space.points):
                values |= self._space.points[member]
            yield values, {START: values, CHANGES: []}

    def _next(self, generation: int, rng: random.Random) -> Iterator[tuple[Values, Values]]:
        """Yield the values of all members and what made them, having given copies of the best to the worst."""
        trials = [trial for trial in self._members() if trial.user_attrs[GENERATION] == generation - 1]
        before = sorted(trials, key=lambda trial: int(trial.user_attrs[MEMBER]))
        ranking = sorted(before, key=self._badness)
        replaced = min(max(1, int(len(before) * self._space.scheduler.quantile)), len(before) // 2)
        best = [trial for trial in ranking[: max(1, replaced)] if trial.state == TrialState.COMPLETE]
        worst = ranking[len(ranking) - replaced :]
        step, runs = self._ends[generation - 1], set()
        for trial in before:
            donor, values, changes = trial, trial.params, trial.user_attrs[CHANGES]
            if trial in worst or trial.state != TrialState.COMPLETE:
                donor = rng.choice(best)
                values = self._explored(donor.params, rng)
                changes = [*donor.user_attrs[CHANGES], {"at": step, "values": values}]
            run = self._space.experiment_of(donor.user_attrs[START], changes).run_id
            runs.add(run)
            if run != donor.user_attrs[RUN]:
                self._hand_down(run, donor.user_attrs[RUN], step)
            yield values, {START: donor.user_attrs[START], CHANGES: changes, RUN: run}
        left = {trial.user_attrs[RUN]: trial for trial in before if RUN in trial.user_attrs}
        for run in left.keys() - runs:
            if run not in left[run].user_attrs.get(FOUND, ()):
                prune(self._workspace, run)

    def _hand_down(self, heir: str, donor: str, step: int) -> None:
        alone, run = World.alone(), self._workspace.run
        self._workspace.pull([donor, heir], alone)
        if fork(run(heir), run(donor), step):
            self._workspace.push(heir, alone)

    def _badness(self, trial: FrozenTrial) -> tuple[float, int]:
        value = trial.values[0] if trial.state == TrialState.COMPLETE else -math.inf * self._sign
        return -self._sign * value, trial.number

    def _explored(self, values: Values, rng: random.Random) -> Values:
        """Return numbers near those of a better member, some of them drawn anew."""
        found = {}
        for key, dimension in self._space.space.items():
            anew, factor, at = rng.random(), rng.choice(_FACTORS), rng.random()
            if anew < self._space.scheduler.resample:
                found[key] = self._drawn(dimension, at)
            else:
                found[key] = _rounded(values[key] * factor, dimension)
        return found

    @staticmethod
    def _drawn(dimension: Dimension, at: float) -> float:
        """Return the number at a share of a dimension's range, on its scale."""
        low, high = dimension.bounds or (0.0, 1.0)
        scaled = low * (high / low) ** at if dimension.loguniform is not None else low + (high - low) * at
        return _rounded(scaled, dimension)


def _rounded(value: float, dimension: Dimension) -> float:
    low, high = dimension.bounds or (0.0, 1.0)
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)
