"""Which student a run ends with: the last, the blind-selected, the best.

Blind selection looks at no real image. A pool keeps held-out synthetic images of the latest reports with the
teacher's answers; at each report the student and the incumbent are both scored on the same pool, and the better one
is the incumbent: by agreement, or by divergence where the agreements are within a standard error of each other, as
they are once almost all images are answered alike. *Best* is the oracle: it peeks at the test split, and is shown to
tell how much peeking would have given.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raykd.distributed.world import World, mix
from raykd.engine.evaluator import score
from raykd.engine.quality import batch_quality
from raykd.engine.sentinel import class_figures
from raykd.methods.base import Method
from raykd.models.logits import compute_logits

_POOL_REPORTS = 8
_POOL_BYTES = 64 * 2**20
_MAX_IMAGES = 1024
_BATCH = 256
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
        self._pool: list[tuple[Tensor, Tensor]] = []
        self.weights: dict[str, Weights] = {}
        self.steps: dict[str, int] = {}
        self._best_score = -1.0

    def consider(self, weights: Weights, step: int, test: Mapping[str, float]) -> dict[str, float]:
        """Compare the student of ``step`` with the incumbents; return the blind figures."""
        self._keep("last", weights, step)
        best_score = test.get("accuracy/top1", self._best_score)
        if best_score > self._best_score or "accuracy/top1" not in test:
            self._best_score = best_score
            self._keep("best", weights, step)
        blind = self._blind(weights, step)
        if not blind:
            self._keep("blind", weights, step)
        return blind

    def _keep(self, name: str, weights: Weights, step: int) -> None:
        self.weights[name] = {key: value.detach().cpu().clone() for key, value in weights.items()}
        self.steps[name] = step

    def _blind(self, weights: Weights, step: int) -> dict[str, float]:
        """Add this report's images to the pool and compare with the incumbent; none where no images are made."""
        context = self._method.context
        count = min(context.global_batch, _MAX_IMAGES)
        if not self._method.makes_images or self._teacher is None:
            return {}
        images = self._method.sample(count, mix(context.seed, _HELD_OUT, step))
        world = context.world
        # Stored halved in size; the teacher answers what is stored, so both see the same pixels.
        images = images.half()
        batches = [b.float() for b in images.split(_BATCH)]
        self._pool.append((images.cpu(), compute_logits(self._teacher, batches, world).cpu()))
        max_reports = max(1, _POOL_BYTES // (images.numel() * images.element_size()))
        self._pool = self._pool[-min(_POOL_REPORTS, max_reports) :]
        labels = torch.cat([logits.argmax(1) for _, logits in self._pool])
        figures = {
            **class_figures(labels, context.spec.num_classes),
            **batch_quality(batches[0], self._teacher, context.spec, world),
        }
        challenger = self._score(weights, world)
        if "blind" in self.weights:
            incumbent = self._score(self.weights["blind"], world)
            if _is_better(incumbent, challenger, sum(len(images) for images, _ in self._pool)):
                return {**figures, **{f"blind/{name}": value for name, value in incumbent.items()}}
        self._keep("blind", weights, step)
        return {**figures, **{f"blind/{name}": value for name, value in challenger.items()}}

    def _score(self, weights: Mapping[str, Tensor], world: World) -> dict[str, float]:
        self.candidate.load_state_dict(weights)
        share = slice(world.rank, None, world.size)
        images = torch.cat([images for images, _ in self._pool])[share]
        teacher_logits = torch.cat([logits for _, logits in self._pool])[share].to(world.device)
        batches = (b.to(world.device).float() for b in images.split(_BATCH))
        return score(compute_logits(self.candidate, batches, world), None, teacher_logits, world)

    def state_dict(self) -> dict[str, Any]:
        """Return steps, the oracle's score and the pool; the weights are saved as files of their own."""
        return {
            "steps": dict(self.steps),
            "best_score": self._best_score,
            "pool": [list(entry) for entry in self._pool],
        }

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Weights]) -> None:
        """Restore what ``state_dict`` returned, with the weights by name.

        Raises:
            KeyError, TypeError, ValueError: if they are not those of this student.
        """
        self.steps = {name: int(step) for name, step in state["steps"].items()}
        self._best_score = float(state["best_score"])
        self._pool = [(images, logits) for images, logits in state["pool"]]
        self.weights = {name: dict(weights[name]) for name in self.steps}
        for name, tensors in self.weights.items():
            check_shapes(name, tensors, self.candidate.state_dict())


def check_shapes(name: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of a network.

    Raises:
        ValueError: naming the first tensor that differs.
    """
    for key in sorted({*tensors, *wanted}):
        got, want = (list(each[key].shape) if key in each else None for each in (tensors, wanted))
        if got != want:
            raise ValueError(f"{key} of the weights {name!r} is {got or 'missing'}, the network's is {want or 'none'}")


def _is_better(incumbent: Mapping[str, float], challenger: Mapping[str, float], images: int) -> bool:
    """Tell whether the first is the better: by agreement, or by KL divergence within a standard error of it."""
    share = incumbent["agreement"] / 100
    error = 100 * math.sqrt(share * (1 - share) / images)
    lead = incumbent["agreement"] - challenger["agreement"]
    return lead > 0 if abs(lead) > error else incumbent["kl"] < challenger["kl"]
