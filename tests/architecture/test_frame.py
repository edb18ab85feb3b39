"""The files around the package that no test of it reads: container, citation, forms for issues."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pathspec
import pytest
import yaml

import raykd
from tests.architecture.imports import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, each with its arguments on one line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in found]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def defaults() -> dict[str, str]:
    """The build arguments with their defaults."""
    return {name: value.strip('"') for name, _, value in (one.partition("=") for one in arguments("ARG"))}


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".dockerignore").read_text().splitlines())
    stages = {rest.split(" AS ")[1] for rest in arguments("FROM")}
    for copied in arguments("COPY"):
        *words, _ = copied.split()
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
            continue
        for source in words:
            assert (ROOT / source).exists(), source
            files = [ROOT / source] if (ROOT / source).is_file() else list((ROOT / source).glob("*.*"))
            kept = [path.relative_to(ROOT).as_posix() for path in files]
            assert kept, source
            assert [path for path in kept if ignored.match_file(path)] == []
    assert ignored.match_file("tests/conftest.py")
    assert ignored.match_file("raykd/__pycache__/api.pyc")


def test_what_the_wheel_is_built_of_is_copied() -> None:
    before = [words for words in arguments("COPY") if not words.startswith("--from=") and "constraints" not in words]
    copied = {source for words in before for source in words.split()[:-1]}
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*built["only-include"], "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} == copied


def test_what_the_image_installs_are_extras_of_raykd_at_the_tested_versions() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(defaults()["EXTRAS"].split(",")) <= extras.keys()
    installs = [one for rest in arguments("RUN") for one in rest.split("&&") if "pip install" in one]
    assert len(installs) == 2
    assert all("--constraint /tmp/constraints.txt" in one for one in installs)
    minor = tuple(map(int, defaults()["PYTHON"].split(".")))
    assert minor >= tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))


def test_every_build_argument_is_used_where_it_is_declared() -> None:
    declared: set[str] = set()
    for name, rest in instructions():
        if name == "ARG":
            declared.add(rest.partition("=")[0])
        used = {one for one in re.findall(r"\$\{(\w+)", rest)}
        assert used <= declared, f"{name} {rest}"
        if name == "FROM":
            declared &= {"PYTHON"}  # those before the first stage alone, and there only for FROM


def test_the_image_runs_raykd_as_a_user_who_is_not_root_and_is_for_processors() -> None:
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert arguments("USER") == ["raykd"]
    assert arguments("ENTRYPOINT") == ['["raykd"]']
    assert arguments("HEALTHCHECK") == ["NONE"]
    assert [rest.split(" AS ")[1] for rest in arguments("FROM")] == ["wheel", "installed", "cuda", "cpu"]


def test_the_citation_names_what_the_package_is() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys(), "what the format requires"
    assert (cited["version"], cited["license"]) == (raykd.__version__, PROJECT["license"])
    assert set(cited["keywords"]) <= set(PROJECT["keywords"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_for_issues_is_one(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form.keys() <= {"name", "description", "labels", "body", "title", "assignees"}
    assert form["name"]
    assert form["description"]
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in asked} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in asked)
    names = [field["id"] for field in asked]
    assert len(names) == len(set(names)), "ids are unique"
    assert any(field.get("validations", {}).get("required") for field in asked)


def test_a_bug_comes_with_what_the_doctor_says() -> None:
    assert {path.stem for path in FORMS} == {"bug", "method", "question"}
    assert "raykd doctor --json" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
