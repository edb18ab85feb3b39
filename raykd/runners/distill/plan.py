"""Plan a session: look at the teacher, time some steps of each candidate, share the minutes."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from raykd.cluster.config import Cluster
from raykd.distributed.world import World
from raykd.errors import RunFailed, UsageError
from raykd.planning.budget import Budget, Entrant, Slot, share_budget
from raykd.planning.timing import RunTiming, time_run
from raykd.recipe.candidates import Candidate
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe
from raykd.results import CandidateResult, DistillPlan
from raykd.runners.distill.record import Member, SessionPlan
from raykd.store.workspace import Workspace
from raykd.tasks.candidates import Proposals

logger = logging.getLogger(__name__)

_TRIED_STEPS = 1000  # of a schedule while its steps are timed
_TRIED_SHARE, _LEAST_TRY, _MOST_TRY = 0.01, 0.5, 10.0  # of the time, seconds: steps of a phase


def session_name(proposals: Proposals, minutes: float) -> str:
    """Return what a session is called: by the teacher, and by all that decides what is tried with it."""
    content = {
        "teacher": proposals.found.sha256,
        "minutes": float(minutes),
        "candidates": [
            (candidate.name, sorted({*candidate.scaled, *candidate.vary}), _content(recipe, proposals.found.sha256))
            for candidate, recipe in proposals.candidates
        ],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{proposals.title}-{digest}"


def _content(recipe: Recipe, teacher_sha256: str | None) -> dict[str, Any]:
    """Return what a recipe says but for its schedule, and for where the teacher's file is if its sum is known."""
    content = recipe.model_dump(mode="json", exclude={"schedule"})
    if teacher_sha256 and content["teacher"]:
        content["teacher"].pop("weights", None)
    return content


@dataclass(frozen=True)
class _Tried:
    """A candidate with the seconds of its steps."""

    candidate: Candidate
    recipe: Recipe
    timing: RunTiming


def plan_session(
    proposals: Proposals, minutes: float, cluster: Cluster, workspace: Workspace, began: float
) -> SessionPlan:
    """Time the candidates in this process and share the minutes among them; nothing is trained.

    Args:
        proposals: what is tried.
        minutes: in all.
        cluster: as which the arithmetic runs.
        workspace: where data and weights are.
        began: when the session did, by ``time.monotonic``.

    Raises:
        UsageError: if the minutes suffice for no candidate, or none can be built.
    """
    tried, left_out = _try(proposals, minutes, cluster, workspace)
    entrants = [
        Entrant(
            one.candidate.name,
            one.timing,
            partial(one.candidate.with_schedule, one.recipe),
            len(one.candidate.variants(one.recipe)),
            one.candidate.control,
        )
        for one in tried
    ]
    spent = time.monotonic() - began
    budget = share_budget(entrants, 60 * minutes, spent)
    left_out |= budget.left_out
    by_name = {one.candidate.name: one for one in tried}
    if not any(not by_name[name].candidate.control for name in budget.slots):
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UsageError(f"{minutes:g} minutes suffice for no candidate here: {reasons}")
    members: list[Member] = []
    for name, slot in budget.slots.items():
        one = by_name[name]
        members.append(_member(name, one.candidate.why, slot.recipe, one, slot))
        variants = one.candidate.variants(slot.recipe) if budget.settings and not one.candidate.control else {}
        for number, (what, recipe) in enumerate(variants.items(), start=1):
            members.append(_member(f"{name}_{number}", what, recipe, one, slot, base=name))
    notes = [*proposals.notes, *(f"{name} is left out: {why}" for name, why in left_out.items())]
    if budget.why_no_settings:
        notes.append(f"no settings are varied: {budget.why_no_settings}")
    return SessionPlan(
        minutes=minutes,
        members=members,
        settings=budget.settings,
        finalists=budget.finalists,
        about=_about(proposals),
        words=_words(proposals, members, budget, minutes),
        notes=notes,
        seconds=round(budget.seconds, 1),
    )


