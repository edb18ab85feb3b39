"""Optuna's samplers by the names that a space gives them."""

import warnings
import zlib
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from raykd.distributed.world import mix
from raykd.search.space import SearchSpace


class SeededByTrial(BaseSampler):
    """Makes the sampler anew for every trial, seeded by its number, and for every value that it draws by itself.

    So tuners that share a study, or open it again, never propose the same random values. What is proposed depends on
    the study's trials alone, not on who drew how much before: with one trial at a time, a search that is killed and
    goes on proposes what an undisturbed one does. With several, it depends on which have ended by then.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Make the sampler of a space."""
        self._space, self._sampler = space, _sampler(space, 0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler."""
        self._sampler = _sampler(self._space, trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Pass on."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Pass on."""
        if isinstance(self._sampler, NSGAIISampler):
            # Who asks first for a generation's parents gets them in another order than who asks for the kept ones.
            self._sampler.get_parent_population(study, self._sampler.get_trial_generation(study, trial))
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a value of one parameter; seeded by its name too, whichever of the trial's others were drawn before."""
        sampler = _sampler(self._space, trial.number, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass on."""
        self._sampler.after_trial(study, trial, state, values)


def _sampler(space: SearchSpace, number: int, parameter: str = "") -> BaseSampler:
    # numpy takes 32 bits.
    seed, startup = mix(space.sampler.seed, number, zlib.crc32(parameter.encode())) % 2**32, space.sampler.startup
    match space.sampler.name:
        case "tpe":
            with warnings.catch_warnings():  # of conditions, in groups: "experimental" since Optuna 2.8
                warnings.simplefilter("ignore", ExperimentalWarning)
                return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=max(4, startup))
        case "cmaes":
            return CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        case _:
            return RandomSampler(seed=seed)
