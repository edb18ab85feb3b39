"""Which student a run ends with: the last, the blind-selected, the best.

Blind selection looks at no real image. A pool keeps held-out synthetic images of all reports with the teacher's
answers (``BlindPool``); at each report the student and the incumbent are both scored on the same pool, and the better
one is the incumbent: by agreement, or by divergence where the agreements are within a standard error of each other, as
they are once almost all images are answered alike. Where a recipe has a referee, its images count as much as the pool.
*Best* is the oracle: it peeks at the test split, and is shown to tell how much peeking would have given.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raykd.distributed.world import mix
from raykd.engine.blind_pool import BlindPool
from raykd.engine.quality import batch_quality
from raykd.engine.sentinel import class_figures
from raykd.methods.base import Method
from raykd.results import COVERAGE

MAX_IMAGES = 1024
"""Held-out images of a report."""
_LATEST = 8  # reports whose images are counted by class: a few small batches tell more than one
_LOOKED_AT = 256  # images of a report, for the figures of their quality
_HELD_OUT = 0x4E1D  # keeps these latents apart from training's

Weights = dict[str, Tensor]


class Selection:
    """Keeps the last, the blind and the best student, and the pool on which blind candidates are compared."""

    def __init__(self, method: Method, teacher: nn.Module | None) -> None:
        """Score with a copy of the method's student; a method without one leaves nothing to select."""
        self._method = method
        self._teacher = teacher
        if "student" in method.roles:
            self.candidate = copy.deepcopy(method.student)
        context = method.context
        self.pool = BlindPool(context.spec, context.seed, mirrored=context.mirrored)
        self.weights: dict[str, Weights] = {}
        self.steps: dict[str, int] = {}
        self._best_score = -1.0
        self._referee: dict[str, float] = {}
        self._labels: list[Tensor] = []

    def consider(self, weights: Weights, step: int, test: Mapping[str, float]) -> dict[str, float]:
        """Compare the student of ``step`` with the incumbents; return the blind figures.

        ``test`` are the evaluator's figures of it: those on the test split are the oracle's alone.
        """
        self._keep("last", weights, step)
        best_score = test.get("accuracy/top1", self._best_score)
        if best_score > self._best_score or "accuracy/top1" not in test:
            self._best_score = best_score
            self._keep("best", weights, step)
        if not self._method.makes_images or self._teacher is None:
            self._keep("blind", weights, step)
            return {}
        return self._blind(weights, step, test)

    def figures(self, name: str) -> dict[str, float]:
        """Return agreement and KL of a selection on the pool, ``blind/agreement`` and so on; none without a pool."""
        return _as_blind(self._score(self.weights[name])) if len(self.pool) else {}

    def _keep(self, name: str, weights: Weights, step: int) -> None:
        self.weights[name] = {key: value.detach().cpu().clone() for key, value in weights.items()}
        self.steps[name] = step

    def _blind(self, weights: Weights, step: int, test: Mapping[str, float]) -> dict[str, float]:
        """Add this report's images to the pool, compare with the incumbent, and return the better one's figures."""
        assert self._teacher is not None, "asked of methods that make images for one"
        context, pool = self._method.context, self.pool
        images = self._method.sample(min(context.global_batch, MAX_IMAGES), mix(context.seed, _HELD_OUT, step))
        self._labels = [*self._labels, pool.add(images, step, self._teacher, context.world)][-_LATEST:]
        figures = {
            COVERAGE: pool.coverage,
            **class_figures(torch.cat(self._labels), context.spec.num_classes),
            **batch_quality(images[:_LOOKED_AT].float(), self._teacher, context.spec, context.world),
        }
        referee = {name: test[f"referee/{name}"] for name in ("agreement", "kl") if f"referee/{name}" in test}
        challenger = self._score(weights)
        if "blind" in self.weights:
            incumbent = self._score(self.weights["blind"])
            if _is_better(_with(incumbent, self._referee), _with(challenger, referee), pool.effective_images):
                return {**figures, **_as_blind(incumbent)}
        self._keep("blind", weights, step)
        self._referee = referee
        return {**figures, **_as_blind(challenger)}

    def _score(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        self.candidate.load_state_dict(weights)
        return self.pool.score(self.candidate, self._method.context.world)

    def state_dict(self) -> dict[str, Any]:
        """Return all but the weights, which are saved as files of their own."""
        return {
            "steps": dict(self.steps),
            "best_score": self._best_score,
            "referee": dict(self._referee),
            "pool": self.pool.state_dict(),
            "labels": list(self._labels),
        }

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Weights]) -> None:
        """Restore what ``state_dict`` returned, with the weights by name.

        Raises:
            KeyError, TypeError, ValueError: if they are not those of this student.
        """
        self.steps = {name: int(step) for name, step in state["steps"].items()}
        self._best_score = float(state["best_score"])
        self._referee = dict(state.get("referee", {}))
        self.pool.load_state_dict(state["pool"])
        self._labels = list(state.get("labels", ()))
        self.weights = {name: dict(weights[name]) for name in self.steps}
        for name, tensors in self.weights.items():
            check_shapes(name, tensors, self.candidate.state_dict())


def _as_blind(figures: Mapping[str, float]) -> dict[str, float]:
    return {f"blind/{name}": value for name, value in figures.items()}


def _with(own: Mapping[str, float], referee: Mapping[str, float]) -> dict[str, float]:
    """Return the means of a student's figures on its own images and the referee's, where there is one."""
    return {name: (value + referee.get(name, value)) / 2 for name, value in own.items()}


def check_shapes(name: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of a network.

    Raises:
        ValueError: naming the first tensor that differs.
    """
    for key in sorted({*tensors, *wanted}):
        got, want = (list(each[key].shape) if key in each else None for each in (tensors, wanted))
        if got != want:
            raise ValueError(f"{key} of the weights {name!r} is {got or 'missing'}, the network's is {want or 'none'}")


def _is_better(incumbent: Mapping[str, float], challenger: Mapping[str, float], images: float) -> bool:
    """Tell whether the first is the better: by agreement, or by KL divergence within a standard error of it."""
    share = incumbent["agreement"] / 100
    error = 100 * math.sqrt(share * (1 - share) / images)
    lead = incumbent["agreement"] - challenger["agreement"]
    return lead > 0 if abs(lead) > error else incumbent["kl"] < challenger["kl"]
