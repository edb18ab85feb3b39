"""Updater: one optimizer whose gradients are averaged over the workers, and which makes no step of bad numbers.

Whether a gradient is finite is asked and kept on the device, so that no step waits for the answer.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raykd.config.optim import Optimizer
from raykd.distributed.world import World

Compiler = Callable[[nn.Module], Callable[..., Any]]
"""Turns a module into a callable of the same arguments: torch.compile, or the module itself."""

_TINY = 1e-30  # of a gradient's norm


class Updater:
    """An optimizer over some parameters: takes *their* gradients only, averages them, steps.

    From the first gradients on, of any worker, that are not finite, or so large that the sum of their squares is not,
    parameters and the optimizer's state stay as they are, on all workers alike.

    Attributes:
        clip_norm: the largest l2 norm of all averaged gradients together, to which longer ones are shortened; or none.
        refused: steps that were not made for that, float32 () on the device.
        at_fault: 1 where such gradients were this worker's own, else 0, likewise.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: Optimizer,
        world: World,
        total_steps: int,
    ) -> None:
        """Build the optimizer; ``total_steps`` is the length of its schedule in calls of ``step``."""
        self.clip_norm: float | None = None
        self._parameters = [p for p in parameters if p.requires_grad]
        self._config = config
        self._world = world
        self._total_steps = total_steps
        self._optimizer = config.build(self._parameters)
        zero = torch.zeros((), dtype=torch.float32, device=self._parameters[0].device)
        self.refused, self.at_fault, self._stopped = zero, zero.clone(), zero.clone()
        # Fused optimizers leave everything as it is while this is 1.
        self._optimizer.found_inf = self._stopped  # type: ignore[attr-defined]
        self._step = 0

    @property
    def total_steps(self) -> int:
        """Return the length of the schedule in calls of ``step``."""
        return self._total_steps

    def minimise(self, loss: Tensor) -> None:
        """Differentiate ``loss`` by these parameters, average over workers, step optimizer and schedule."""
        self.step(torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True))

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Average this worker's gradients over workers and apply them at the schedule's learning rate."""
        averaged, fault = self._average(gradients)
        if self.clip_norm is not None:
            shorter = (self.clip_norm / torch.nn.utils.get_total_norm(averaged).clamp(min=_TINY)).clamp(max=1)
            averaged = [gradient * shorter for gradient in averaged]
        torch.maximum(self._stopped, fault, out=self._stopped)
        self.refused += self._stopped
        lr = self._config.lr_at(self._step, self._total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        for parameter, gradient in zip(self._parameters, averaged, strict=True):
            # Fused optimizers walk both in memory order, and convolutions may return channels-last gradients.
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        self._step += 1

    def refuse(self, fault: Tensor) -> None:
        """Make no step any more where ``fault``, float32 (), is 1: what it would learn from is not finite."""
        torch.maximum(self.at_fault, fault, out=self.at_fault)
        torch.maximum(self._stopped, fault, out=self._stopped)
        self.refused += fault

    def state_bytes(self) -> int:
        """Return the bytes of the tensors that the optimizer keeps, once it has made a step."""
        return self._config.state_tensors * sum(parameter.nbytes for parameter in self._parameters)

    def _average(self, gradients: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        """Return the workers' mean gradients, in one flat all-reduce, and 1 if they are not to be used, else 0."""
        fault = _fault(gradients)
        torch.maximum(self.at_fault, fault, out=self.at_fault)
        if self._world.size == 1:
            return gradients, fault
        flat = self._world.sum(torch.cat([g.reshape(-1) for g in gradients])) / self._world.size
        pieces = flat.split([g.numel() for g in gradients])
        return [piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True)], _fault([flat])

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain numbers only: loadable with ``weights_only=True``."""
        return {"step": self._step, "optimizer": self._optimizer.state_dict()["state"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the configuration stays this updater's own.

        Raises:
            KeyError, TypeError, ValueError: if these are not the tensors of these parameters.
        """
        for index, tensors in state["optimizer"].items():
            shape = self._parameters[index].shape if index < len(self._parameters) else None
            for name, tensor in tensors.items():
                if isinstance(tensor, Tensor) and tensor.shape != shape and tensor.dim():  # else a counter
                    raise ValueError(f"{name} of parameter {index} is {list(tensor.shape)}, which is not its shape")
        whole = self._optimizer.state_dict()
        self._optimizer.load_state_dict({"state": state["optimizer"], "param_groups": whole["param_groups"]})
        self._step = int(state["step"])


def _fault(gradients: Sequence[Tensor]) -> Tensor:
    """Return 1 where the sum of squares is not finite, else 0: float32 (), on the device.

    On processors the search for the largest element would take thirty times as long.
    """
    return (~torch.nn.utils.get_total_norm(gradients).isfinite()).float()
