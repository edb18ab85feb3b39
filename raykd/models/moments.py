"""The moments of what a teacher's BatchNorm layers see, for each group of images and in one forward pass.

N images, G groups, b = N / G images per group, C channels of a layer. Images are ordered by group, so that one
reshape [N, ...] -> [G, b, ...] separates the groups.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.errors import UsageError
from raykd.losses import identity
from raykd.models.teacher import Teacher

_TINY = 1e-8  # of a variance
Moments = list[tuple[Tensor, Tensor]]
"""Per layer the (mean, biased variance) of its input, each [G, C]."""


class _Moments(torch.autograd.Function):
    """Pass the input through and return its moments; the backward is two passes over the input.

    What autograd derives for `_moments` would store the centred input and its square, and pass over such tensors
    several times more; in eager mode memory traffic is all that moments cost.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, shift: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        centred = _grouped(inputs, groups) - _per_channel(shift, inputs)
        dims = _reduced(centred)
        offset = centred.mean(dims)
        variance = centred.square_().mean(dims).sub_(offset.square()).clamp_(min=0)
        mean = offset.add_(shift)
        ctx.save_for_backward(inputs, mean)
        return inputs.view_as(inputs), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        inputs, mean = ctx.saved_tensors
        to_output, to_mean, to_variance = gradients
        grouped = _grouped(inputs, len(mean))
        count = grouped[0, :, 0].numel()
        slope = to_variance * (2 / count)
        constant = torch.addcmul(to_mean / count, slope, mean, value=-1)
        gradient = torch.addcmul(_per_channel(constant, inputs), grouped, _per_channel(slope, inputs))
        gradient += _grouped(to_output, len(mean))
        return gradient.flatten(0, 1).to(inputs.dtype), None, None


