"""What `raykd distill` plans, finds on its way, and comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from raykd.results.base import Result
from raykd.results.run import Figures


@dataclass(frozen=True, kw_only=True)
class Verdict(Result):
    """Students of a teacher, ranked without a real image.

    Attributes:
        order: their names, the best first.
        agreement: with the teacher, in per cent by class, as each would have on the images of all.
        kl: KL(teacher || student) in nats, likewise.
        error: a standard error of the best one's agreement.
        near_chance: whether no student is worth much more than an answer that is always the same class.
        doubt: why the order is not to be relied on; None if it is.
        scores: the agreements that were measured, by student and by whose images.
        notes: whose images were left out, and why.
    """

    order: list[str]
    agreement: Mapping[str, float]
    kl: Mapping[str, float]
    error: float
    near_chance: bool
    doubt: str | None
    scores: Mapping[str, Mapping[str, float]]
    notes: list[str]

    def is_on_own(self, name: str) -> bool:
        """Tell whether a student was judged on its own held-out images, as nobody else's were fit."""
        return set(self.scores.get(name, {})) == {name}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a verdict from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        own = {each.name: found[each.name] for each in fields(cls)}
        for name in ("agreement", "kl"):
            own[name] = {str(key): float(value) for key, value in own[name].items()}
        own["order"] = [str(name) for name in own["order"]]
        own["error"] = float(own["error"])
        return cls(**own)


@dataclass(frozen=True, kw_only=True)
class CandidateResult(Result):
    """A candidate of a session.

    Attributes:
        name: its own; ``why`` is what its student learns from, or in what it differs from another.
        run: the id of its run; ``method`` is what that trains by.
        control: whether it is what the others must beat.
        seconds_per_step: as measured before the plan.
        steps: of its whole schedule, as many as the budget buys; ``step`` is how far it is.
        state: planned, dropped, failed or chosen; ``reason`` says why.
        agreement: of the last round in which it was judged, see Verdict.
    """

    name: str
    why: str
    run: str
    method: str
    control: bool
    seconds_per_step: float
    steps: int
    step: int
    state: str
    reason: str | None = None
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class RoundResult(Result):
    """A round of a session: which candidates were trained up to which share of their schedules, and the verdict."""

    title: str
    steps: Mapping[str, int]
    seconds: float
    verdict: Verdict | None = None

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a round from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        verdict = found.get("verdict")
        steps = {str(name): int(step) for name, step in found["steps"].items()}
        judged = None if verdict is None else Verdict.from_dict(verdict)
        return cls(title=str(found["title"]), steps=steps, seconds=float(found["seconds"]), verdict=judged)


@dataclass(frozen=True, kw_only=True)
class DistillPlan(Result):
    """What a session will do.

    Attributes:
        session: its name; ``minutes`` is its budget.
        teacher, teacher_parameters: what is distilled; ``student``, ``student_parameters`` into what; None where that
            is the user's own.
        words: what will be tried and why, for a reader.
        candidates: in their order.
        rounds: what each trains, up to which step, and about how many seconds that takes.
        notes: what the user should know.
        seconds: that all rounds and what is between them take, as planned.
    """

    session: str
    minutes: float
    teacher: str
    teacher_parameters: int
    student: str
    student_parameters: int | None
    words: str
    candidates: list[CandidateResult]
    rounds: list[Mapping[str, Any]]
    notes: list[str]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DistillResult(Result):
    """What a session comes to.

    Attributes:
        session: its name; ``directory`` is where its record, recipe and page are.
        run: id of the winning run; ``run_directory`` is where it is.
        chosen: the candidate's name.
        student, student_parameters, teacher_parameters: what was distilled into what.
        figures: of the student that was chosen blind; those on the test split, where there is one, chose nothing.
        judged_agreement: with the teacher on the images of all other candidates, in per cent by class; with
            ``judged_on_own`` on its own held-out images, as nobody else's were fit.
        beats_control: whether it is better than its control by the last verdict that has both; None without one.
        doubt: why the choice is not to be relied on; None if it is.
        warnings: what speaks against the student, with the likeliest causes.
        recipe: the file by which `raykd train` makes the same run; ``report`` the page; ``export`` the folder.
        candidates, rounds: what was tried.
        seconds: in all; ``search_seconds`` of them went to others than the chosen run, measuring and judging.
    """

    session: str
    directory: str
    run: str
    run_directory: str
    chosen: str
    student: str
    student_parameters: int
    teacher_parameters: int
    figures: Figures
    judged_agreement: float | None
    judged_on_own: bool
    beats_control: bool | None
    doubt: str | None
    warnings: list[str]
    recipe: str
    report: str | None
    export: str | None
    candidates: list[CandidateResult]
    rounds: list[RoundResult]
    seconds: float
    search_seconds: float
    notes: list[str]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a result from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        own = {each.name: found[each.name] for each in fields(cls)}
        own["figures"] = Figures.from_dict(own["figures"])
        own["candidates"] = [CandidateResult(**one) for one in own["candidates"]]
        own["rounds"] = [RoundResult.from_dict(one) for one in own["rounds"]]
        return cls(**own)
