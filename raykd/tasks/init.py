"""Propose a recipe for a teacher: what `raykd init` writes, by what `raykd inspect` finds."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from raykd.config.describe import describe_fields
from raykd.config.overrides import override
from raykd.config.yaml_file import parse_value
from raykd.data.datasets import DATASETS
from raykd.distributed.world import World
from raykd.engine.build import build_spec
from raykd.engine.implied_pixels import implied_pixels, known_constants
from raykd.errors import UsageError, unknown
from raykd.methods import METHODS
from raykd.models.published import TRANSFORMERS, find_facts
from raykd.models.smaller import Smaller, smaller_model
from raykd.models.teacher import Teacher
from raykd.recipe.commented import write_commented
from raykd.recipe.recipe import Recipe, load_recipe, recipe_from_dict
from raykd.recipe.sections import DataConfig
from raykd.recipe.starters import Starter, starters
from raykd.results import Inspection
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tasks import teacher_signs as signs
from raykd.tasks.inspect import Subject, inspect_teacher, load_subject, open_test_split
from raykd.tasks.subject import (
    NO_IMAGES,
    find_subject,
    is_model,
    is_weights,
    section_of,
    sections_of_model,
    sections_of_weights,
    subject_of_sections,
)

logger = logging.getLogger(__name__)

_FIRST = ("data", "teacher")
_STUDENTS = {"student", "student.model", "student.factory"}
_SETTING = re.compile(r"(method\.\w+)=(\S+?)(?=[,;\s]|$)")
"""What a verdict names as to be set, as in ``method.moment_weight=0``."""
_DEFAULT_OPTIM = {"name": "adam", "lr": 1e-3, "schedule": {"name": "cosine"}}
_DEFAULT_SCHEDULE = {"steps": 500, "report_every": 100, "global_batch": 128}


@dataclass(frozen=True)
class Proposal:
    """A recipe for a teacher.

    Attributes:
        recipe: what it says, named as its file is to be.
        text: YAML with comments.
        found: what is known of the teacher.
        reason: why this method.
        notes: what the user should look at.
        top1: the teacher's accuracy on test images and what is to be known of it; None where there are no images.
        took: how long its budget was measured to take, and from what teacher, if it was.
    """

    recipe: Recipe
    text: str
    found: Inspection
    reason: str
    notes: list[str]
    top1: str | None
    took: str | None


class TeacherSections(NamedTuple):
    """The part of a recipe that a teacher decides, and where its constants come from."""

    subject: Subject
    data: dict[str, Any]
    teacher: dict[str, Any]
    comments: dict[str, str]


def propose(
    teacher: str,
    pairs: Sequence[str],
    workspace: Workspace,
    *,
    data: str | None = None,
    method: str | None = None,
    out: Path | None = None,
    allow_code: bool = False,
) -> Proposal:
    """Look at a teacher and propose a recipe.

    Args:
        teacher: a file of weights, the name of a published classifier, a YAML file of data and teacher, a recipe or a
            run directory.
        pairs: ``KEY=VALUE`` of the recipe; those of data and teacher hold before the teacher is looked at.
        workspace: where runs, weights and data are.
        data: the set that it was trained on; of a YAML file, a recipe or a run its own.
        method: which one; default: the preferred one of those that can be used.
        out: the recipe's file, by which it is named; default: TEACHER_METHOD.yaml here.
        allow_code: whether code that a run directory names may run.

    Raises:
        UsageError: if teacher, data and method do not fit together, or it is not told what they are.
        CorruptError: if weights or data are damaged.
    """
    if method is not None and method not in METHODS.names():
        raise unknown("method", method, METHODS.names())
    first = [pair for pair in pairs if pair.partition("=")[0].partition(".")[0] in _FIRST]
    sections = open_teacher(teacher, data, first, workspace, allow_code=allow_code)
    logger.info("looking at the teacher")
    found = inspect_teacher(sections.subject, workspace)
    starter, chosen, reason = _choose_method(found, method)
    stem = out.stem if out is not None else as_name(f"{sections.subject.title}_{chosen}")
    rest = [pair for pair in pairs if pair not in first]
    names_student = any(pair.partition("=")[0].strip() in _STUDENTS for pair in rest)
    file = out or Path(f"{stem}.yaml")
    student = None
    if "student" in METHODS[chosen].roles and not names_student:
        student = propose_student(sections, found)
    content, comments = recipe_content(sections, found, starter, chosen, student)
    is_changed = any(pair.partition(".")[0].strip() in ("schedule", "method") for pair in rest)
    took = None if starter is None or is_changed else starter.took
    budget = f"a small budget, which took {took}" if took else "a small budget"
    comments["schedule"] = f"{budget}; what it takes here: raykd plan {file}"
    comments["method"] = f"{reason}; more fields: raykd show method {chosen}"
    config = METHODS[chosen].config
    described = {one.name: one.description for one in (*describe_fields(Recipe), *describe_fields(config, "method."))}
    content = override(content, rest, stem, set(described))
    recipe = recipe_from_dict({"name": stem, **content})
    if out is not None and out.parent.resolve() != Path.cwd().resolve():
        content["teacher"] = _from_elsewhere(content["teacher"])
    head = (
        f"A recipe for the teacher {teacher}, proposed by `raykd init`; to train: raykd train {file}\n"
        "Each field can be set on the command line too, as in: raykd train FILE schedule.steps=500"
    )
    notes = [note for note in found.notes if note] + ([] if found.test_missing is None else [found.test_missing])
    text = write_commented(content, described | comments, head)
    return Proposal(recipe, text, found, reason, notes, _top1(found, sections.subject), took)


def _top1(found: Inspection, subject: Subject) -> str | None:
    """Write a teacher's accuracy on test images; of one that was trained elsewhere nobody knows what it has seen."""
    if found.test.top1 is None:
        return None
    seen = ", on test images that it may have been trained on" if subject.run is None else ""
    return f"{found.test.top1:.2f} % on {found.data}{seen}"


