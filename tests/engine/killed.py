"""Run as a process of its own: train the same run again and again, and die at a chosen moment each time.

Every attempt is a forked process that kills itself with SIGKILL, so nothing is flushed, closed or unlocked by Python.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from raykd.distributed.host import prepare_host
from raykd.engine import reporter as report
from raykd.engine import run
from raykd.engine.run import RunContext
from raykd.methods import Method
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe
from raykd.store import checkpoint
from raykd.store.checkpoint import Checkpoint
from tests.golden.shrunk import shrunk

STEPS, EVERY = 12, 2
PAIRS = [f"schedule.steps={STEPS}", f"schedule.report_every={EVERY}", "controls=[]"]
RECIPES = {
    "dafl_digits": PAIRS,
    # Four batches in the warm-up, then two a call: from the eighth call on some go from the memory.
    "fast_digits": [
        *PAIRS,
        "method.generator_maps=[8,8]",
        "method.inner_steps=2",
        "method.meta=reptile",
        "method.warmup_calls=4",
        "method.warmup_batches=1",
        "method.batches_per_call=2",
        "method.student_steps=2",
        "method.max_images=160",
        "method.eviction=random",
        "method.views=2",
    ],
    "mosaickd_mnist": [*PAIRS, "data.buffer=48"],  # reading its other images as it goes, three batches an epoch
}


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def at(target: Any, name: str, when: Callable[..., bool], *, after: bool = False) -> Any:
    """Patch a function so that the process dies before (or after) the call for which ``when`` holds."""
    original = getattr(target, name)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        doomed = when(*args, **kwargs)
        result = None if doomed and not after else original(*args, **kwargs)
        return die() if doomed else result

    return mock.patch.object(target, name, deadly)


def half_a_line(step: int) -> Any:
    """Leave the line of a step without its end, as a write that was cut off does."""
    original = report.LocalReporter._write_metrics

    def deadly(self: Any, metrics: Mapping[str, float], saved: Checkpoint) -> None:
        original(self, metrics, saved)
        if saved.step == step:
            path = self._run.path / "metrics.jsonl"
            path.write_bytes(path.read_bytes()[:-20])
            die()

    return mock.patch.object(report.LocalReporter, "_write_metrics", deadly)


MOMENTS = {
    "in a step": lambda: at(
        Method, "begin_step", lambda self: "teacher" in self.roles and self.steps_done == 3, after=True
    ),
    "between the files of a checkpoint": lambda: at(
        checkpoint, "write_json", lambda path, _: "step_0000004" in str(path)
    ),
    "before a checkpoint gets its name": lambda: at(
        Path, "rename", lambda path, _: path.name == ".writing-step_0000006"
    ),
    "in a line of the metrics": lambda: half_a_line(8),
    "before an old checkpoint is removed": lambda: at(
        checkpoint, "_steps", lambda folder: (folder / "step_0000010").exists()
    ),
    "after the last checkpoint": lambda: at(run, "finalize", lambda *_: True),
}


def attempt(place: RunContext, recipe: Recipe, moment: str) -> int:
    """Fork, run, die at the moment; return the wait status."""
    pid = os.fork()
    if pid == 0:
        with MOMENTS[moment]():
            run.run(resolve(recipe), place)
        os._exit(0)  # not reached when the moment came
    return os.waitpid(pid, 0)[1]


def main(root: Path, name: str) -> None:
    """Die at every moment in turn; print how, and what was on the disk then."""
    prepare_host(1)
    # Slow: once, not in every fork. The first optimizer imports the second.
    for module in ("sklearn.datasets", "torch._dynamo", "raykd.store.curves"):
        with suppress(ImportError):
            importlib.import_module(module)
    with shrunk(STEPS, root) as (place, load):
        recipe = load(name, RECIPES[name])
        for moment in MOMENTS:
            status = attempt(place, recipe, moment)
            saved = sorted(p.name for p in (root / "runs" / resolve(recipe).run_id / "checkpoints").glob("*"))
            signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            print(json.dumps({"moment": moment, "signal": signal_number, "saved": saved}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