def _try(
    proposals: Proposals, minutes: float, cluster: Cluster, workspace: Workspace
) -> tuple[list[_Tried], dict[str, str]]:
    """Time a few steps of each candidate; return those that can be built, and why others cannot."""
    world = World.current(cluster.precision)
    enough = min(_MOST_TRY, max(_LEAST_TRY, 60 * minutes * _TRIED_SHARE))
    tried, left_out = [], {}
    for candidate, recipe in proposals.candidates:
        logger.info("timing a few steps of %s", candidate.name)
        trial = candidate.with_schedule(recipe, _TRIED_STEPS, 10)
        try:
            timing = time_run(resolve(trial), world, cluster.runtime, workspace, enough)
        except (RunFailed, UsageError) as error:
            left_out[candidate.name] = str(error)
            logger.warning("%s is left out: %s", candidate.name, error)
            continue
        tried.append(_Tried(candidate, recipe, timing))
    if not tried:
        raise UsageError("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return tried, left_out


def _member(name: str, what: str, recipe: Recipe, tried: _Tried, slot: Slot, base: str | None = None) -> Member:
    return Member(
        name=name,
        what=what,
        experiment=resolve(recipe),
        control=tried.candidate.control,
        first=slot.first,
        finalist=slot.finalist,
        seconds_per_step=float(f"{tried.timing.step:.3g}"),
        first_seconds=round(slot.first_seconds, 1),
        finalist_seconds=round(slot.finalist_seconds, 1),
        seconds=round(slot.seconds, 1),
        base=base,
    )


def _about(proposals: Proposals) -> dict[str, Any]:
    found = proposals.found
    return {
        "teacher": f"{found.source or proposals.title}",
        "teacher_parameters": found.parameters,
        "teacher_sha256": found.sha256,
        "student": proposals.student,
        "student_parameters": proposals.student_parameters,
        "data": found.data,
        "classes": found.classes,
        "batch_norms": found.batch_norm_layers,
        "sick": sorted(kind for kind, layers in found.batch_norm_faults.items() if layers),
        "constants": proposals.constants,
        "mean": found.mean,
        "std": found.std,
    }


def _words(proposals: Proposals, members: list[Member], budget: Budget, minutes: float) -> str:
    """Say in one paragraph what will be tried and why."""
    found = proposals.found
    rivals = [one for one in members if one.base is None and not one.control]
    controls = [one for one in members if one.control]
    layers = f"{found.batch_norm_layers} BatchNorm layers, whose statistics tell what it was trained on"
    if not found.batch_norm_layers:
        layers = "no BatchNorm layers, so only its answers tell what it was trained on"
    sentences = [
        f"The teacher ({found.source}, {found.parameters:,} parameters, {found.classes} classes, images "
        f"{'x'.join(map(str, found.input))}) has {layers}; its input is normalised by mean "
        f"{_shown(found.mean)} and std {_shown(found.std)} ({proposals.constants}).",
        f"The student is {proposals.student}, {proposals.student_parameters:,} parameters.",
    ]
    tried = "; ".join(f"{one.name}, {one.what}" for one in rivals)
    if len(rivals) > 1:
        sentences.append(
            f"{len(rivals)} ways are tried for about {rivals[0].first_seconds:.0f} s each: {tried}. They are judged on "
            "each other's images, never on real ones."
        )
    else:
        sentences.append(f"It learns from {rivals[0].what} ({rivals[0].name}).")
    if controls:
        sentences.append(f"{' and '.join(one.name for one in controls)} is the control that the winner must beat.")
    if budget.settings:
        varied = (
            "a setting of the leader is" if budget.settings == 1 else f"{budget.settings} settings of the leader are"
        )
        sentences.append(f"Then {varied} varied.")
    if len(rivals) > 1:
        sentences.append(
            f"The best {budget.finalists} go on, and the best of them gets the rest of the {minutes:g} minutes."
        )
    return " ".join(sentences)


def _shown(constants: list[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in constants)})"


def describe(plan: SessionPlan, session: str) -> DistillPlan:
    """Return a plan for who asks for it."""
    about = plan.about
    names = [one.name for one in plan.candidates]
    rounds: list[Mapping[str, Any]] = []
    if len(names) > 1:
        seconds = sum(one.first_seconds for one in plan.candidates)
        rounds.append(
            {"title": "candidates", "steps": {one.name: one.first for one in plan.candidates}, "seconds": seconds}
        )
    if plan.settings:
        rounds.append({"title": f"settings of the leader: {plan.settings}"})
    if plan.finalists > 1:
        rounds.append({"title": f"the best {plan.finalists}"})
    rounds.append({"title": "the best, to its end"})
    return DistillPlan(
        session=session,
        minutes=plan.minutes,
        teacher=about["teacher"],
        teacher_parameters=about["teacher_parameters"],
        student=about["student"],
        student_parameters=about["student_parameters"],
        words=plan.words,
        candidates=[as_result(one, step=0, state="planned") for one in plan.candidates],
        rounds=rounds,
        notes=plan.notes,
        seconds=plan.seconds,
    )


def as_result(
    member: Member, *, step: int, state: str, reason: str | None = None, agreement: float | None = None
) -> CandidateResult:
    """Return a member for who asks for it, with how far it is and what became of it."""
    recipe = member.experiment.recipe
    return CandidateResult(
        name=member.name,
        why=member.what,
        run=member.experiment.run_id,
        method=recipe.method.name,
        control=member.control,
        seconds_per_step=member.seconds_per_step,
        steps=recipe.schedule.steps,
        step=step,
        state=state,
        reason=reason,
        agreement=agreement,
    )
