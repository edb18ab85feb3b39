"""What TEACHER means to the verbs that look at one: a run, a file or a recipe."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError
from torch import nn

from raykd.config.base import Config
from raykd.config.data_root import data_folder
from raykd.config.describe import describe_fields
from raykd.config.overrides import override
from raykd.config.yaml_file import explain
from raykd.engine.build import build_spec, find_weights_file
from raykd.errors import UsageError, masked, shortened
from raykd.models.permission import permit
from raykd.models.published import TIMM, TORCHVISION, TRANSFORMERS, find_facts
from raykd.models.weights import guess_model
from raykd.recipe.experiment import resolve
from raykd.recipe.published_teacher import complete, pin_network
from raykd.recipe.recipe import load_recipe
from raykd.recipe.sections import DataConfig, TeacherConfig
from raykd.store.remote import is_remote
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace, pull_run
from raykd.tasks.inspect import Subject, subject_of_file, subject_of_recipe, subject_of_run
from raykd.tasks.objects import Images, data_section, network_section

_YAML = (".yaml", ".yml")
_WEIGHTS = (".safetensors", ".json", ".npz", ".pt", ".pth", ".bin", ".ckpt", ".tar")
NO_IMAGES = (
    "where you hold no image of it, describe them: data.name=mine data.num_classes=10 data.channels=3 data.size=32 "
    "data.test=false"
)


def is_weights(source: str) -> bool:
    """Tell whether a teacher is given by its weights alone."""
    path = Path(source)
    return not path.is_dir() and (source.endswith(_WEIGHTS) or (path.is_file() and not source.endswith(_YAML)))


def is_model(source: str) -> bool:
    """Tell whether a teacher is given by the name that it is published by."""
    path = Path(source)
    is_here = path.is_file() or RunDirectory(path).exists
    return source.startswith((TORCHVISION, TIMM, TRANSFORMERS)) and not is_here


def open_subject(
    source: str,
    overrides: Iterable[str],
    store: str | Path,
    data_root: str | Path | None,
    *,
    allow_code: bool = False,
) -> tuple[Subject, Workspace]:
    """Return a teacher, given by its weights or as to ``find_subject``, and where its data and weights are.

    What the recipe of a run names in its store lies beside the run, wherever that was moved to.

    Raises:
        UsageError: as ``find_subject``, or if a folder is an object store.
        CorruptError: if the run is damaged.
    """
    if is_remote(store):
        raise UsageError(
            f"store is {masked(str(store))}, and this reads folders of this machine: give the address of a run in it"
        )
    data, folder = data_folder(data_root), Path(store).expanduser()
    pairs = list(overrides)
    if is_model(source):
        return subject_of_sections(sections_of_model(source, None, pairs)), Workspace(data, folder)
    if is_weights(source) and not is_remote(source):
        given = sections_of_weights(source, None, pairs, Workspace(data, folder))
        return subject_of_sections(given), Workspace(data, folder)
    subject = find_subject(source, pairs, folder, allow_code=allow_code)
    beside = folder if subject.run is None else subject.run.path.resolve().parent
    return subject, Workspace(data, beside)


def find_subject(source: str, overrides: Iterable[str], store: Path, *, allow_code: bool = False) -> Subject:
    """Return the teacher that a run directory, a YAML file of data and teacher, or a recipe stands for.

    Args:
        source: a path, an address, or a recipe's name.
        overrides: ``KEY=VALUE`` pairs, of a file or a recipe.
        store: where runs of recipes are looked for.
        allow_code: whether code that a run directory names may run.

    Raises:
        UsageError: if there is none, or the overrides do not fit it.
        CorruptError: if the run is damaged.
    """
    pairs = list(overrides)
    path = pull_run(source, None)[0].path if is_remote(source) else Path(source)
    if path.is_dir():
        if pairs:
            raise UsageError(f"a run is what it is: {pairs[0]!r} cannot be set for a run directory")
        return subject_of_run(RunDirectory(path), allow_code=allow_code)
    if path.is_file():
        subject = subject_of_file(path, pairs)
        if subject is not None:
            return subject
    return subject_of_recipe(resolve(load_recipe(source, pairs)), store)


def subject_of_sections(given: Mapping[str, Mapping[str, Any]]) -> Subject:
    """Return the teacher of two sections, with what its publishers say of the data.

    Raises:
        UsageError: for an unknown or a wrong value, naming the nearest match.
        MissingPackage, CorruptError: of a published teacher, see ``complete``.
    """
    data, teacher = section_of(DataConfig, given["data"]), section_of(TeacherConfig, given["teacher"])
    permit([teacher])
    return Subject(*complete(data, teacher))


def sections_of_model(model: str, data: str | None, pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the sections of a teacher that is published; the images it knows are described where no set is named.

    Args:
        model: ``torchvision/NAME``, ``timm/NAME`` or ``hf/FOLDER``.
        data: a set of what it knows, unless ``pairs`` say it.
        pairs: ``KEY=VALUE`` of ``data`` and ``teacher``.

    Raises:
        UsageError: if there is no such model, a section is none, or nobody says what its classes are.
        MissingPackage, CorruptError: see ``raykd.models.published``.
    """
    weights = {} if model.startswith(TRANSFORMERS) else {"weights": "DEFAULT"}
    raw = {"data": {} if data is None else {"name": data}, "teacher": {"model": model, **weights}}
    given = _overridden(raw, pairs)
    teacher = pin_network(section_of(TeacherConfig, given["teacher"]))
    facts = find_facts(teacher.model, teacher.weights)
    if not given["data"].get("name"):
        if facts is None or facts.num_classes is None:  # weights of the user's own
            raise UsageError(f"which set were the weights of {model} trained on? Say it by data.name=NAME; {NO_IMAGES}")
        name = model.rstrip("/").rpartition("/")[2]
        described = {"num_classes": facts.num_classes, "channels": facts.channels, "size": facts.size, "test": False}
        given["data"] = {"name": name, **described, **given["data"]}
    if weights:
        given["teacher"] |= {"model": teacher.model, "weights": teacher.weights}
    return given


