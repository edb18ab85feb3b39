"""Jobs are dealt once each, and nobody is free while another job waits."""

import pytest

from raykd.methods.jobs import JobQueues


def trace(queues: JobQueues) -> list[list[int | None]]:
    rows = []
    while queues.left:
        rows.append(queues.current)
        queues.advance()
    return rows


def test_a_free_worker_takes_the_next_job() -> None:
    queues = JobQueues({3: 1, 5: 2, 0: 3, 1: 3}, 2)
    assert queues.steps == 5
    assert trace(queues) == [[3, 5], [0, 5], [0, 1], [0, 1], [None, 1]]


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_every_job_gets_its_steps(workers: int) -> None:
    left = {job: 1 + job % 3 for job in range(5)}
    queues = JobQueues(left, workers)
    rows = trace(queues)
    assert len(rows) == queues.steps
    done = [job for row in rows for job in row if job is not None]
    assert {job: done.count(job) for job in left} == left
    for job in left:
        assert len({rank for row in rows for rank, one in enumerate(row) if one == job}) == 1, "of one worker"


def test_what_is_left_can_be_dealt_anew() -> None:
    queues = JobQueues({0: 4, 1: 4, 2: 4, 9: 0}, 2)
    assert [queues.advance() for _ in range(4)] == [[], [], [], [0, 1]]
    assert queues.advance() == []
    assert queues.left == {2: 3}
    assert queues.of(0) == (2,)
    assert JobQueues(queues.left, 5).steps == 3
    assert JobQueues({}, 2).steps == 0
