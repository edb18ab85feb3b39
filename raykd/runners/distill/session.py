"""Run a session: rounds of slices, each judged, the winner to its end; what is noted already is not done again."""

import logging
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from raykd.cluster.config import Cluster
from raykd.distributed.host import prepare_host
from raykd.distributed.memory import is_out_of_memory
from raykd.distributed.world import World
from raykd.engine.build import build_spec, load_teacher
from raykd.engine.finite import Unhealthy
from raykd.engine.judge import Contestant, judge, read_contestant
from raykd.engine.sentinel import find_warnings, kind_of
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError, RaykdError, RunFailed, UsageError
from raykd.files import damaged
from raykd.recipe.experiment import resolve
from raykd.reporting.progress import following
from raykd.results import DistillPlan, DistillResult, RoundResult, Verdict
from raykd.runners.distill.ending import end_session, with_page
from raykd.runners.distill.plan import describe, plan_session, session_name
from raykd.runners.distill.record import Member, Record, SessionFolder, SessionPlan
from raykd.runners.distill.slices import Trainer
from raykd.store.workspace import Location, Workspace, open_workspace
from raykd.tasks.candidates import Proposals, Request, propose_candidates
from raykd.tasks.objects import refuse_networks_of_this_process

logger = logging.getLogger(__name__)

_LEAST_MINUTES, _MOST_MINUTES = 0.1, 100_000.0
_COLLAPSE = "collapse"
_YOUNG = 0.1  # of a schedule: until then a generator may not know all classes yet
_FATAL = {_COLLAPSE, "explosion", "dead"}
"""Kinds of warnings of two reports in a row by which a candidate goes on no more, as long as there are others."""


class DistillStopped(RaykdError):
    """The session was asked to stop; what was trained is saved."""

    exit_code = 130


def distill(
    request: Request,
    minutes: float,
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    should_stop: Callable[[], bool],
    progress: bool,
    tune_host: bool = False,
) -> DistillResult:
    """Plan a session, or go on with it, and return what it comes to.

    Raises:
        DistillStopped: once a stop was asked for, with the best student so far.
        RaykdError: for what the caller must mend, or if all candidates failed.
    """
    began = time.monotonic()
    if tune_host:  # before steps are timed
        prepare_host(cluster.threads)
    workspace = open_workspace(store, data_root)
    proposals, name = _open(request, minutes, workspace)
    if cluster.workers != 0:
        for _, recipe in proposals.candidates:
            refuse_networks_of_this_process(resolve(recipe))
    folder = SessionFolder(workspace, name)
    with folder.held():
        record = folder.read()
        if record is not None and record.result is not None:
            logger.info("session %s is finished already: reading its result", name)
            finished = with_page(folder, record).result
            assert finished is not None, "it was there"
            return finished
        if record is None:
            plan = plan_session(proposals, minutes, cluster, workspace, began)
            spent = time.monotonic() - began
            record = Record(plan, seconds=spent, planning=spent)
            folder.write(record)
            began = time.monotonic()
        else:
            _require_same_networks(record, proposals, folder)
            logger.info("session %s goes on", name)
        trainer = Trainer(cluster, workspace, store, data_root, should_stop, tune_host)
        session = Session(folder, record, trainer, began)
        logger.info("%s", record.plan.words)
        for note in record.plan.notes:
            logger.info("note: %s", note)
        runs = [member.experiment for member in record.plan.candidates]
        elsewhere = cluster.address != "local"
        with following(runs, str(store), elsewhere=elsewhere) if progress else nullcontext():
            return session.run()


def plan(
    request: Request,
    minutes: float,
    cluster: Cluster,
    *,
    store: Location,
    data_root: Location | None,
    tune_host: bool = False,
) -> DistillPlan:
    """Return what a session would do; nothing of it is kept.

    Raises:
        RaykdError: for what the caller must mend.
    """
    began = time.monotonic()
    if tune_host:
        prepare_host(cluster.threads)
    workspace = open_workspace(store, data_root)
    proposals, name = _open(request, minutes, workspace)
    return describe(plan_session(proposals, minutes, cluster, workspace, began), name)