def _overridden(raw: dict[str, Any], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return sections of data and teacher with fields replaced.

    Raises:
        UsageError: for an unknown field, or a section that is none.
    """
    fields = {field.name for kind, name in ((DataConfig, "data"), (TeacherConfig, "teacher")) for field in
              (*describe_fields(kind, f"{name}."),)} | {"data", "teacher"}  # fmt: skip
    changed = override(raw, pairs, "new", fields)
    if isinstance(changed["data"], str):  # the short form of a recipe
        changed["data"] = {"name": changed["data"]}
    for name in ("data", "teacher"):
        if not isinstance(changed[name], dict):
            raise UsageError(
                f"{name} is a section, and got {shortened(changed[name])}: set its fields by {name}.FIELD=VALUE"
            )
    return dict(changed)


def sections_of_weights(
    file: str, data: str | None, pairs: Sequence[str], workspace: Workspace
) -> dict[str, dict[str, Any]]:
    """Return the sections of a teacher that is a file of weights; its network is told by their shapes, if need be.

    Args:
        file: of the weights.
        data: the set that it was trained on, unless ``pairs`` say it.
        pairs: ``KEY=VALUE`` of ``data`` and ``teacher``.
        workspace: where weights and data are.

    Raises:
        UsageError: if nobody says what set it was trained on, or what network it is.
    """
    raw: dict[str, Any] = {"data": {} if data is None else {"name": data}, "teacher": {"weights": file}}
    given = _overridden(raw, pairs)
    if not given["data"].get("name"):
        raise UsageError(
            f"which set was {file} trained on? Say it by data.name=NAME (`raykd list datasets`, or a folder); "
            f"{NO_IMAGES}"
        )
    section = given["teacher"]
    if section.get("model") is None and section.get("factory") is None:
        model = guess_model(find_weights_file(section["weights"], workspace), section.get("entry"))
        if model is None:
            raise UsageError(
                f"no built-in model has tensors of the shapes in {file}: say which network it is by "
                "teacher.factory=MODULE:FUNCTION (your code in MODULE.py, here or installed), or "
                "teacher.model=torchvision/NAME or timm/NAME"
            )
        given["teacher"] = {"model": model, **section}
    return given


def section_of(kind: type[Config], raw: Mapping[str, Any]) -> Any:
    """Return a section of that type.

    Raises:
        UsageError: for an unknown or a wrong value, naming the nearest match.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise explain(error, "the teacher", kind, raw) from None


@contextmanager
def network_in_memory(
    network: nn.Module, data: Images | None, data_root: str | Path | None
) -> Iterator[tuple[Subject, Workspace]]:
    """Yield a teacher that a program holds, and where its files are meanwhile; ``data`` is what it knows.

    Raises:
        UsageError: if network and data do not fit together.
    """
    if data is None:
        raise UsageError("what does the network know? Give data=NAME, a section, or (images, labels)")
    with TemporaryDirectory(prefix="raykd-inspect-") as folder:
        workspace = Workspace(data_folder(data_root), Path(folder))
        section = data_section(data, workspace)
        named = network_section(network, build_spec(section, workspace), workspace)
        yield Subject(section, TeacherConfig(**named)), workspace
