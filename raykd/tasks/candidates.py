"""What is tried side by side for a teacher: recipes of several families, by what `raykd inspect` finds."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from raykd.config.describe import describe_fields
from raykd.config.overrides import override
from raykd.engine.build import build_network, build_spec
from raykd.errors import UsageError, unknown
from raykd.methods import METHODS
from raykd.models.permission import permit
from raykd.recipe.candidates import Candidate, candidates
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.recipe.sections import NetworkConfig, TeacherConfig
from raykd.recipe.starters import starters
from raykd.results import Inspection
from raykd.store.workspace import Workspace
from raykd.tasks.init import TeacherSections, as_name, open_teacher, propose_student, recipe_content, with_constants
from raykd.tasks.inspect import Subject, inspect_teacher
from raykd.tasks.objects import Images, data_section, network_section
from raykd.tasks.subject import section_of

_OF_TEACHER = ("data", "teacher")
_DECIDED = ("schedule", "schedule.steps", "schedule.report_every", "controls", "published")
_LONGEST = 80  # letters of a recipe's name before what tells candidates apart


@dataclass(frozen=True)
class Request:
    """What somebody asks to be distilled.

    Attributes:
        teacher: as to ``raykd init``, or a network.
        data: a set's name; of a network in memory also images, see ``raykd.train``.
        student: a model's name, a network, or None for a proposed one.
        target: parameters that a proposed student may have, or which part of the teacher's if below 1.
        methods: names of candidates or of methods to try; none for all that fit.
        pairs: ``KEY=VALUE`` of the recipes.
        allow_code: whether code that a run directory names may run.
    """

    teacher: str | nn.Module
    data: Images | None = None
    student: str | nn.Module | None = None
    target: float | None = None
    methods: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    allow_code: bool = False


@dataclass(frozen=True)
class Proposals:
    """Candidates for a teacher, each with a recipe whose schedule is still to be decided, and what was found."""

    title: str
    found: Inspection
    student: str
    student_parameters: int
    candidates: list[tuple[Candidate, Recipe]]
    notes: list[str]
    constants: str


def propose_candidates(request: Request, workspace: Workspace) -> Proposals:
    """Look at a teacher, without a look at how it does on a test split, and return what is to be tried with it.

    Raises:
        UsageError: if teacher, data, student and methods do not fit together.
        CorruptError: if weights or data are damaged.
    """
    _check(request)
    first = [pair for pair in request.pairs if _section_of(pair) in _OF_TEACHER]
    rest = [pair for pair in request.pairs if pair not in first]
    if isinstance(request.teacher, nn.Module):
        sections = _open_network(request.teacher, request.data, first, workspace)
        title = type(request.teacher).__name__
    else:
        data = request.data if request.data is None else str(request.data)
        sections = open_teacher(request.teacher, data, first, workspace, allow_code=request.allow_code)
        title = sections.subject.title
    sections = sections._replace(teacher=_found_from_anywhere(sections.teacher))
    blind = replace(sections.subject, data=sections.subject.data.model_copy(update={"test": False}))
    found = inspect_teacher(blind, workspace)
    student, names_student = _student_pairs(request, sections, found, workspace)
    proposed, notes, left_out = [], list(found.notes), []
    for candidate in _chosen(request.methods, found):
        method = candidate.load().method.name
        verdict = found.methods[method]
        if verdict.verdict == "refused":
            left_out.append(f"{candidate.name} is left out: {'; '.join(verdict.reasons)}")
            continue
        name = f"{as_name(title)[:_LONGEST]}_{candidate.name}"
        content, _ = recipe_content(sections, found, candidate, method, None)
        recipe = _overridden(content, [*student, *rest], name, method)
        proposed.append((candidate.leaving(_key_of(pair) for pair in rest), recipe))
    if not any(not candidate.control for candidate, _ in proposed):
        raise UsageError(f"there is nothing to try: {'; '.join(left_out) or 'no candidate fits'}; see --method")
    _refuse_pairs_of_nobody(rest, [(candidate.name, recipe.method.name) for candidate, recipe in proposed])
    parameters = _count_parameters(proposed[0][1], workspace)
    if not names_student and request.target is not None and parameters > _most(request.target, found):
        raise UsageError(
            f"--target {request.target:g}: the smallest student that is known here has {parameters:,} parameters; give "
            "that many, or a student of your own by student.factory=MODULE:FUNCTION"
        )
    own = proposed[0][1].student
    assert own is not None, "each candidate trains one"
    return Proposals(
        title=as_name(title)[:_LONGEST],
        found=found,
        student=str(own.model or own.factory),
        student_parameters=parameters,
        candidates=proposed,
        notes=[*notes, *left_out],
        constants=sections.comments["data.mean"].rpartition(": ")[2],
    )


def _check(request: Request) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: naming it.
    """
    if request.target is not None and not 0 < request.target < math.inf:
        raise UsageError(
            f"--target is {request.target:g}: give a number of parameters, or a part of the teacher's below 1"
        )
    if request.target is not None and request.student is not None:
        raise UsageError("a student is named, and a target that one is to be proposed by: give either")
    decided = [pair for pair in request.pairs if _key_of(pair) in _DECIDED]
    if decided:
        raise UsageError(f"{decided[0]!r}: the budget is given by --minutes, and what it buys is the schedule")
    if isinstance(request.data, str) or request.data is None or isinstance(request.teacher, nn.Module):
        return
    raise UsageError("images in memory are of a network in memory; of a file give the name or the folder of a set")


def _section_of(pair: str) -> str:
    """Return the section that a ``KEY=VALUE`` sets, or sets a field of."""
    return _key_of(pair).partition(".")[0]