def open_teacher(
    teacher: str, data: str | None, pairs: Sequence[str], workspace: Workspace, *, allow_code: bool = False
) -> TeacherSections:
    """Find the teacher and its data, by what is said of them, and the constants that its input is normalised by.

    Takes what ``propose`` takes; ``pairs`` are those of data and teacher.

    Raises:
        UsageError: if teacher and data do not fit together, or it is not told what they are.
        CorruptError: if weights or data are damaged.
    """
    if is_model(teacher) or is_weights(teacher):
        given = (
            sections_of_model(teacher, data, pairs)
            if is_model(teacher)
            else sections_of_weights(teacher, data, pairs, workspace)
        )
        return with_constants(subject_of_sections(given), given["data"], given["teacher"], workspace)
    if data is not None:
        pairs = [f"data.name={data}", *pairs]
    subject = find_subject(teacher, pairs, workspace.store, allow_code=allow_code)
    fields = {"name", "size", "pad", "mean", "std", "num_classes", "channels", "test"}
    own = subject.data.model_dump(mode="json", exclude_unset=True, include=fields)
    if Path(teacher).is_dir():
        network = subject.network.model_dump(mode="json", exclude_unset=True)
        section = {**network, "weights": str(RunDirectory(Path(teacher)).student)}
    elif subject.run is not None:
        source = load_recipe(teacher, pairs).teacher
        section = _of_recipe(teacher, pairs) if source is None else source.model_dump(mode="json", exclude_unset=True)
    else:
        section = subject.network.model_dump(mode="json", exclude_unset=True, exclude={"architecture"})
    return with_constants(subject, own, section, workspace)


