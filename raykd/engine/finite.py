"""Numbers that are not finite: no step is made of them, nothing is saved after them, and the error names their origin.

That an update was refused is known on the device alone (see ``Updater``) and read where the loop waits for it anyway,
at the polls for a stop and at reports. Until then the losses of steps are kept, so that term and worker can be named.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raykd.errors import RunFailed, UsageError
from raykd.methods.base import BankMethod, Method, Metrics, ShardedMethod
from raykd.models.teacher import Teacher

_NAMED = 5  # tensors in a message
_PROBES = 8  # images that a teacher is asked about
_SEED = 0x7EAC


class Unhealthy(RunFailed):
    """A run whose numbers or figures say that it has failed; an earlier checkpoint of it may still be good."""


class FiniteGuard:
    """Sees to it that a method's numbers are finite, on all workers together."""

    def __init__(self, method: Method) -> None:
        """Watch ``method``; what is infinite in its buffers from the beginning, such as a mask, may stay so."""
        self._method = method
        self._losses: dict[int, Metrics] = {}
        self._masks = frozenset(find_not_finite(_buffers(method)))

    def note(self, losses: Metrics) -> None:
        """Keep the losses of the step just made, on the device."""
        self._losses[self._method.steps_done] = {name: value.detach() for name, value in losses.items()}

    def check_updates(self) -> None:
        """Fail if an update was refused since the last time; every worker must call it.

        Raises:
            Unhealthy: the same on all workers, naming the terms or the gradients, whose, and the step.
        """
        found = self._method.world.gather_objects(self._find_refused())
        self._losses.clear()
        refused = [one for one in found if one]
        if refused:
            step = min(one["step"] for one in refused)
            causes = [(rank, one) for rank, one in enumerate(found) if one and one["step"] == step]
            own = [(rank, one["terms"] or one["gradients"]) for rank, one in causes]
            self._fail(own, step, fallback=causes[0][1]["refused"])

    def check(self, row: Mapping[str, float]) -> None:
        """Fail if an update was refused, or what is to be reported or saved is not finite; as ``check_updates``.

        Args:
            row: figures over all workers; of its losses this worker's own are looked at.
        """
        own = {name: value.item() for name, value in self._losses.get(self._method.steps_done, {}).items()}
        self.check_updates()
        names = [*not_finite_numbers({**row, **own}), *find_not_finite(_saved(self._method))]
        found = self._method.world.gather_objects([name for name in names if name not in self._masks])
        if any(found):
            self._fail(list(enumerate(found)), self._method.steps_done)

    def _find_refused(self) -> dict[str, Any] | None:
        """Return since which step updates were refused, and what of this worker's own was not finite then."""
        updaters, done = self._method.updaters, self._method.steps_done
        if not updaters:
            return None
        counts = torch.stack([updater.refused for updater in updaters.values()]).tolist()
        refused = {name: count for name, count in zip(updaters, counts, strict=True) if count}
        if not refused:
            return None
        per_step = {name: self._method.updates_per_step(name) for name in refused}
        step = done + 1 - max(math.ceil(count / per_step[name]) for name, count in refused.items())
        losses = {name: value.item() for name, value in self._losses.get(step, {}).items()}
        gradients = [f"gradient of {name}" for name in refused if updaters[name].at_fault.item()]
        fallback = [f"gradient of {name}" for name in refused]
        return {"step": step, "terms": not_finite_numbers(losses), "gradients": gradients, "refused": fallback}

    def _fail(self, found: Iterable[tuple[int, list[str]]], step: int, fallback: Iterable[str] = ()) -> None:
        ranks: dict[str, list[int]] = {}
        for rank, names in found:
            if names:
                ranks.setdefault(listed(names), []).append(rank)
        size = self._method.world.size
        texts = [
            names + ("" if len(of) == size else f" on worker {', '.join(map(str, of))}") for names, of in ranks.items()
        ]
        raise not_finite_error("; ".join(texts) or listed(list(fallback)), step)


def not_finite_error(what: str, step: int) -> Unhealthy:
    """Return the error for quantities that are not finite at a step."""
    return Unhealthy(
        f"{what} not finite at step {step}; no checkpoint was written for it. "
        "Lower the learning rate (student_optim.lr, method.generator_optim.lr, method.pixel_optim.lr) or a loss weight"
    )


def check_finite(figures: Mapping[str, float], step: int) -> None:
    """Refuse figures that are not finite and that all workers have alike.

    Raises:
        Unhealthy: naming them.
    """
    if names := not_finite_numbers(figures):
        raise not_finite_error(listed(names), step)


def check_teacher(teacher: Teacher) -> Tensor:
    """Refuse a teacher before anything is trained against it; return its logits of Gaussian images (8, C).

    Raises:
        UsageError: if its weights are not finite, or its answers to Gaussian images.
    """
    if names := find_not_finite(teacher.network.state_dict(keep_vars=True), of_buffers=False):
        raise UsageError(
            f"the teacher's weights are not finite ({listed(names)}), so nothing can be learned from it; give others "
            "(`raykd inspect` looks at a teacher)"
        )
    like = next((p for p in teacher.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(_PROBES, *teacher.image_shape, generator=generator).to(like)
    with torch.no_grad():
        logits: Tensor = teacher(images)[0]
    if not logits.isfinite().all():
        raise UsageError(
            "the teacher's answers to random images are not finite, though its weights are: its BatchNorm statistics "
            "or the scale of its weights are wrong (`raykd inspect` looks at a teacher); give other weights"
        )
    return logits


def find_not_finite(tensors: Mapping[str, Tensor], *, of_buffers: bool = True) -> list[str]:
    """Return the names of tensors, without ``of_buffers`` of parameters only, that hold a number that is not finite."""
    kept = {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.numel() and (of_buffers or isinstance(tensor, nn.Parameter))
    }
    # One look at the device where all is well; squares of finite numbers may be infinite.
    if torch.nn.utils.get_total_norm(list(kept.values())).isfinite():
        return []
    return [name for name, tensor in kept.items() if not tensor.isfinite().all()]


def _saved(method: Method) -> dict[str, Tensor]:
    """Return all tensors of this worker's that a checkpoint or a product is made of."""
    found = {
        f"{name}.{key}": tensor
        for name, network in method.trained.items()
        for key, tensor in network.state_dict().items()
    }
    for name, updater in method.updaters.items():
        for index, state in updater.state_dict()["optimizer"].items():
            tensors = {kind: value for kind, value in state.items() if isinstance(value, Tensor)}
            found |= {f"optimizer of {name}, {kind} {index}": value for kind, value in tensors.items()}
    if isinstance(method, ShardedMethod):
        found |= method.shard()
    if isinstance(method, BankMethod) and method.milestone:
        for product, parts in method.products().items():
            found |= {f"{product}.{key}": tensor for key, tensor in parts.items()}
    return found


def _buffers(method: Method) -> dict[str, Tensor]:
    return {f"{name}.{key}": b for name, network in method.trained.items() for key, b in network.named_buffers()}


def not_finite_numbers(figures: Mapping[str, float]) -> list[str]:
    """Return the names of figures that are not finite, in their order."""
    return sorted(name for name, value in figures.items() if not math.isfinite(value))


def listed(names: list[str]) -> str:
    """Write the first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
