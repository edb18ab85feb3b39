"""A bank of independent generators, one per class, computed as one.

Shapes: K members, b images of each, N images, Z latent (with the one-hot class, where there is one), C channels,
H = W = size. Every parameter has a leading axis K, so one product serves all members and one optimizer all parameters.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.generators.architecture import Architecture, GeneratorConfig
from raykd.generators.output import STANDARDISED, Output
from raykd.generators.stacked import batch_norm, frozen_norm, projection
from raykd.generators.upsampling import thin_conv3x3, upsampled_conv3x3

EVERY = -1
"""The "class" of a member that serves all classes."""

_AT_ONCE = {"cuda": 2048, "cpu": 32}
"""Images that `GeneratorBank.mixed` makes at a time where nothing else is said."""

Tensors = dict[str, Tensor]
_OUTPUT = ("centre", "scale")


class GeneratorBank(nn.Module):
    """K generators of one architecture; members share nothing but the time they are computed at.

    In train mode every member normalises by the statistics of its own b images and refines its running statistics by
    them (momentum 0.1, as `torch.nn.BatchNorm2d`); in eval mode by the running statistics, so that an image depends
    on its latent alone.

    Attributes:
        classes: the class of each member, in the order of the leading axis.
        config: the architecture.
        latent_dim: numbers of noise per image, without the one-hot class.
        conditions: length of the one-hot class appended to the noise, 0 for none.
        image_shape: (C, H, W).
    """

    def __init__(
        self,
        classes: Sequence[int],
        config: GeneratorConfig,
        *,
        channels: int,
        size: int,
        conditions: int = 0,
        chunk_images: int | None = None,
        output: Output = STANDARDISED,
    ) -> None:
        """Allocate; `initialise` or `load_member` must follow, since all projections and convolutions are zero.

        Args:
            classes: one per member, distinct; (EVERY,) for one generator of all classes.
            config: the architecture.
            channels: C.
            size: H and W.
            conditions: number of classes that a generator of all classes is told by one-hot, or 0.
            chunk_images: compute as many members at a time as make about so many images: less memory traffic for the
                same result. None: all at once (`mixed` in eval mode: some). A compiled bank does not need it.
            output: what follows the last convolution of each member.

        Raises:
            UsageError: if classes repeat, if EVERY is not alone, or if the size does not divide.
        """
        super().__init__()
        self.classes = tuple(classes)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UsageError(f"a bank needs at least one class and each only once, not {self.classes}")
        if (EVERY in self.classes or conditions) and self.classes != (EVERY,):
            raise UsageError(f"a generator of all classes, told the class or not, is alone; got {self.classes}")
        self.config, self.latent_dim, self.conditions = config, config.latent_dim, conditions
        self.image_shape = (channels, size, size)
        self.chunk_images = chunk_images
        self._architecture = Architecture(config, channels, size, conditions, output)
        self._output = output
        count = len(self.classes)
        for name, shape in self._architecture.shapes.items():
            start = torch.ones if _is_scale(name) else torch.zeros
            self._layer(name).register_parameter(name.split(".")[1], nn.Parameter(start(count, *shape)))
        for name, shape in self._architecture.statistics.items():
            start = torch.ones if name.endswith("running_var") else torch.zeros
            self._layer(name).register_buffer(name.split(".")[1], start(count, *shape))

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Start every member from (seed, its class) as PyTorch starts linear layers and convolutions."""
        shapes = self._architecture.shapes
        for row, cls in enumerate(self.classes):
            generator = torch.Generator().manual_seed(mix(seed, cls))
            for name, tensor in self._tensors().items():
                layer = name.split(".")[0]
                if layer == "output":
                    tensor[row] = 0
                elif layer.startswith("norm"):
                    tensor[row] = float(_is_scale(name) or name.endswith("running_var"))
                else:
                    bound = 1 / math.sqrt(math.prod(shapes[f"{layer}.weight"][1:]))
                    tensor[row] = torch.empty(shapes[name]).uniform_(-bound, bound, generator=generator)

    def forward(self, z: Tensor) -> Tensor:
        """Return images [K b, C, H, W], one member's after the other's, for ``z`` [K, b, Z].

        Raises:
            UsageError: in train mode, if a member's first maps have a single number per channel.
        """
        return self._images(self._tensors() if self.training else self._rows(range(len(self.classes))), z)

    def mixed(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return one image per row, generated by the member of the row's label.

        In eval mode labels may come in any numbers, and only members that occur are computed, some at a time. A bank
        in bfloat16 then computes in float32, or as autocast says. In train mode every member must occur equally often.
        Which member makes what is told by the host, so labels on the CPU save it from waiting for a device.

        Args:
            z: [N, latent_dim].
            labels: int64 [N], on the CPU or where ``z`` is.

        Returns:
            [N, C, H, W], float32 at least, in the order of the rows.

        Raises:
            UsageError: if a label has no member, or in train mode if the numbers differ.
        """
        members = self._find_members(labels)
        counts = torch.bincount(members, minlength=len(self.classes)).tolist()
        order = members.argsort(stable=True)
        if self.conditions:
            z = torch.cat((z, F.one_hot(labels, self.conditions).to(z, non_blocking=True)), dim=1)
        if self.training:
            if min(counts) != max(counts) or not counts[0]:
                raise UsageError(
                    "in train mode every member of a bank must make equally many images, not "
                    f"{min(counts)} to {max(counts)}; deal the labels evenly, or use eval mode"
                )
            stacked: Tensor = z[order.to(z.device, non_blocking=True)].unflatten(0, (len(counts), -1))
            images: Tensor = self(stacked)
            return images[order.argsort().to(z.device, non_blocking=True)]
        if not len(labels):
            return z.new_empty(0, *self.image_shape)
        parts, rows = [], []
        for group, group_rows in self._groups(counts, order, z.device.type):
            parts.append(self._images(self._rows(group), z[group_rows.to(z.device, non_blocking=True)]))
            rows.append(group_rows.flatten())
        return torch.cat(parts)[torch.cat(rows).argsort().to(z.device, non_blocking=True)]

    def member_state(self, cls: int) -> Tensors:
        """Return copies of one member's parameters and running statistics, without the leading axis."""
        row = self._row(cls)
        return {name: tensor[row].detach().clone() for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def load_member(self, cls: int, state: Mapping[str, Tensor]) -> None:
        """Take what `member_state` returned, in any floating-point type.

        Raises:
            UsageError: if the class has no member here, or the state is that of another architecture.
        """
        row, tensors = self._row(cls), self._tensors()
        expected = {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
        got = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if got != expected:
            differing = sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))
            name = differing[0]
            raise UsageError(
                f"these weights are not those of this generator: {name} is {got.get(name, 'missing')}, here "
                f"{expected.get(name, 'unknown')} ({len(differing)} tensors differ); "
                "use the configuration they came from"
            )
        for name, tensor in tensors.items():
            tensor[row].copy_(state[name])

    def _images(self, tensors: Tensors, z: Tensor) -> Tensor:
        """Return images [K b, C, H, W] by the members whose tensors are given."""
        first = self._architecture.first_size
        if self.training and z.shape[1] * first * first == 1:
            raise UsageError(
                "BatchNorm cannot train on one image whose first maps are 1 x 1: make several images per member, or "
                "use fewer upsamplings"
            )
        weight, bias = tensors["project.weight"], tensors.get("project.bias")
        x = projection(z.to(weight.dtype), weight, bias, first)
        members = len(weight)
        if self.chunk_images is not None and not torch.compiler.is_compiling():
            members = max(1, self.chunk_images // z.shape[1])
        if members >= len(weight):
            return self._run_layers(tensors, x)
        names = [name for name in tensors if not name.startswith("project.")]
        parts = zip(*(tensors[name].split(members) for name in names), strict=True)
        pairs = zip(parts, x.split(members), strict=True)
        return torch.cat([self._run_layers(dict(zip(names, part, strict=True)), maps) for part, maps in pairs])

    def _run_layers(self, tensors: Tensors, x: Tensor) -> Tensor:
        """Go on from the first maps [K, b, s, s, C], before their norm."""
        last = self._architecture.upsamplings + 1
        x = self._normed(tensors, 0, x)
        for i in range(1, last):
            x = self._normed(tensors, i, upsampled_conv3x3(x, tensors[f"conv{i}.weight"]))
        bias = tensors[f"conv{last}.bias"][:, None, None, None]
        # The float32 bias brings the end of the network back from bfloat16 under autocast.
        x = self._normed(tensors, last, (thin_conv3x3(x, tensors[f"conv{last}.weight"]) + bias).tanh())
        ends = [tensors[f"output.{name}"][:, None, :, None, None] for name in _OUTPUT if self._output.learns]
        return self._output(x.permute(0, 1, 4, 2, 3), *ends).flatten(0, 1)

    def _normed(self, tensors: Tensors, i: int, x: Tensor) -> Tensor:
        norm, layer = self._architecture.norms[i], f"norm{i}"
        function = batch_norm if self.training else frozen_norm
        running = tensors[f"{layer}.running_mean"], tensors[f"{layer}.running_var"]
        weight, bias = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.bias")
        return function(x, weight, bias, norm.eps, norm.slope, running)

    def _groups(self, counts: Sequence[int], order: Tensor, device: str) -> Iterator[tuple[list[int], Tensor]]:
        """Yield members of equal counts [k] and the rows they make [k, b], so that nothing is padded."""
        at_once = self.chunk_images or _AT_ONCE.get(device, _AT_ONCE["cpu"])
        starts = [0]
        for count in counts:
            starts.append(starts[-1] + count)
        for count in sorted({count for count in counts if count}):
            members = [member for member, own in enumerate(counts) if own == count]
            each = max(1, at_once // count)
            for first in range(0, len(members), each):
                chosen = members[first : first + each]
                begin = torch.tensor([starts[member] for member in chosen], device=order.device)
                rows = order[begin[:, None] + torch.arange(count, device=order.device)]
                for part in rows.split(at_once, dim=1):
                    yield chosen, part

    def _rows(self, members: Sequence[int]) -> Tensors:
        """Return the tensors of some members, float32 at least: views where they are neighbours."""
        first, count = members[0], len(members)
        neighbours = members[-1] - first == count - 1
        device = self._tensors()["project.weight"].device
        index = None if neighbours else torch.tensor(members).to(device, non_blocking=True)
        chosen = {}
        for name, tensor in self._tensors().items():
            part = tensor.narrow(0, first, count) if index is None else tensor.index_select(0, index)
            chosen[name] = part.to(torch.promote_types(part.dtype, torch.float32))
        return chosen

    def _find_members(self, labels: Tensor) -> Tensor:
        """Return the member that makes each row."""
        if self.classes == (EVERY,):
            known = (labels >= 0) & (labels < self.conditions) if self.conditions else torch.ones_like(labels).bool()
            members = torch.zeros_like(labels)
        else:
            classes, rows = torch.tensor(self.classes, device=labels.device).sort()
            position = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
            known, members = classes[position] == labels, rows[position]
        if not known.all():
            label = int(labels[~known][0])
            raise UsageError(f"no generator of this bank makes class {label}; it has {self._described()}")
        return members

    def _row(self, cls: int) -> int:
        if cls not in self.classes:
            raise UsageError(f"no generator of this bank makes class {cls}; it has {self._described()}")
        return self.classes.index(cls)

    def _described(self) -> str:
        if self.classes == (EVERY,):
            return f"one for the classes 0 to {self.conditions - 1}" if self.conditions else "one for every class"
        listed = ", ".join(map(str, self.classes[:10]))
        return f"the classes {listed}" + (f" and {len(self.classes) - 10} more" if len(self.classes) > 10 else "")

    def _layer(self, name: str) -> nn.Module:
        """Return the module that holds a tensor, made where there is none yet."""
        layer = name.split(".")[0]
        if layer not in self._modules:
            self.add_module(layer, nn.Module())
        return self.get_submodule(layer)

    def _tensors(self) -> Tensors:
        """Return parameters and running statistics by name, [K, ...] each."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}


def member_parameters(config: GeneratorConfig, channels: int, size: int, conditions: int = 0) -> int:
    """Return how many parameters one member has."""
    return sum(map(math.prod, Architecture(config, channels, size, conditions).shapes.values()))


def activation_bytes(config: GeneratorConfig, channels: int, size: int) -> int:
    """Estimate the bytes that one image keeps for the backward pass: float32, not compiled."""
    layers = Architecture(config, channels, size)
    side = layers.first_size
    numbers = layers.widths[0] * side**2  # centred
    for before, after in zip(layers.widths, layers.widths[1:], strict=False):
        # The maps themselves, their differences along columns, along rows and along both; then the result, centred.
        numbers += before * (side + (side + 1)) ** 2
        side *= 2
        numbers += after * side**2
    numbers += (layers.widths[-1] + 2 * channels) * side**2
    return 4 * numbers


def _is_scale(name: str) -> bool:
    return name.startswith("norm") and name.endswith(".weight")