def _of_recipe(recipe: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the section of a teacher that a recipe trains, with what was said of it."""
    named = [(key.strip(), value) for key, _, value in (pair.partition("=") for pair in pairs)]
    overrides = {key: parse_value(value, key) for key, value in named}
    return {"recipe": recipe, **({"overrides": overrides} if overrides else {})}


def with_constants(
    subject: Subject, data: dict[str, Any], teacher: dict[str, Any], workspace: Workspace
) -> TeacherSections:
    """State size, mean and std in ``data``, and where they come from; whether there is a test split, too.

    Where neither mean nor std is given those of the set are compared with others that are in use: by the labels of some
    test images, or without images by what the first BatchNorm remembers.

    Raises:
        UsageError: if nobody says what the data is like, or it does not fit the teacher.
    """
    try:
        spec = build_spec(subject.data, workspace)
    except UsageError as error:
        raise UsageError(f"{error}; {NO_IMAGES}") from None
    images, missing = open_test_split(subject.data, spec, workspace)
    comments = {"data.size": "pixels of the networks' input, to which images are resized"}
    facts = find_facts(subject.network.model, subject.network.weights) if subject.run is None else None
    if facts is not None and (spec.mean, spec.std) == (facts.mean, facts.std):
        source = f"as {facts.source} says"
    elif subject.data.mean is not None or subject.data.std is not None:
        source = "as given"
    elif subject.run is not None:
        source = f"those that run {subject.run.name} was trained with"
    else:
        spec, source = _compared(subject, spec, workspace)
    stated = {"name": data["name"], "size": spec.size, "mean": list(spec.mean), "std": list(spec.std)}
    comments["data.mean"] = f"of pixels in [0, 1], which the teacher sees as (x - mean) / std: {source}"
    comments["data.std"] = "a wrong mean or std costs accuracy in silence: compare with how the teacher was trained"
    if images is None:
        stated["test"] = False
        comments["data.test"] = f"no test images to measure by ({missing}); true where they are there"
    content = {**stated, **{key: value for key, value in data.items() if key not in stated}}
    return TeacherSections(replace(subject, data=section_of(DataConfig, content)), content, teacher, comments)


def _compared(subject: Subject, spec: DataSpec, workspace: Workspace) -> tuple[DataSpec, str]:
    """Return the spec with the constants that suit the teacher best, and how that was found out."""
    own = f"those of {spec.name}" if spec.name in DATASETS else "those of the set"
    if not spec.normalisation_known:
        own = "nobody has said them, so 0.5 and 0.5"
    candidates = {own: (tuple(spec.mean), tuple(spec.std))}
    for name, (mean, std) in known_constants(spec).items():
        if (tuple(mean), tuple(std)) not in candidates.values():
            candidates[name] = (tuple(mean), tuple(std))
    specs = {name: replace(spec, mean=mean, std=std) for name, (mean, std) in candidates.items()}
    world = World.current()
    network, _ = load_subject(subject, spec, workspace)
    teacher = Teacher(network, channels=spec.channels, size=spec.size).to(world.device)
    images, _ = open_test_split(subject.data, spec, workspace)
    if images is not None:
        losses = {name: signs.cross_entropy(teacher, images, one, world) for name, one in specs.items()}
        best = min(losses, key=lambda name: losses[name] if losses[name] == losses[name] else float("inf"))
        others = ", ".join(f"{loss:.3f} by {name}" for name, loss in losses.items() if name != best)
        count = min(signs.COMPARED, len(images.labels))
        return specs[best], (
            f"{best}, compared on {count:,} test images, where the cross-entropy is {losses[best]:.3f} ({others})"
        )
    for name, one in specs.items():
        pixels, doubt = implied_pixels(teacher, one)
        if pixels is None:
            return spec, f"{own}; not compared, for want of test images and of BatchNorm"
        if doubt is None:
            return one, f"{name}, by which its first BatchNorm remembers pixels as images have them; compare yourself"
    return spec, f"{own}; its first BatchNorm remembers pixels as by none of the usual constants: look them up"


def _choose_method(found: Inspection, wanted: str | None) -> tuple[Starter | None, str, str]:
    """Return where to begin, the method, and why.

    Raises:
        UsageError: if that method, or every one, is refused.
    """
    channels, size, _ = found.input
    fitting = [one for one in starters() if one.fits(channels, size, found.batch_norm_layers > 0)]
    named = [(one, one.load().method.name) for one in fitting]
    if wanted is not None:
        verdict = found.methods[wanted]
        if verdict.verdict == "refused":
            raise UsageError(f"method {wanted} cannot be used with this teacher: {'; '.join(verdict.reasons)}")
        return next((one for one, name in named if name == wanted), None), wanted, "as asked for"
    for level in ("usable", "limited"):
        for one, name in named:
            method, verdict = METHODS[name], found.methods[name]
            wants = method.streams or "bank" in method.roles or "student" not in method.roles
            if verdict.verdict == level and not wants:
                without = "".join(f", without {reason}" for reason in verdict.reasons)
                return one, name, f"needs no images; {'; '.join(verdict.pros) or 'the teacher suffices'}{without}"
    reasons = dict.fromkeys(reason for _, name in named for reason in found.methods[name].reasons)
    raise UsageError(
        f"no method that needs no images can be used with this teacher: {'; '.join(reasons)}; see --method"
    )


def propose_student(sections: TeacherSections, found: Inspection, most: int | None = None) -> Smaller:
    """Return a model to distil a teacher into, of ``most`` parameters if that is given.

    Raises:
        UsageError: if no model takes such images.
    """
    size = {"num_classes": found.classes, "channels": found.input[0], "size": found.input[1]}
    student = smaller_model(sections.subject.network.model, found.parameters, **size, most=most)
    if student is None:
        raise UsageError("no built-in model takes such images: say which student, as in student.factory=mine:net")
    return student


def recipe_content(
    sections: TeacherSections, found: Inspection, starter: Starter | None, method: str, student: Smaller | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a recipe's content and what is to be said of its fields.

    Args:
        sections: what the teacher decides.
        found: what is known of it.
        starter: what settings, rates and schedule are taken from; None for the method's defaults.
        method: its name.
        student: the proposed one; None where the user names a student.
    """
    roles, comments = METHODS[method].roles, dict(sections.comments)
    base = None if starter is None else starter.load().model_dump(mode="json", exclude_unset=True)
    base = base or {"method": {"name": method}, "student_optim": _DEFAULT_OPTIM, "schedule": _DEFAULT_SCHEDULE}
    data = dict(sections.data)
    augment = base.get("data", {}).get("augment")
    if augment:
        data["augment"] = augment
        comments["data.augment"] = "of what is trained on; leave flip out where mirrored images show another class"
    content: dict[str, Any] = {"data": data, "teacher": sections.teacher}
    top1 = _top1(found, sections.subject)
    figures = "" if top1 is None else f", top-1 {top1}: is that what you know?"
    comments["teacher"] = f"{found.source}, {found.parameters:,} parameters{figures}"
    if "student" in roles and student is None:
        content["student"] = {}
    elif student is not None:
        content["student"] = {"model": student.model}
        own = sections.subject.network.factory or "MODULE:FUNCTION"
        comments["student"] = f"the network that is trained: {student.reason}"
        comments["student.model"] = (
            f"{student.parameters:,} parameters; another of `raykd list models`, or in place of `model` a network of "
            f"your own, made narrower by an argument that it takes: factory: {own} and factory_args: {{width: 8}}"
        )
    content["method"] = {"name": method, **base["method"], **_settings(found.methods[method].reasons)}
    if "student" in roles:
        optim = base.get("student_optim") or _DEFAULT_OPTIM
        content["student_optim"] = {"name": optim["name"], **optim}
        comments["student_optim.name"] = "sgd, adam or adamw"
    content["schedule"] = base["schedule"]
    comments["method.name"] = "another: raykd list methods"
    comments["student_optim"] = "how the student learns"
    return content, comments


def _settings(reasons: Sequence[str]) -> dict[str, Any]:
    """Return the method's fields that a verdict says to set."""
    found = [setting for reason in reasons for setting in _SETTING.findall(reason)]
    return {key.removeprefix("method."): parse_value(value, key) for key, value in found}


def _from_elsewhere(teacher: dict[str, Any]) -> dict[str, Any]:
    """Return a teacher's section for a recipe in another folder, from where a name here means nothing."""
    folder = str(teacher.get("model")).removeprefix(TRANSFORMERS)
    if str(teacher.get("model")).startswith(TRANSFORMERS) and os.path.isdir(folder):
        teacher = {**teacher, "model": TRANSFORMERS + os.path.abspath(folder)}
    weights = teacher.get("weights")
    return {**teacher, "weights": os.path.abspath(weights)} if weights and os.path.isfile(weights) else teacher


def as_name(text: str) -> str:
    """Return what may be a recipe's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:100] or "recipe"