def _moments(inputs: Tensor, shift: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance [G, C] in operations that a compiler fuses with the layer around them.

    One pass suffices, and nothing cancels, because ``shift`` is close to the mean:
    with c = x - shift, mean = shift + E[c] and variance = E[c^2] - E[c]^2.
    """
    centred = _grouped(inputs, groups) - _per_channel(shift, inputs)
    dims = _reduced(centred)
    offset = centred.mean(dims)
    return offset + shift, (centred.square().mean(dims) - offset.square()).clamp(min=0)


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    """View [N, C, ...] as [G, b, C, ...]."""
    grouped: Tensor = tensor.unflatten(0, (groups, -1))
    return grouped


def _reduced(grouped: Tensor) -> list[int]:
    """Return all dimensions of [G, b, C, ...] but those of groups and channels."""
    return [1, *range(3, grouped.dim())]


def _per_channel(values: Tensor, inputs: Tensor) -> Tensor:
    """Let values [C] or [G, C] broadcast against inputs [N, C, ...] seen as [G, b, C, ...]."""
    return values.reshape(-1, 1, values.shape[-1], *(1,) * (inputs.dim() - 2))


def _precise(tensor: Tensor) -> Tensor:
    """Return half precision, too coarse to accumulate in, as float32; what is computed with it follows."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _MomentTap:
    """A forward pre-hook that takes the moments of one BatchNorm layer's input, while armed.

    An object, not a closure, so that a deep copy of the network taps into its own copy.
    """

    def __init__(self) -> None:
        self.groups = 0  # 0: not armed
        self.held: tuple[Tensor, Tensor] | None = None

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.groups:
            return None
        inputs = args[0] if args else next(iter(kwargs.values()))
        shift = _precise(layer.get_buffer("running_mean"))
        if torch.compiler.is_compiling():
            self.held = _moments(inputs, shift, self.groups)
            return None
        inputs, mean, variance = _Moments.apply(inputs, shift, self.groups)
        self.held = mean, variance
        return (inputs,), {}

    def take(self) -> tuple[Tensor, Tensor] | None:
        self.groups = 0
        held, self.held = self.held, None  # what stayed here would keep the whole graph alive
        return held


class MomentTeacher(nn.Module):
    """A teacher that also returns the moments of its BatchNorm layers' inputs, group by group.

    Attributes:
        teacher: the wrapped teacher, which works by itself as before.
        layers: names of the layers within ``teacher.network``, in the order of ``teacher.batch_norms``; those that
            a forward pass leaves out, such as an auxiliary head's, are left out here too.
        widths: channels C of each layer.
    """

    def __init__(self, teacher: Teacher) -> None:
        """Wrap ``teacher``; costs one forward pass of two images.

        Raises:
            UsageError: no BatchNorm layer with running statistics runs, one runs twice in a forward pass, or one sees
                other rows than the images.
        """
        super().__init__()
        self.teacher = teacher
        self.layers = _running_once(teacher)
        if not self.layers:
            raise UsageError(
                "the teacher has no BatchNorm layer with running statistics that its images' moments could be matched "
                "to; use a method that needs none, or a variant of the network with BatchNorm, such as lenet5_bn"
            )
        self.widths = [len(mean) for mean, _ in self.running()]
        self.taps = [_MomentTap() for _ in self.layers]
        for layer, tap in zip(self._norms(), self.taps, strict=True):
            layer.register_forward_pre_hook(tap, with_kwargs=True)

    def running(self) -> Moments:
        """Return the stored (mean, variance) of each layer, float32 [C], in the order of ``layers``."""
        return [
            (_precise(layer.get_buffer("running_mean")), _precise(layer.get_buffer("running_var")))
            for layer in self._norms()
        ]

    def forward(self, images: Tensor, groups: int = 1) -> tuple[Tensor, Tensor, Moments]:
        """Map images [N, channels, size, size], ordered by group, to logits [N, K], features [N, F] and moments.

        The moments are, per layer, the mean and the biased variance of its input over the images of a group and over
        their pixels, each [G, C]; float32 also under autocast; in eager mode differentiable once, not twice.

        Args:
            images: groups of N / groups images each, one after the other.
            groups: number of groups G.

        Raises:
            UsageError: N is not a multiple of ``groups``, or the images are not of the teacher's shape.
        """
        if groups < 1 or len(images) % groups:
            raise UsageError(
                f"{len(images)} images cannot be {groups} groups of equal size; give every group equally many images"
            )
        for tap in self.taps:
            tap.groups = groups
        try:
            logits, features = self.teacher(images)
        finally:
            taken = [tap.take() for tap in self.taps]
        moments = [pair for pair in taken if pair is not None]
        if len(moments) < len(taken):
            missing = [name for name, pair in zip(self.layers, taken, strict=True) if pair is None]
            raise UsageError(
                f"the teacher ran without its layers {missing} this time; its path must not depend on the images"
            )
        return logits, features, moments

    def _norms(self) -> list[nn.Module]:
        return [self.teacher.network.get_submodule(name) for name in self.layers]


def _running_once(teacher: Teacher) -> list[str]:
    """Return the names of the BatchNorm layers that a forward pass runs, having checked each."""
    names = teacher.batch_norms
    rows: dict[str, list[int]] = {name: [] for name in names}

    def note(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: rows[name].append(len(output))

    handles = [teacher.network.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        with torch.no_grad():
            teacher(_black(teacher, 2))
    finally:
        for handle in handles:
            handle.remove()
    for name, seen in rows.items():
        if len(seen) > 1:
            raise UsageError(
                f"BatchNorm layer {name!r} of the teacher runs {len(seen)} times in a forward pass, so its running "
                "statistics mix several inputs; give every place a layer of its own"
            )
        if seen and seen[0] != 2:
            raise UsageError(
                f"BatchNorm layer {name!r} of the teacher sees {seen[0]} rows for 2 images, so they cannot be told "
                "apart by group; give it one row [channels, ...] per image"
            )
    return [name for name, seen in rows.items() if seen]


def _black(teacher: Teacher, number: int) -> Tensor:
    """Make black images for a trial; random ones would move the random state."""
    like = next((p for p in teacher.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(number, *teacher.image_shape, dtype=like.dtype, device=like.device)


def merged(moments: Moments, average: Callable[[Tensor], Tensor] = identity) -> Moments:
    """Return the moments of the images of all groups, and of all workers, taken together: each [1, C] per layer.

    The mean is that of the means; the variance is the mean of the variances plus that of the squared distances of the
    means. With ``average`` the means run over the groups of all workers: sums over a worker's groups and its number of
    groups are averaged apart and then divided, so that workers may have different numbers of groups. Every group, on
    every worker, must have equally many images. Calls ``average`` twice, on one vector of all layers each time.

    Args:
        moments: per layer (mean, biased variance), each [G, C].
        average: mean over workers, with gradients.
    """
    means = torch.cat([mean for mean, _ in moments], dim=1)
    variances = torch.cat([variance for _, variance in moments], dim=1)
    widths = [mean.shape[1] for mean, _ in moments]
    sums = average(torch.cat((means.sum(dim=0), means.new_full((1,), len(means)))))
    groups = sums[-1:].detach()
    mean = sums[:-1] / groups
    variance = average((variances + (means - mean).square()).sum(dim=0)) / groups
    return list(zip(mean[None].split(widths, dim=1), variance[None].split(widths, dim=1), strict=True))


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Let the BatchNorm layers normalise by the batch, as in training, without remembering it."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def variance_gaps(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that takes from each BatchNorm layer that runs how far the variances that it sees are from its own.

    That is the mean over channels of |ln(variance of its input / running variance)|, a scalar.
    """
    gaps: list[Tensor] = []

    def look(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = _precise((args[0] if args else next(iter(kwargs.values()))).detach())
        seen = inputs.var([0, *range(2, inputs.dim())], unbiased=False)
        own = _precise(layer.get_buffer("running_var"))
        gaps.append((seen.clamp(min=_TINY) / own.clamp(min=_TINY)).log().abs().mean())

    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_var is not None]
    handles = [norm.register_forward_pre_hook(look, with_kwargs=True) for norm in norms]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def input_sums(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping that takes the sums of what each BatchNorm layer that runs sees, by its name within ``network``.

    They are float64 [3, C], over all forward passes: the number of values of a channel, their sum, that of their
    squares. Unlike the moments of each batch, those of all can be told from them, whichever classes a batch had.
    """
    sums: dict[str, Tensor] = {}

    def look(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = (args[0] if args else next(iter(kwargs.values()))).detach().double()
        rest = [0, *range(2, inputs.dim())]
        total = inputs.sum(rest)
        count = torch.full_like(total, inputs.numel() // inputs.shape[1])
        sums[name] = sums.get(name, 0) + torch.stack([count, total, inputs.square().sum(rest)])

    norms = [
        (name, m) for name, m in network.named_modules() if isinstance(m, _BatchNorm) and m.running_var is not None
    ]
    handles = [norm.register_forward_pre_hook(partial(look, name), with_kwargs=True) for name, norm in norms]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def variance_gap(sums: Tensor, running: Tensor) -> float:
    """Return the mean over channels of |ln(variance of what ``input_sums`` told [3, C] / running variance [C])|."""
    count, total, squares = sums
    seen = (squares / count - (total / count).square()).clamp(min=_TINY)
    return float((seen / running.to(seen).clamp(min=_TINY)).log().abs().mean())


def activation_bytes(teacher: Teacher | MomentTeacher, shape: Sequence[int]) -> int:
    """Return how many bytes an eager forward pass keeps for the backward pass, per image.

    Counted, in the precision of the teacher's parameters, as the tensors that autograd saves for 4 images less those
    for 2: what does not grow with the images drops out. A compiled teacher keeps less.

    Args:
        teacher: with or without moments.
        shape: of an image, (channels, size, size).
    """
    plain = teacher.teacher if isinstance(teacher, MomentTeacher) else teacher

    def kept(number: int) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()

        images = _black(plain, number).new_zeros(number, *shape).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = teacher(images)  # alive until the sum, so that no address is used twice
        total = sum(storages.values())
        del outputs
        return total

    return (kept(4) - kept(2)) // 2
