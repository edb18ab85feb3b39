"""One of two gloo workers that agree on the outcome of actions which fail on some of them.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.distributed.agreeing FOLDER
"""

import json
import sys
from pathlib import Path

from raykd.distributed.world import World
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError, MissingData, SetupError
from tests.worker_pair import outcome


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
    }
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
