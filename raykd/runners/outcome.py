"""How the runs of a batch end."""

from dataclasses import dataclass

from raykd.errors import RaykdError
from raykd.results import RunResult


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: with its result, or with the reason (one line) why there is none."""

    result: RunResult | None
    reason: str | None = None


class BatchStopped(RaykdError):
    """The batch was asked to stop; the runs at work have saved first."""

    exit_code = 130

    def __init__(self, finished: int, stopped: int, total: int) -> None:
        """Say how many of the runs are finished, and how many were at work."""
        super().__init__(
            f"stopped with {finished} of {total} runs finished and {stopped} saved on the way; "
            "the same command continues"
        )
