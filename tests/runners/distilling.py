"""A teacher of digits that is soon trained, and sessions whose plan no clock decides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from raykd.cluster.config import Cluster
from raykd.data.datasets import data_spec, load_images
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, recipe_from_dict
from raykd.results import DistillResult
from raykd.runners.distill import session
from raykd.runners.distill.plan import _about
from raykd.runners.distill.record import Member, SessionPlan
from raykd.tasks.candidates import Proposals, Request

STEPS, EVERY, FIRST, FINALIST = 12, 2, 4, 6
SMALL = (
    "schedule.global_batch=32", "method.latent_dim=16", "method.generator_width=8", "method.generator_maps=[8, 8, 8]",
    "method.inner_steps=2", "method.student_steps=4",
)  # fmt: skip

SMALL_DAFL = SMALL[:3]
"""Those that dafl has."""


def train_teacher(path: Path, model: str = "lenet5_bn") -> Path:
    """Write a network that has seen all digits three times."""
    torch.manual_seed(0)
    network = build_model(model, num_classes=10, channels=1, size=32)
    spec = data_spec("digits")
    images = load_images("digits", "train", spec, None)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(3):
        for batch in evaluation_batches(images, spec, World.alone(), 64):
            optimizer.zero_grad()
            functional.cross_entropy(network(batch.images), batch.labels).backward()
            optimizer.step()
    save_file(network.state_dict(), path)
    return path


def with_numbers(recipe: Recipe, **changes: Any) -> Recipe:
    """Return a recipe with sections' fields replaced."""
    content = recipe.model_dump(mode="json")
    for section, fields in changes.items():
        content[section] |= fields
    return recipe_from_dict(content)


def fixed(
    settings: int = 1, change: Callable[[str, Recipe], Recipe] = lambda name, recipe: recipe
) -> Callable[..., SessionPlan]:
    """Return what plans a session of a few steps, whatever they take; ``change`` makes other recipes of some."""

    def plan(proposals: Proposals, minutes: float, *_: object) -> SessionPlan:
        members = []
        for candidate, proposed in proposals.candidates:
            recipe = change(candidate.name, candidate.with_schedule(proposed, STEPS, EVERY))
            own: list[tuple[str, str, Recipe, str | None]] = [(candidate.name, candidate.why, recipe, None)]
            for number, (what, variant) in enumerate(candidate.variants(recipe).items(), start=1):
                own.append((f"{candidate.name}_{number}", what, variant, candidate.name))
            members += [
                Member(name, what, resolve(one), candidate.control, FIRST, FINALIST, 0.1, 1.0, 2.0, 3.0, base)
                for name, what, one, base in own
            ]
        about, notes = _about(proposals), list(proposals.notes)
        return SessionPlan(minutes, members, settings, 2, about, "what is tried", notes, 60.0)

    return plan


def distil(
    teacher: Path,
    store: Path | str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    plan: Callable[..., SessionPlan] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    pairs: tuple[str, ...] | None = None,
    cluster: Cluster | None = None,
    chance: float = -1.0,
    **request: Any,
) -> DistillResult:
    """Run a session of a plan that no clock decides, here or on a cluster.

    A few steps bring nobody far, so none is taken to be near ``chance`` unless it is said.
    """
    monkeypatch.setattr("raykd.engine.judge._HEADROOM", chance)
    monkeypatch.setattr(session, "plan_session", plan or fixed())
    place = cluster or Cluster(name="here", workers=0)
    own = SMALL_DAFL if request.get("methods") == ("dafl",) else SMALL
    asked = Request(str(teacher), "digits", pairs=own if pairs is None else pairs, **request)
    return session.distill(
        asked, 1.0, place, store=store, data_root=None, should_stop=should_stop, progress=False, tune_host=False
    )
