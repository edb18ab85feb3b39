"""The sections of a search space that say who proposes trials, and who ends them early or changes them on the way."""

from typing import Literal

from pydantic import Field

from raykd.config.base import Config


class Sampler(Config):
    """Who proposes the next trial."""

    name: Literal["tpe", "random", "grid", "nsga2", "cmaes"] = "tpe"
    seed: int = Field(default=0, ge=0)
    startup: int = Field(default=8, ge=1, description="random trials before tpe and cmaes propose their own")
    grid: int = Field(default=4, ge=2, description="values of a number for grid; of a choice it takes all")


class Scheduler(Config):
    """Who ends a trial early, by its objective at its reports, or lets it go on from a better one with other numbers.

    ``pbt`` is population-based training (Jaderberg et al. 2017, arXiv 1711.09846): all trials train side by side;
    every ``interval`` reports the worst ``quantile`` of them go on from copies of the best, with each number multiplied
    by 0.8 or 1.2, or drawn anew.
    """

    name: Literal["none", "asha", "median", "pbt"] = "none"
    grace: int = Field(default=1, ge=1, description="of asha and median: reports that every trial is given")
    reduction: int = Field(default=3, ge=2, description="of asha: one in so many goes on at each rung")
    interval: int = Field(default=1, ge=1, description="of pbt: reports from one comparison to the next")
    quantile: float = Field(default=0.25, gt=0, le=0.5, description="of pbt: the share that is replaced")
    resample: float = Field(default=0.25, ge=0, le=1, description="of pbt: how likely a number is drawn anew")
