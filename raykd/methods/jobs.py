"""Jobs that need nothing of each other, dealt to workers: who is at which of them when, the same on every worker.

Every worker is at one job at a time and does one step of it in a step of the run; whoever is free takes the next one.
"""

from collections import deque
from collections.abc import Mapping
from heapq import heapify, heapreplace


class JobQueues:
    """What is left to do, in the order in which each worker will do it.

    Attributes:
        steps: how many steps there are until all is done.
    """

    def __init__(self, left: Mapping[int, int], workers: int) -> None:
        """Deal jobs, in their order, each to the worker that will be free first.

        Args:
            left: the steps that are left of each job by its number; those with none are done.
            workers: how many there are.
        """
        self.left = {job: steps for job, steps in left.items() if steps}
        self._queues: list[deque[int]] = [deque() for _ in range(workers)]
        free = [(0, rank) for rank in range(workers)]
        heapify(free)
        for job, steps in self.left.items():
            busy, rank = free[0]
            self._queues[rank].append(job)
            heapreplace(free, (busy + steps, rank))
        self.steps = max(busy for busy, _ in free)

    @property
    def current(self) -> list[int | None]:
        """Return the job that each worker is at in the step to come; None for one that has none left."""
        return [queue[0] if queue else None for queue in self._queues]

    def of(self, rank: int) -> tuple[int, ...]:
        """Return the jobs that a worker has still to do, in order."""
        return tuple(self._queues[rank])

    def advance(self) -> list[int]:
        """Count one step of every worker's job and return the jobs that are done with it."""
        done = []
        for queue in self._queues:
            if not queue:
                continue
            self.left[queue[0]] -= 1
            if not self.left[queue[0]]:
                del self.left[queue[0]]
                done.append(queue.popleft())
        return done