def _key_of(pair: str) -> str:
    return pair.partition("=")[0].strip()


def _open_network(
    network: nn.Module, data: Images | None, pairs: Sequence[str], workspace: Workspace
) -> TeacherSections:
    """Keep a network and its images in the store; return how recipes name them."""
    if data is None:
        raise UsageError("what does the network know? Give data=NAME, a section, or (images, labels)")
    section = data_section(data, workspace)
    fields = {f"data.{one.name}" for one in describe_fields(type(section))} | {"data"}
    raw = {"data": section.model_dump(mode="json", exclude_unset=True)}
    content = override(raw, pairs, type(network).__name__, fields)["data"]
    section = section_of(type(section), content)
    teacher = network_section(network, build_spec(section, workspace), workspace)
    return with_constants(Subject(section, TeacherConfig(**teacher)), content, teacher, workspace)


def _found_from_anywhere(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Return a teacher's section whose weights have a name that means the same file wherever the recipe is read."""
    weights = teacher.get("weights")
    if not weights or not os.path.isfile(weights):
        return dict(teacher)
    return {**teacher, "weights": os.path.abspath(weights)}


def _student_pairs(
    request: Request, sections: TeacherSections, found: Inspection, workspace: Workspace
) -> tuple[list[str], bool]:
    """Return the pair that says which student is trained, if none of the user's does, and whether the user names it."""
    if any(_section_of(pair) == "student" for pair in request.pairs):
        if request.student is not None:
            raise UsageError("the student is given twice: by --student and by student.…=VALUE; give either")
        return [], True
    if isinstance(request.student, nn.Module):
        spec = build_spec(sections.subject.data, workspace)
        return [f"student={json.dumps(network_section(request.student, spec, workspace))}"], True
    if request.student not in (None, "auto"):
        return [f"student={json.dumps({'model': request.student})}"], True
    most = None if request.target is None else _most(request.target, found)
    return [f"student={json.dumps({'model': propose_student(sections, found, most).model})}"], False


def _most(target: float, found: Inspection) -> int:
    return int(target * found.parameters) if target < 1 else int(target)


def _chosen(names: Sequence[str], found: Inspection) -> list[Candidate]:
    """Return the candidates for such a teacher, of each name the first that fits, and the control in any case.

    Raises:
        UsageError: for a name that is neither a candidate's nor a method's, or a method that needs images.
    """
    channels, size, _ = found.input
    fitting = {one.name: one for one in reversed(candidates()) if one.fits(channels, size, found.batch_norm_layers > 0)}
    ordered = [fitting[name] for name in dict.fromkeys(one.name for one in candidates()) if name in fitting]
    if not names:
        return ordered
    by_method = {one.name: one.load().method.name for one in ordered}
    chosen = []
    for name in names:
        own = [one for one in ordered if name in (one.name, by_method[one.name])]
        if not own:
            own = [_from_starter(name, [*by_method, *METHODS.names()], found)]
        chosen += [one.model_copy(update={"control": False}) for one in own]
    asked = {one.name for one in chosen}
    return [
        *{one.name: one for one in chosen}.values(),
        *(one for one in ordered if one.control and one.name not in asked),
    ]


def _from_starter(name: str, known: Sequence[str], found: Inspection) -> Candidate:
    """Return a candidate for a method that has none of its own."""
    if name not in METHODS.names():
        raise unknown("method", name, dict.fromkeys(known))
    method = METHODS[name]
    if method.streams or "bank" in method.roles or not {"student", "teacher"} <= set(method.roles):
        raise UsageError(f"method {name} needs more than the teacher: use `raykd init --method {name}`")
    channels, size, _ = found.input
    for one in starters():
        if one.fits(channels, size, found.batch_norm_layers > 0) and one.load().method.name == name:
            return Candidate(**one.model_dump(), name=name, why="as asked for", vary={"student_optim.lr": (0.3, 3.0)})
    raise UsageError(f"there is no recipe of method {name} to begin with: use `raykd init --method {name}`")


def _refuse_pairs_of_nobody(pairs: Sequence[str], tried: Sequence[tuple[str, str]]) -> None:
    """Refuse a method's field that no method in ``tried``, of names and methods, has.

    Raises:
        UsageError: naming the first such pair.
    """
    known = {field.name for _, method in tried for field in describe_fields(METHODS[method].config, "method.")}
    for pair in pairs:
        key = _key_of(pair)
        if key.startswith("method.") and not any(key == one or key.startswith(f"{one}.") for one in known):
            names = ", ".join(name for name, _ in tried)
            raise UsageError(f"{pair!r} is a field of none that is tried ({names}): leave it out, or see --method")


def _overridden(content: Mapping[str, Any], pairs: Sequence[str], name: str, method: str) -> Recipe:
    """Return a recipe with the user's fields; those of other methods are left out."""
    own = {one.name: one.description for one in describe_fields(METHODS[method].config, "method.")}
    fields = {*(one.name for one in describe_fields(Recipe)), *own}
    others = {field.name for other in METHODS.names() for field in describe_fields(METHODS[other].config, "method.")}
    fitting = [pair for pair in pairs if (key := _key_of(pair)) in own or key not in others]
    return recipe_from_dict({"name": name, **override(dict(content), fitting, name, fields)})


def _count_parameters(recipe: Recipe, workspace: Workspace) -> int:
    """Return how many parameters a recipe's student has.

    Raises:
        UsageError: if it does not take the data's images.
    """
    assert recipe.student is not None, "each candidate trains one"
    permit([recipe.student])
    config: NetworkConfig = recipe.student
    network = build_network(config, build_spec(recipe.data, workspace), workspace, "student")
    return sum(parameter.numel() for parameter in network.parameters())