def _open(request: Request, minutes: float, workspace: Workspace) -> tuple[Proposals, str]:
    """Look at the teacher; return what may be tried with it, and how the session is called."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a session is one process: start it without torchrun, and name workers by --cluster")
    if not _LEAST_MINUTES <= minutes <= _MOST_MINUTES:
        raise UsageError(f"--minutes is {minutes:g}: give a number from {_LEAST_MINUTES:g} to {_MOST_MINUTES:,.0f}")
    logger.info("looking at the teacher")
    proposals = propose_candidates(request, workspace)
    return proposals, session_name(proposals, minutes)


class Session:
    """A session at work; ``began`` is since when, by ``time.monotonic``, its record does not count the seconds."""

    def __init__(self, folder: SessionFolder, record: Record, trainer: Trainer, began: float) -> None:
        """Train nothing yet."""
        self._folder, self._record, self._trainer = folder, record, trainer
        self._workspace: Workspace = trainer.workspace
        self._noted_at = began
        self._at = "the beginning"

    @property
    def _plan(self) -> SessionPlan:
        return self._record.plan

    def run(self) -> DistillResult:
        """Go through what is not done of all rounds.

        Raises:
            DistillStopped: once a stop was asked for.
            RunFailed: if all candidates failed.
        """
        try:
            chosen = self._search()
            chosen = self._finish(chosen)
        except (Interrupted, KeyboardInterrupt) as error:
            self._note()
            raise DistillStopped(self._stopped(error)) from None
        final = self._final_verdict()
        self._note()
        self._record = end_session(self._folder, self._record, self._workspace, chosen, final)
        self._note()
        assert self._record.result is not None, "it has come to its end"
        return self._record.result

    def _search(self) -> Member:
        """Go through the rounds; return who gets the rest of the time.

        Each choice is made by the verdict of the round before it, and by what had failed until then: whatever is noted
        later, a session that goes on chooses the same again.
        """
        plan = self._plan
        candidates = list(plan.candidates)
        number = 0
        if len(candidates) > 1:
            self._round(0, "candidates", {one.name: one.first for one in candidates})
            number = 1
        leader = self._standing(number)[0]
        variants = [] if self._is_near_chance(number) else plan.variants(leader.name)
        if variants:
            steps = {one.name: one.first for one in (leader, *variants)}
            self._round(number, f"settings of {leader.name}", steps)
            number += 1
        # What tells nothing yet drops nobody: the time that settings would have had is for all candidates then.
        finalists = _best_of_each(self._standing(number))
        if not self._is_near_chance(number):
            finalists = finalists[: plan.finalists]
        if len(finalists) > 1:
            steps = {one.name: one.finalist for one in finalists}
            self._round(number, "finalists", steps)
            ranked = self._record.rounds[number].steps
            standing = self._standing(number + 1)
            finalists = [one for one in standing if one.name in ranked] or standing
        return finalists[0]

    def _verdict(self, number: int) -> Verdict | None:
        """Return the verdict of the last of the first ``number`` rounds."""
        return self._record.rounds[number - 1].verdict if number else None

    def _order(self, number: int) -> list[str]:
        """Return the names of all members that were judged in the last of the first ``number`` rounds, the best first.

        As long as nothing tells them apart, those first that are preferred for such teachers.
        """
        if not number:
            return [one.name for one in self._plan.candidates]
        verdict = self._verdict(number)
        if verdict is None:
            return []
        if verdict.near_chance:
            return [one.name for one in self._plan.members if one.name in verdict.order]
        return list(verdict.order)

    def _is_near_chance(self, number: int) -> bool:
        """Tell whether after the first ``number`` rounds all are near chance."""
        verdict = self._verdict(number)
        return verdict is not None and verdict.near_chance

    def _standing(self, number: int) -> list[Member]:
        """Return the members that may win after the first ``number`` rounds, the best first.

        Raises:
            RunFailed: if none is left.
        """
        failed = [name for name, one in self._record.failed.items() if one.round < number]
        return self._rivals(self._order(number), failed)

    def _rivals(self, order: Sequence[str], failed: Container[str]) -> list[Member]:
        """Return the members of an order that have not failed: no control unless there is nobody else.

        Raises:
            RunFailed: if none is left.
        """
        members = {one.name: one for one in self._plan.members}
        left = [members[name] for name in order if name not in failed]
        rivals = [one for one in left if not one.control] or left
        if not rivals:
            reasons = "; ".join(f"{name}: {one.reason}" for name, one in self._record.failed.items())
            raise RunFailed(f"all candidates failed: {reasons}")
        return rivals

    def _round(self, number: int, title: str, steps: Mapping[str, int]) -> None:
        """Train members up to their steps and judge all that there are, unless the record has it."""
        if len(self._record.rounds) > number:
            return
        began, self._at = time.monotonic(), f"the round of {title}"
        members = {one.name: one for one in self._plan.members}
        for name, until in steps.items():
            if name in self._record.failed:
                continue
            member = members[name]
            logger.info("%s, %s: up to step %d of %d", title, name, until, member.experiment.recipe.schedule.steps)
            self._guarded(member, partial(self._trainer.advance, member.experiment, until))
            self._note()
        self._drop_sick(list(steps))
        verdict = self._judge()
        seconds = round(time.monotonic() - began, 1)
        reached = {
            name: self._trainer.step_of(members[name].experiment) if name in self._record.failed else until
            for name, until in steps.items()
        }
        done = RoundResult(title=title, steps=reached, seconds=seconds, verdict=verdict)
        for text in self._told(verdict):
            logger.info("%s", text)
        self._record = replace(self._record, rounds=(*self._record.rounds, done))
        self._note()

    def _guarded(self, member: Member, train: Callable[[], Any]) -> Any:
        """Train; note a failure of the training's own, which ends nothing.

        Faults of the place, such as data that are missing or workers that died, are nobody's: they end the command, and
        the same command tries again.
        """
        try:
            return train()
        except (RaykdError, RuntimeError, MemoryError) as error:
            if not isinstance(error, Unhealthy) and not is_out_of_memory(error):
                raise
            why = str(error).partition("\n")[0] or "no memory is left"
        logger.warning("%s is out: %s", member.name, why)
        self._record = self._record.with_failure(member.name, why)
        self._note()
        return None

    def _drop_sick(self, names: Sequence[str]) -> None:
        """Let candidates go whose last two reports say that they have failed, as long as others have not."""
        members = {one.name: one for one in self._plan.members}
        steps_of = {name: one.experiment.recipe.schedule.steps for name, one in members.items()}
        sick = {}
        for name in names:
            if name in self._record.failed or members[name].control:
                continue
            rows = self._workspace.run(members[name].experiment.run_id).rows()
            before = {kind_of(text) for text in find_warnings(rows[:-1])} if len(rows) > 1 else set()
            fatal = _FATAL if rows and rows[-1]["step"] > _YOUNG * steps_of[name] else _FATAL - {_COLLAPSE}
            found = [text for text in find_warnings(rows) if kind_of(text) in before & fatal] if rows else []
            if found:
                sick[name] = found[0]
        rivals = [one for one in names if one not in self._record.failed and not members[one].control]
        if len(sick) < len(rivals):
            for name, why in sick.items():
                logger.warning("%s is out: %s", name, why)
                self._record = self._record.with_failure(name, why)

    def _judge(self) -> Verdict:
        """Rank all members that are trained and have not failed.

        Raises:
            RunFailed: if none is left.
            CorruptError: if what is saved of all of them is damaged.
        """
        members = [one for one in self._plan.members if self._is_trained(one)]
        self._rivals([one.name for one in members], self._record.failed)
        first, world = members[0].experiment, World.current()
        spec = build_spec(first.recipe.data, self._workspace)
        teacher = load_teacher(first, spec, self._workspace)[0].to(world.device)
        found: list[Contestant] = []
        fault: CorruptError | None = None
        for member in members:
            run = self._workspace.run(member.experiment.run_id)
            try:
                own = read_contestant(run, teacher, spec, self._workspace, world)
            except CorruptError as error:
                logger.warning("%s is not judged: %s", member.name, error)
                fault = error
                continue
            family = member.base or member.name
            found.append(replace(own, name=member.name, family=family, is_control=member.control))
        if fault is not None and all(one.is_control for one in found):
            raise fault
        return judge(found, spec, teacher, world)

    def _is_trained(self, member: Member) -> bool:
        """Tell whether a member has not failed and something of it is saved, which is brought here."""
        run = self._workspace.run(member.experiment.run_id)
        self._workspace.pull([run.name], World.alone(), checkpoints="all")
        return member.name not in self._record.failed and run.checkpoints.is_dir()

    def _final_verdict(self) -> Verdict | None:
        """Rank all with the winner as it is in the end; None where it has nobody beside it."""
        self._at = "the end"
        try:
            verdict = self._judge()
        except RaykdError as error:  # the winner is there, whatever became of the others' files
            logger.warning("the student is not judged on the others' images: %s", error)
            return None
        return verdict

    def _finish(self, chosen: Member) -> Member:
        """Train the chosen one to its end; if it fails, the next one."""
        standing = self._standing(len(self._record.rounds))
        order = [chosen.name, *(one.name for one in standing if one.name != chosen.name)]
        members = {one.name: one for one in self._plan.members}
        for name in order:
            if name in self._record.failed:
                continue
            member = members[name]
            self._at = f"the last stretch of {name}"
            logger.info("%s goes on to the end, step %d", name, member.experiment.recipe.schedule.steps)
            result = self._guarded(member, partial(self._trainer.finish, member.experiment))
            if result is not None:
                return member
        self._rivals([], self._record.failed)
        raise AssertionError("raised above")

    def _note(self) -> None:
        """Write the record, with the seconds until now."""
        now = time.monotonic()
        self._record = replace(self._record, seconds=round(self._record.seconds + now - self._noted_at, 2))
        self._noted_at = now
        self._folder.write(self._record)

    def _told(self, verdict: Verdict) -> Iterator[str]:
        figures = ", ".join(f"{name} {verdict.agreement[name]:.1f} %" for name in verdict.order)
        judges = "each other's images"
        if verdict.is_on_own(verdict.order[0]):
            judges = f"the held-out images of {verdict.order[0]}"
        yield f"agreement on {judges}: {figures}"
        if verdict.doubt:
            yield f"the judge's confidence is low: {verdict.doubt}"

    def _stopped(self, error: BaseException) -> str:
        """Say where the session stands, and which student is the best so far."""
        saved = f" ({str(error).partition(';')[0]})" if isinstance(error, Interrupted) else ""
        best = None
        try:
            for member in self._rivals(self._order(len(self._record.rounds)), self._record.failed):
                if self._trainer.step_of(member.experiment):
                    best = member
                    break
        except RaykdError:
            best = None
        if best is None:
            return f"stopped at {self._at}{saved}, before any student was trained; the same command continues"
        run = self._workspace.display_name(best.experiment.run_id)
        how = "the best so far" if self._record.rounds else "not judged yet"
        return f"stopped at {self._at}{saved}; {how}: {best.name} in {run}; the same command continues"


def _best_of_each(ranked: Sequence[Member]) -> list[Member]:
    """Return the first of each candidate and its variants: what is slow at first is not judged by one slice alone."""
    found: dict[str, Member] = {}
    for member in ranked:
        found.setdefault(member.base or member.name, member)
    return list(found.values())


def _require_same_networks(record: Record, proposals: Proposals, folder: SessionFolder) -> None:
    """Refuse a record whose networks are not those that were asked for: what it names would run.

    Raises:
        CorruptError: if one is another.
    """
    asked = [network for _, recipe in proposals.candidates for network in resolve(recipe).networks]
    if any(network not in asked for member in record.plan.members for network in member.experiment.networks):
        advice = "move its folder away to begin the session again"
        raise damaged(folder.path, "its networks are not those of this command", advice)
