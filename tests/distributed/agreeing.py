"""One of two gloo workers that agree on the outcome of actions which fail on some of them.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.distributed.agreeing FOLDER
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raykd.distributed.progress import PROGRESS
from raykd.distributed.world import World
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError, MissingData, SetupError
from tests.worker_pair import outcome


def waited(world: World) -> float:
    """Return how long this worker waited for the other, of which the second is late."""
    before = PROGRESS.waited
    if world.rank == 1:
        time.sleep(0.5)
    world.gather_objects(world.rank)
    return PROGRESS.waited - before


def left_alone(world: World) -> dict[str, Any]:
    """Sum up with a worker that leaves instead, without a word."""
    if world.rank == 1:
        dist.destroy_process_group()
        return {}
    return outcome(lambda: world.sum(torch.ones(1)))


def main(folder: Path) -> None:
    """Try the cases in turn: a worker that left one too early or too late would spoil the next."""
    world = World.current()

    def attempt(*errors: Exception | None) -> int:
        """Raise this worker's error, if it has one."""
        error = errors[world.rank]
        if error is not None:
            raise error
        return 10 * world.rank

    found = {
        "own_results": outcome(lambda: world.agree(lambda: attempt(None, None))),
        "result_of_first": outcome(lambda: world.agree(lambda: {"from": world.rank}, on_first=True)),
        "second_fails": outcome(lambda: world.agree(lambda: attempt(None, CorruptError("torn")))),
        "first_fails": outcome(lambda: world.agree(lambda: attempt(Interrupted(3, 7), None), on_first=True)),
        "both_fail": outcome(lambda: world.agree(lambda: attempt(SetupError("disk"), MissingData("images")))),
        "bug_of_second": outcome(lambda: world.agree(lambda: attempt(None, KeyError("x")))),
        "bug_of_first": outcome(lambda: world.agree(lambda: attempt(KeyError("x"), None), on_first=True)),
        "error_and_bug": outcome(lambda: world.agree(lambda: attempt(CorruptError("torn"), KeyError("x")))),
        "still_together": world.gather_objects(world.rank),
        "waited": waited(world),
        "left_alone": left_alone(world),
    }
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
