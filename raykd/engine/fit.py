"""The whole engine on one screen: step, report, save, stop. It knows no method's name."""

import copy
import time
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from raykd.data.streams import TrainStream
from raykd.engine.evaluate import Exam
from raykd.engine.report import Reporter
from raykd.engine.samples import sample_sheet
from raykd.engine.selection import Selection
from raykd.engine.sentinel import check_finite, parameter_norms
from raykd.engine.state import averaged_weights, capture, restore
from raykd.engine.stop import Interrupted, StopPoll
from raykd.methods.base import Method
from raykd.recipe import ScheduleConfig


def fit(
    method: Method,
    streams: Mapping[str, TrainStream],
    teacher: nn.Module | None,
    exam: Exam,
    *,
    schedule: ScheduleConfig,
    reporter: Reporter,
    resume: Path | None,
) -> tuple[Selection, float]:
    """Train to the end of the schedule, going on from the checkpoint ``resume``.

    Returns the selected students and the seconds spent, earlier parts of a resumed run included.

    Raises:
        Interrupted: after saving, when a stop was asked for.
        RunFailed: when a reported quantity is not finite.
    """
    world = method.world
    evaluator = copy.deepcopy(method.student)
    selection = Selection(method, teacher, evaluator)
    for network in method.trained.values():
        world.synchronise(network)
    spent = earlier = restore(resume, method, selection)
    first, started = method.steps_done, time.monotonic()
    stop = StopPoll(reporter, world, first)

    for step in range(first, schedule.steps):
        losses = method.step({name: stream.batch(step) for name, stream in streams.items()})
        done = step + 1
        due = done % schedule.report_every == 0 or done == schedule.steps
        stopping = stop.asked(done)
        if not due and not stopping:
            continue
        metrics, samples = None, None
        row = {name: world.mean(value.detach()).item() for name, value in losses.items()}
        check_finite({**row, **parameter_norms(method.trained)}, done)
        if due:
            weights = averaged_weights(method.student, world)
            evaluator.load_state_dict(weights)
            test = exam.score(evaluator)
            blind = selection.consider(weights, done, test)
            check_finite({**test, **blind}, done)
            seconds = time.monotonic() - started
            rate = (done - first) * schedule.global_batch / seconds
            samples = sample_sheet(method, teacher) if world.rank == 0 else None
            metrics = {"step": done, "images_per_second": rate, **row, **test, **blind}
        spent = earlier + time.monotonic() - started
        checkpoint = capture(method, selection, spent, samples)
        reporter.report(metrics, checkpoint)
        if stopping and done < schedule.steps:
            raise Interrupted(done, schedule.steps)
    return selection, spent
