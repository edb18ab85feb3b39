"""Distillation from a frozen bank of generators: the student's half of LS-GDFD (Luo et al. 2020, arXiv 2012.05578).

    c_i = every class in turn      z_i ~ N(0, I)      x_i = G_{c_i}(z_i)      S <- T^2 KL(T(x) / T || S(x) / T)

Symbols: T = temperature, 1 in the paper. The generators are in evaluation mode: they normalise by their running
statistics, so an image depends on its own latent and on nothing else in the batch.

The classes of a step follow an endless sequence of shuffled lists of all classes, so the contiguous rows of every
worker are a near-uniform mixture over all of them: the student's BatchNorm would otherwise learn statistics that no
mixture has (``benchmarks/class_skew.py`` shows what that costs). The images come in one of two ways, with one result:

* copy: every worker holds the whole bank (or its one generator for all classes) and makes its own rows;
* exchange: every worker holds some members, makes all rows of the global batch that are of its classes, and sends
  each to the worker that is to learn from it. Under bfloat16 the images travel as bfloat16, to which the networks'
  first layers would round them anyway.

Which it is follows from what the workers were given.

``jitter`` = j shows student and teacher (1 + u) x + v instead of x, with u ~ U(-j, j) and v ~ N(0, j^2) for every
channel of every image. It is not in the paper. Every generator normalises its own images, so a member's brightness and
contrast hardly vary and differ from its neighbour's: a student can tell the classes by that, and then fails on real
images.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from raykd import losses
from raykd.config.base import Config
from raykd.distributed.exchange import plan_exchange
from raykd.distributed.world import mix
from raykd.errors import UsageError
from raykd.generators import EVERY, GeneratorBank
from raykd.methods.base import Method, MethodContext, Metrics
from raykd.models.compute import count_macs
from raykd.spec import Batch

_ORDER, _JITTER = 1, 2  # keep these draws apart from those of the latents, which are mixed of two numbers


class BankKdConfig(Config):
    """See the module's text."""

    name: Literal["bank_kd"]
    temperature: float = Field(default=1.0, gt=0, description="T: softens both networks' answers")
    jitter: float = Field(default=0.0, ge=0, le=1, description="of brightness and contrast, in standard deviations")


class BankKd(Method):
    """The student imitates the teacher on what the generators of all classes make."""

    config = BankKdConfig
    roles = ("student", "teacher", "bank")
    makes_images = True

    def __init__(self, config: BankKdConfig, context: MethodContext) -> None:
        """Compile student and teacher, and learn which worker makes which class; every worker must call it.

        Raises:
            UsageError: if no worker has a generator for some class.
        """
        super().__init__(config, context)
        self._config = config
        self._bank = cast(GeneratorBank, context.networks["bank"]).eval()
        self._student = context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])
        self._labelled = EVERY not in self._bank.classes or self._bank.conditions > 0
        self._owners = self._find_owners()
        latent = torch.zeros(1, self._bank.latent_dim, device=self.world.device)
        label = torch.tensor([max(0, self._bank.classes[0])])
        self._image_macs = count_macs(self._bank.mixed, latent, label)

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Make this worker's rows of the mixture, ask the teacher, teach the student."""
        index = self.begin_step()
        context, world = self.context, self.world
        z = world.randn_whole(context.global_batch, self._bank.latent_dim, seed=context.seed, step=index)
        labels = self.labels(index)
        batch = world.share(context.global_batch)
        parts = [slice(rank * batch, (rank + 1) * batch) for rank in range(world.size)]
        with world.autocast():
            with torch.no_grad():
                images = self._images(z, labels, parts, torch.bfloat16 if world.precision == "bf16" else torch.float32)
                context.compute.macs += self._image_macs * batch
                images = self._jittered(images, index, parts[world.rank])
                context.clock.charge("synthesis")
                teacher_logits, _ = self._teacher(images)
            student_logits = self._student(images)
        kd = losses.kd_divergence(student_logits.float(), teacher_logits.float(), self._config.temperature)
        self.updaters["student"].minimise(kd)
        metrics = {"loss/kd": kd}
        if self._labelled:
            hits = teacher_logits.argmax(1) == labels[parts[world.rank]].to(world.device, non_blocking=True)
            metrics["teacher/hit"] = 100 * hits.float().mean()
        return metrics

    def labels(self, step: int) -> Tensor:
        """Return the classes of the step's global batch, int64 (global batch,), on the CPU: alike on every worker.

        They are cut from shuffled lists of all classes, one after the other, so that every class comes once before
        any comes again, and (seed, step) alone decides them.
        """
        classes, batch = self.context.spec.num_classes, self.context.global_batch
        first = step * batch
        lists = range(first // classes, (first + batch - 1) // classes + 1)
        seeds = [mix(self.context.seed, _ORDER, number) for number in lists]
        orders = [torch.randperm(classes, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.cat(orders)[first % classes :][:batch]

    def sample(self, num_images: int, seed: int) -> Tensor:
        """Return a held-out mixture, image i of class i modulo their number, the same on every worker.

        Every worker must call it with the same arguments, since each may hold generators that the others lack.
        """
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(num_images, self._bank.latent_dim, generator=generator).to(self.world.device)
        labels = torch.arange(num_images) % self.context.spec.num_classes
        with torch.no_grad():
            return self._images(z, labels, [slice(0, num_images)] * self.world.size, torch.float32)

    def _jittered(self, images: Tensor, step: int, rows: slice) -> Tensor:
        """Change brightness and contrast; the draws of the global batch are cut, like its latents."""
        strength = self._config.jitter
        if not strength:
            return images
        generator = torch.Generator().manual_seed(mix(self.context.seed, _JITTER, step))
        shape = (self.context.global_batch, images.shape[1], 1, 1)
        contrast = (1 - strength + 2 * strength * torch.rand(shape, generator=generator))[rows]
        brightness = (strength * torch.randn(shape, generator=generator))[rows]
        gain, shift = (draws.to(images.device, non_blocking=True) for draws in (contrast, brightness))
        return images * gain + shift

    def _find_owners(self) -> Tensor | None:
        """Return the worker that makes each class, int64 (K,), or None where every worker can make all."""
        classes, world = self.context.spec.num_classes, self.world
        held = torch.zeros(classes, dtype=torch.int64, device=world.device)
        held[slice(None) if EVERY in self._bank.classes else list(self._bank.classes)] = 1
        table = world.gather(held).cpu()
        missing = (table.sum(0) == 0).nonzero().flatten().tolist()
        if missing:
            raise UsageError(
                f"the bank has no generator for {len(missing)} of the {classes} classes, the first of them "
                f"{missing[0]}; distil from the bank of a finished run on the same classes"
            )
        return None if table.all() else table.argmax(0)

    def _images(self, z: Tensor, labels: Tensor, parts: Sequence[slice], dtype: torch.dtype) -> Tensor:
        """Return the images of this worker's part of ``z`` (N, Z) and ``labels`` (N,), float32 (n, C, H, W).

        Args:
            z: all rows, the same on every worker.
            labels: their classes, on the CPU.
            parts: the rows that each worker is to have.
            dtype: in which images are sent from worker to worker.
        """
        rank, device = self.world.rank, self.world.device
        if self._owners is None:
            return self._bank.mixed(z[parts[rank]], labels[parts[rank]])
        exchange = plan_exchange(self._owners[labels], parts, self.world)
        rows = exchange.own
        images = self._bank.mixed(z[rows.to(device, non_blocking=True)], labels[rows]).to(dtype)
        return exchange.perform(images[exchange.positions.to(device, non_blocking=True)], self.world).float()
