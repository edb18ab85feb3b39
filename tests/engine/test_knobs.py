"""No dead knobs: whatever a recipe may say, a run reads."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from raykd.cli.names import packaged_recipes
from raykd.config.base import Config
from raykd.engine.run import RunContext, run
from raykd.recipe.experiment import Experiment, resolve
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.results import RunResult
from tests.golden.curves import LARGER
from tests.golden.shrunk import shrunk

STEPS = 2
VARIANTS = {
    "dafl_digits": [
        ["method.pseudo_label=lq", "student_optim={name: sgd, lr: 0.1}"],
        ["student_optim={name: adamw, lr: 1e-3, schedule: {name: multistep, at: [1]}}"],
        ["method.replay={images: 64, fraction: 0.25}", "method.ema_generator=0.9"],
    ],
    "kd_digits": [["student_optim={name: adamw, lr: 1e-3, schedule: {name: cosine}}"]],
    "noise_digits": [
        [
            "teacher={model: lenet5, weights: made.safetensors}",
            "data={name: unseen, num_classes: 10, channels: 1, size: 32, test: false}",
        ]
    ],
}
"""Choices that no packaged recipe makes, so that their fields are read too."""


ELSEWHERE = {"Change.at", "Change.values", "Coarse.pooling", "Coarse.iterations"}
"""Sections in a list: changes on the way are read in test_fit, resolutions in test_pixel_job."""
CONSENT = {"LsgdfdConfig.large_latent"}
"""Fields that permit what the recipe's validation would refuse; nothing is left to read when it runs."""


def sections(section: Config) -> Iterator[Config]:
    yield section
    for name in type(section).model_fields:
        value = section.__dict__[name]
        if isinstance(value, Config):
            yield from sections(value)


def is_tag(section: type[Config], field: str) -> bool:
    """Tell whether a field only chooses the class of its section, which reading the file has done."""
    return get_origin(section.model_fields[field].annotation) is Literal and field == "name"


class Reads:
    """Remembers which fields of which section have been read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[int, str]] = set()
        plain = Config.__getattribute__

        def recorded(section: Config, name: str) -> Any:
            self.seen.add((id(section), name))
            return plain(section, name)

        monkeypatch.setattr(Config, "__getattribute__", recorded, raising=False)

    def unread(self, recipe: Recipe) -> tuple[set[str], set[str]]:
        """Return the fields read, and those that the recipe sets but nobody has read."""
        read, missed = set(), set()
        for section in sections(recipe):
            kind = type(section)
            for field in kind.model_fields:
                name = f"{kind.__name__}.{field}"
                if (id(section), field) in self.seen or is_tag(kind, field) or name in CONSENT:
                    read.add(name)
                elif field in section.model_fields_set:
                    missed.add(name)
        return read, missed


def every_field(annotation: Any) -> set[str]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        fields = annotation.model_fields
        inner = [every_field(info.annotation) for info in fields.values()]
        return {f"{annotation.__name__}.{name}" for name in fields}.union(*inner)
    return set().union(*(every_field(part) for part in get_args(annotation)))


def check_ledger(experiment: Experiment, result: RunResult, place: RunContext) -> None:
    """What a run says of data is the truth of all that it stands on."""
    opened = result.data_opened
    for source in (experiment.bank_id, *experiment.referee_ids):
        before = place.workspace.run(source).environment()["data_opened"] if source is not None else {}
        for role in ("train", "synthetic", "ood", "calibration"):
            assert set(before.get(role, ())) <= set(opened[role]), (experiment.run_id, role)
    assert bool(opened["teacher"]) == (experiment.teacher is not None), experiment.run_id


@pytest.mark.slow
@pytest.mark.parametrize("larger", [False, pytest.param(True, marks=pytest.mark.endurance)])
def test_every_field_is_read(larger: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in packaged_recipes() if larger or name not in LARGER]
    runs = [(name, pairs) for name in names for pairs in [[], *VARIANTS.get(name, [])]]
    reads = Reads(monkeypatch)
    read: set[str] = set()
    unread: dict[str, set[str]] = {}
    keep = []  # an id must not be given to a second section
    for name, pairs in runs:
        with shrunk(STEPS, tmp_path) as (place, load):
            recipe = load(name, pairs)
            keep.append(recipe)
            # It may be the teacher, the bank or the control of one before it, and what is finished is not read again.
            shutil.rmtree(place.workspace.store / resolve(recipe).run_id, ignore_errors=True)
            reads.seen.clear()
            check_ledger(resolve(recipe), run(resolve(recipe), place), place)
        ours, missed = reads.unread(recipe)
        read |= ours
        if missed:
            unread[" ".join([name, *pairs])] = missed
    assert unread == {}
    assert every_field(Recipe) - read == ELSEWHERE


def test_an_unread_field_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("supervised_digits_lenet5")
    reads = Reads(monkeypatch)
    assert recipe.schedule.steps > 0
    read, missed = reads.unread(recipe)
    assert {"Recipe.schedule", "ScheduleConfig.steps"} <= read
    assert {"ScheduleConfig.report_every", "Adam.lr", "Recipe.data"} <= missed
