"""A worker's generators of a wave, with their optimizer and their noise, saved and restored by class."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from raykd import generators
from raykd.distributed.memory import free_device_memory
from raykd.distributed.updater import Updater
from raykd.distributed.world import World, mix
from raykd.generators import GeneratorBank, choose_output
from raykd.generators.waves import member_capacity
from raykd.methods.base import MethodContext
from raykd.methods.inversion import InversionConfig
from raykd.models.moments import MomentTeacher, activation_bytes

LATENTS, REFRESH = 11, 12
"""Kinds of noise drawn from one seed: the latents of a step, and those that refresh running statistics."""
_MOMENTUM = 0.1
"""What one batch weighs in a bank's running statistics."""
_CHUNK = 32
"""Images that a bank computes at a time on a processor, where larger tensors only cost memory traffic."""
_SAMPLED = 256
"""Images that are sampled at a time to be looked at."""


class Members:
    """The stacked generators of some classes: they step together, share nothing, and no other worker has them."""

    def __init__(self, classes: Sequence[int], images: int, config: InversionConfig, context: MethodContext) -> None:
        """Build freshly initialised generators, one for each class, that make ``images`` images each in a step."""
        self._seed, self._images, self._world = context.seed, images, context.world
        device = context.world.device
        self.bank = build_bank(classes, config, context)
        self.generate = context.compiler(self.bank)
        alone = World.alone(device, context.world.precision)
        self.updater = Updater(self.bank.parameters(), config.generator_optim, alone, context.steps)
        self.labels = torch.tensor(classes, device=device).repeat_interleave(images)

    def latents(self, stream: int, index: int) -> Tensor:
        """Draw latents (members, images, latent) on the device, each member's by (seed, stream, class, index) alone."""
        source, shape = torch.Generator(), (self._images, self.bank.latent_dim)
        seeds = [mix(self._seed, stream, cls, index) for cls in self.bank.classes]
        z = torch.stack([torch.randn(shape, generator=source.manual_seed(seed)) for seed in seeds])
        # From pinned memory the copy does not wait for what the device is doing.
        device = self._world.device
        return (z.pin_memory() if device.type == "cuda" else z).to(device, non_blocking=True)

    def refresh_running_stats(self, passes: int) -> None:
        """Average the generators' running statistics anew: see the function of this name."""
        refresh_running_stats(self.bank, passes, lambda number: self.latents(REFRESH, number), self._world)

    def shard(self) -> dict[str, Tensor]:
        """Return each member's weights as ``00003/param/NAME`` and its optimizer's state as ``00003/STATE/NAME``."""
        parts = {
            f"{cls:05d}/param/{name}": tensor
            for cls in self.bank.classes
            for name, tensor in self.bank.member_state(cls).items()
        }
        state = self.updater.state_dict()["optimizer"]
        for index, (name, parameter) in enumerate(self._parameters()):
            for kind, value in state.get(index, {}).items():
                if value is None:  # momentum that was not asked for
                    continue
                for row, cls in enumerate(self.bank.classes):
                    own = value.shape == parameter.shape
                    parts[f"{cls:05d}/{kind}/{name}"] = value[row] if own else value  # a counter is everybody's
        return parts

    def load(self, parts: Mapping[str, Tensor], step: int) -> None:
        """Continue after ``step`` steps from the shards of all workers, whichever of them trained these members."""
        names = list(self.bank.member_state(self.bank.classes[0]))
        for cls in self.bank.classes:
            self.bank.load_member(cls, {name: parts[f"{cls:05d}/param/{name}"] for name in names})
        first = f"{self.bank.classes[0]:05d}/"
        kinds = sorted({key.split("/")[1] for key in parts if key.startswith(first)} - {"param"})
        state = {
            index: {kind: self._gathered(parts, kind, name, parameter) for kind in kinds}
            for index, (name, parameter) in enumerate(self._parameters())
        }
        self.updater.load_state_dict({"step": step, "optimizer": state})

    def _gathered(self, parts: Mapping[str, Tensor], kind: str, name: str, parameter: Tensor) -> Tensor:
        rows = [parts[f"{cls:05d}/{kind}/{name}"] for cls in self.bank.classes]
        # The optimizer keeps a counter as it is given, and several of these may be one tensor.
        return torch.stack(rows) if rows[0].shape == parameter.shape[1:] else rows[0].clone()

    def _parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Return the parameters in the order in which the optimizer counts them."""
        return [(name, p) for name, p in self.bank.named_parameters() if p.requires_grad]


def build_bank(
    classes: Sequence[int], config: InversionConfig, context: MethodContext, conditions: int = 0
) -> GeneratorBank:
    """Return freshly initialised generators on the device, in train mode."""
    spec, device = context.spec, context.world.device
    chunk = _CHUNK if device.type == "cpu" else None
    bank = GeneratorBank(
        classes,
        config.generator,
        channels=spec.channels,
        size=spec.size,
        conditions=conditions,
        chunk_images=chunk,
        output=choose_output(spec, config.output_range),
    )
    bank.initialise(context.seed)
    return bank.to(device).train()


def members_per_wave(config: InversionConfig, images: int, teacher: MomentTeacher, context: MethodContext) -> int:
    """Return how many members, of ``images`` images each, every worker has room to train at once."""
    spec, world, generator = context.spec, context.world, config.generator
    if context.runtime.wave is not None:
        return context.runtime.wave
    image = generators.activation_bytes(generator, spec.channels, spec.size)
    image += activation_bytes(teacher, (spec.channels, spec.size, spec.size))
    parameters = generators.member_parameters(generator, spec.channels, spec.size)
    # Workers of one host share its memory, and its devices where these are fewer.
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", str(world.size)))
    if world.device.type == "cuda":
        neighbours = -(-neighbours // torch.cuda.device_count())
    free = free_device_memory(world.device) // neighbours
    own = member_capacity(free, parameters, images, image, world.device.type)
    return int(world.gather(torch.tensor([own], device=world.device)).min())


def refresh_running_stats(bank: GeneratorBank, passes: int, draw: Callable[[int], Tensor], world: World) -> None:
    """Replace the running statistics by averages over ``passes`` batches of fresh noise, parameters as they are.

    Those of training trail behind: they are averages over few steps, of parameters that were still moving.
    """
    if not passes:
        return
    running = list(bank.buffers())
    sums = [torch.zeros_like(buffer) for buffer in running]
    with torch.no_grad(), world.autocast():
        for number in range(passes):
            for buffer in running:
                buffer.zero_()
            bank(draw(number))
            for total, buffer in zip(sums, running, strict=True):
                total.add_(buffer, alpha=1 / (_MOMENTUM * passes))
        for total, buffer in zip(sums, running, strict=True):
            buffer.copy_(total)


def sample_bank(bank: GeneratorBank, classes: Sequence[int], num_images: int, seed: int, world: World) -> Tensor:
    """Return images (num_images, C, H, W) of the classes in turn, by the running statistics."""
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(num_images, bank.latent_dim, generator=source)
    labels = torch.tensor([classes[row % len(classes)] for row in range(num_images)])
    return _sampled(bank, z, labels, world)


def sample_classes(
    bank: GeneratorBank, classes: Sequence[int], each: int, seed: int, world: World
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``each`` images of every class and their labels, some classes at a time, by the running statistics.

    A class's latents depend on (seed, class) alone, so its images do not depend on which worker has its generator.
    """
    source, at_once = torch.Generator(), max(1, _SAMPLED // each)
    for first in range(0, len(classes), at_once):
        group = classes[first : first + at_once]
        seeds = [mix(seed, cls) for cls in group]
        z = torch.cat([torch.randn(each, bank.latent_dim, generator=source.manual_seed(one)) for one in seeds])
        labels = torch.tensor(group).repeat_interleave(each)
        yield _sampled(bank, z, labels, world), labels.to(world.device)


def _sampled(bank: GeneratorBank, z: Tensor, labels: Tensor, world: World) -> Tensor:
    """Return the images (N, C, H, W) of a bank in training, by its running statistics, which stay as they are."""
    bank.eval()
    try:
        with torch.no_grad():
            images: Tensor = bank.mixed(z.to(world.device), labels.to(world.device))
    finally:
        bank.train()
    return images
