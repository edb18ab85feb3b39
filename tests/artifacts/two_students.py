"""One of several gloo workers, as torchrun would start it: trains a recipe with its teacher live, then from the cache.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.artifacts.two_students FOLDER
"""

import json
import sys
from pathlib import Path

from raykd.config.runtime import Runtime
from raykd.distributed.world import World
from raykd.engine.reporter import LocalReporter
from raykd.engine.run import RunContext, run
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import recipe_from_dict
from raykd.store.workspace import Workspace


def main(folder: Path) -> None:
    """Train FOLDER/recipe.json in the stores FOLDER/live and FOLDER/cached."""
    recipe = recipe_from_dict(json.loads((folder / "recipe.json").read_text()))
    world = World.current()
    for how in ("live", "cached"):
        runtime = Runtime.model_validate({"teacher_logits": how})
        run(
            resolve(recipe),
            RunContext(world, Workspace(None, folder / how), runtime, lambda path: LocalReporter(path, world=world)),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
