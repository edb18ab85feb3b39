"""Updater: one optimizer whose gradients are averaged over the workers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raykd.config.optim import Optimizer
from raykd.distributed.world import World

Compiler = Callable[[nn.Module], Callable[..., Any]]
"""Turns a module into a callable of the same arguments: torch.compile, or the module itself."""


class Updater:
    """An optimizer over some parameters: takes *their* gradients only, averages them, steps."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: Optimizer,
        world: World,
        total_steps: int,
    ) -> None:
        """Build the optimizer; ``total_steps`` is the length of its schedule in calls of ``step``."""
        self._parameters = [p for p in parameters if p.requires_grad]
        self._config = config
        self._world = world
        self._total_steps = total_steps
        self._optimizer = config.build(self._parameters)
        self._step = 0

    def minimise(self, loss: Tensor) -> None:
        """Differentiate ``loss`` by these parameters, average over workers, step optimizer and schedule."""
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        self.step(self.average(gradients))

    def average(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Average gradients over workers in one flat all-reduce."""
        if self._world.size == 1:
            return gradients
        flat = self._world.sum(torch.cat([g.reshape(-1) for g in gradients])) / self._world.size
        pieces = flat.split([g.numel() for g in gradients])
        return [piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True)]

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Apply the gradients at the schedule's learning rate."""
        lr = self._config.lr_at(self._step, self._total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            # Fused optimizers walk both in memory order, and convolutions may return channels-last gradients.
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        self._step += 1

    def state_bytes(self) -> int:
        """Return the bytes of the tensors that the optimizer keeps, once it has made a step."""
        return self._config.state_tensors * sum(parameter.nbytes for parameter in self._parameters)

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
