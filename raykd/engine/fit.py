"""The whole engine on one screen: step, report, save, stop. It knows no method's name."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import nn

from raykd.data.streams import TrainStream
from raykd.engine.bank_figures import bank_figures
from raykd.engine.evaluator import Evaluator
from raykd.engine.finite import FiniteGuard, check_finite
from raykd.engine.pace import Pace
from raykd.engine.reporter import Reporter
from raykd.engine.samples import sample_sheet
from raykd.engine.selection import Selection
from raykd.engine.sentinel import Sentinel, parameter_norms
from raykd.engine.state import capture, restore, score_student
from raykd.engine.stop import Interrupted, StopPoll
from raykd.methods.base import Method, at_milestone
from raykd.recipe.sections import ScheduleConfig


def fit(
    method: Method,
    streams: Mapping[str, TrainStream],
    teacher: nn.Module | None,
    evaluator: Evaluator,
    *,
    schedule: ScheduleConfig,
    reporter: Reporter,
    sentinel: Sentinel,
    resume: Path | None,
    until: int | None = None,
) -> tuple[Selection, float]:
    """Train to the end of the schedule or ``until`` a step, going on from the checkpoint ``resume``.

    Returns the selected students and the seconds spent, earlier parts of a resumed run included.

    Raises:
        Interrupted: after saving, when a stop was asked for.
        Unhealthy: on all workers, when a number is not finite, or the sentinel says so.
    """
    world = method.world
    selection = Selection(method, teacher)
    for network in method.trained.values():
        world.synchronise(network)
    spent = earlier = restore(resume, method, selection)
    guard, pace = FiniteGuard(method), Pace(world, method.steps_done, method.context.clock)
    stop = StopPoll(reporter, world, method.steps_done, guard.check_updates)
    while method.steps_done < (until or method.total_steps):
        pace.add(method.steps_done, method.images_per_step)
        batches = {role: stream.batch(method.steps_done) for role, stream in streams.items()}
        pace.clock.charge("data")
        losses = method.step(batches)
        pace.clock.charge(method.last_phase)
        guard.note(losses)
        done, total = method.steps_done, method.total_steps
        due = done % schedule.report_every == 0 or done == total or at_milestone(method)
        stopping = stop.requested(done)
        if not due and not stopping:
            continue
        metrics, samples = None, None
        row = {name: world.mean(value.detach()).item() for name, value in losses.items()}
        guard.check(row := {**row, **parameter_norms(method.trained)})
        if due:
            waiting = pace.waiting()
            figures = {**score_student(method, selection, evaluator), **bank_figures(method, teacher)}
            check_finite(figures, done)
            samples = sample_sheet(method, teacher, batches)
            metrics = {"step": done, **pace.rates(done), **waiting, **row, **figures}
            world.agree(partial(sentinel.look, metrics), on_first=True)
        pace.clock.charge("evaluation")
        spent = earlier + pace.seconds
        checkpoint = capture(method, selection, spent, samples, sentinel)
        reporter.report(metrics, checkpoint)
        pace.go_on()
        if stopping and done < total:
            raise Interrupted(done, total)
    return selection, spent
