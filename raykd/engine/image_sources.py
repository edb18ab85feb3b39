"""Where the images of a synthetic set come from, numbered from 0: a bank, or a method's own generator."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from raykd.artifacts.bank import BankFiles
from raykd.artifacts.pool_files import open_pool
from raykd.artifacts.synthetic_set import PixelRange
from raykd.config.runtime import Runtime
from raykd.distributed.world import World, mix
from raykd.engine.build import build
from raykd.engine.selection import Selection
from raykd.engine.state import restore
from raykd.errors import CorruptError, RunFailed, UsageError
from raykd.files import MANIFEST, sha256_of
from raykd.generators import EVERY, GeneratorBank
from raykd.methods import METHODS
from raykd.recipe.recipe import Recipe, without_test
from raykd.spec import DataSpec
from raykd.store.checkpoint import latest_checkpoint, step_of
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

_SEED = 0x517E  # apart from all that training draws by the recipe's seed
_ORDER, _LATENT = 0, 1
_SAMPLE = 1024  # images that the pixel range is taken from
_SAMPLE_VALUES = 4096  # of each of them and each channel at most
_GROUP_BYTES = 512 * 2**20  # of members held at a time
_MOST_IMAGES = 512  # generated, or passed to the teacher, at a time
_BATCH_PIXELS = 2**20  # of them together, so that large images come in smaller batches
_BLOCK = 256  # images that a method's generator normalises together


class ImageSource(Protocol):
    """Synthetic images by number."""

    labelled: bool
    """Whether each image has a target class."""

    @property
    def batch(self) -> int:
        """Return how many images to generate, or to pass to the teacher, at a time."""

    def targets(self, rows: range) -> Tensor:
        """Return the target class of each row, int64 (N,); empty where there is none."""

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows in pieces: (positions within ``rows`` (B,), normalised images (B, C, H, W)).

        Raises:
            RunFailed: if an image is not finite.
        """

    def pixel_range(self) -> PixelRange:
        """Return the range of normalised values that all images are to be stored in."""


def makes_images(recipe: Recipe) -> bool:
    """Tell whether runs of the recipe train a generator beside their student, and no bank."""
    method = METHODS[recipe.method.name]
    return "student" in method.roles and "bank" not in method.roles and bool(method.makes_images)


class BankSource:
    """Images of a bank by number; one group of its members is in memory at a time.

    Row i's class and latent depend on the bank run's seed and on i alone; each of K classes comes once in every K rows.
    """

    def __init__(self, bank: BankFiles, seed: int, device: torch.device) -> None:
        """Take the seed of the bank's run."""
        manifest = bank.manifest
        self._bank = bank
        self._seed = mix(seed, _SEED)
        self._device = device
        self._values = int(manifest["size"]) ** 2
        self.single = bank.classes == (EVERY,)
        self.labelled = not self.single or manifest["conditions"] > 0
        self._classes = torch.tensor(range(bank.num_classes) if self.single else bank.classes)
        count = max(1, _GROUP_BYTES * len(bank.classes) // (4 * bank.numbers))
        self._groups = [bank.classes[i : i + count] for i in range(0, len(bank.classes), count)]
        self._held: tuple[tuple[int, ...], GeneratorBank] | None = None

    @property
    def batch(self) -> int:
        """Return how many images to generate, or to pass to the teacher, at a time."""
        return max(8, min(_MOST_IMAGES, _BATCH_PIXELS // self._values))

    def targets(self, rows: range) -> Tensor:
        """Return the target class of each row, int64 (N,)."""
        period = len(self._classes)
        rounds = range(rows.start // period, (rows.stop - 1) // period + 1)
        generator = torch.Generator()
        order = [
            torch.randperm(period, generator=generator.manual_seed(mix(self._seed, _ORDER, round_)))
            for round_ in rounds
        ]
        first = rows.start - rounds.start * period
        return self._classes[torch.cat(order)[first : first + len(rows)]]

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows in pieces: (positions within ``rows`` (B,), normalised images (B, C, H, W)).

        Raises:
            RunFailed: if an image is not finite.
        """
        targets = self.targets(rows)
        for group in self._groups:
            # By class, so that a batch takes few members.
            order = targets.argsort(stable=True)
            if not self.single:
                order = order[torch.isin(targets[order], torch.tensor(group))]
            for positions in order.split(self.batch):
                if not len(positions):
                    continue
                latents = self._latents([rows[position] for position in positions.tolist()])
                with torch.no_grad():
                    images = self._members(group).mixed(latents, targets[positions].to(self._device))
                if not images.isfinite().all():
                    raise RunFailed(f"the bank in {self._bank.folder.parent.name} makes images that are not finite")
                yield positions, images

    def pixel_range(self) -> PixelRange:
        """Return the range of a sample of the images."""
        return _sampled_range(self)

    def _latents(self, rows: list[int]) -> Tensor:
        # On the CPU, whose generator gives the same numbers on every machine.
        generator = torch.Generator()
        size = self._bank.config.latent_dim
        seeds = (mix(self._seed, _LATENT, row) for row in rows)
        latents = torch.stack([torch.randn(size, generator=generator.manual_seed(seed)) for seed in seeds])
        return latents.to(self._device)

    def _members(self, group: tuple[int, ...]) -> GeneratorBank:
        if self._held is None or self._held[0] != group:
            self._held = None  # before the next ones come
            self._held = group, self._bank.load(group).to(self._device)
        return self._held[1]


class MethodSource:
    """A generator that a finished run trained beside its student, as a numbered row of images.

    It normalises over blocks of as many images: row i depends on the run's seed and on i alone.
    """

    labelled = False

    def __init__(self, run: RunDirectory, world: World, workspace: Workspace) -> None:
        """Restore the run's last checkpoint.

        Raises:
            UsageError: if the run is not finished or has no checkpoint any more, or its teacher is gone or another one.
            CorruptError: if that one is damaged: the one before it holds another generator.
        """
        checkpoint, experiment = latest_checkpoint(run.checkpoints), run.experiment()
        steps = experiment.recipe.schedule.steps
        if checkpoint is None or step_of(checkpoint) != steps:
            if run.is_finished and checkpoint is not None:
                raise CorruptError(
                    f"the checkpoint of step {steps} in {run.checkpoints}, in which its generator was, is damaged or "
                    "gone; restore it from a backup, or remove the run's status.json and train it again"
                )
            state = "is not finished" if checkpoint else "has no checkpoint, in which its generator was"
            raise UsageError(f"run {run.name} {state}: train it, in another store if it has finished here")
        untested = experiment.with_recipe(without_test(experiment.recipe))
        built = build(untested, world, Runtime(), workspace, trained_against=run.environment().get("teacher_sha256"))
        assert built.teacher is not None and built.teacher_sha256 is not None, "its method has one"
        restore(checkpoint, built.method, Selection(built.method, built.teacher))
        self.teacher, self.teacher_sha256 = built.teacher, built.teacher_sha256
        self.sha256 = sha256_of(checkpoint / MANIFEST)
        self._method, self._seed, self._name = built.method, mix(experiment.recipe.seed, _SEED), run.name

    @property
    def batch(self) -> int:
        """Return how many images to generate, or to pass to the teacher, at a time."""
        return _BLOCK

    def targets(self, rows: range) -> Tensor:
        """Return an empty tensor: the generator is given no class."""
        return torch.empty(0, dtype=torch.int64)

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows, block by block; see ``ImageSource.images``."""
        for number in range(rows.start // _BLOCK, -(-rows.stop // _BLOCK)):
            first = number * _BLOCK
            inside = range(max(rows.start, first), min(rows.stop, first + _BLOCK))
            images = self._method.sample(_BLOCK, mix(self._seed, number))
            images = images[inside.start - first : inside.stop - first]
            if not images.isfinite().all():
                raise RunFailed(f"the generator of {self._name} makes images that are not finite")
            yield torch.arange(inside.start, inside.stop) - rows.start, images

    def pixel_range(self) -> PixelRange:
        """Return the range of a sample of the images."""
        return _sampled_range(self)


class PoolSource:
    """The images of a finished run's pool, in the order of their numbers."""

    labelled = True

    def __init__(self, run: RunDirectory, spec: DataSpec) -> None:
        """Read the pool of a run whose images are of ``spec``.

        Raises:
            UsageError: if the run is not finished, or its images are not of ``spec``.
            CorruptError: if its pool is damaged.
        """
        saved = open_pool(run, spec.num_classes)
        self.teacher_sha256, self.sha256 = saved.manifest.get("teacher_sha256"), sha256_of(run.pool / MANIFEST)
        self._spec, self._name = spec, run.name
        shape = (spec.channels, spec.size, spec.size)
        count = sum(map(len, saved.numbers()))
        self._pixels, self._labels = torch.empty(count, *shape, dtype=torch.uint8), torch.full((count,), -1)
        for part in saved.parts(view_logits=False):  # one by one: the whole may fill most of the memory
            if part.pixels.shape[1:] != shape:
                raise UsageError(
                    f"the pool of {run.name} has images of other shapes than data {spec.name!r} has now "
                    f"({'x'.join(map(str, part.pixels.shape[1:]))} and {'x'.join(map(str, shape))}); bring the data "
                    "set back, or train that run again"
                )
            numbers = part.numbers[part.numbers < count]
            if len(numbers) == len(part.numbers):
                self._pixels[numbers], self._labels[numbers] = part.pixels, part.labels
        if count and int(self._labels.min()) < 0:
            raise CorruptError(
                f"the numbers of the images in {run.pool} are not those from 0 to {count - 1}, each once; restore that "
                "folder from a backup, or move the run's folder away and train it again"
            )

    @property
    def batch(self) -> int:
        """Return how many images to pass to the teacher at a time."""
        return max(8, min(_MOST_IMAGES, _BATCH_PIXELS // self._spec.size**2))

    def targets(self, rows: range) -> Tensor:
        """Return the class that each image was made to show, int64 (N,)."""
        return self._labels[rows.start : rows.stop]

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows in pieces; see ``ImageSource.images``."""
        for positions in torch.arange(len(rows)).split(self.batch):
            yield positions, self._spec.normalise(self._pixels[rows.start + positions].float() / 255)

    def pixel_range(self) -> PixelRange:
        """Return that of pixels from 0 to 1, in which they are stored already."""
        zero, one = (self._spec.normalise(torch.full((self._spec.channels, 1, 1), level)) for level in (0.0, 1.0))
        return PixelRange(tuple(zero.flatten().tolist()), tuple(one.flatten().tolist()))


def _sampled_range(source: ImageSource) -> PixelRange:
    """Return the range of a source's first images."""
    pieces = []
    for _, images in source.images(range(_SAMPLE)):
        stride = -(-images[0, 0].numel() // _SAMPLE_VALUES)
        pieces.append(images.flatten(2)[..., ::stride].cpu())
    return PixelRange.of(torch.cat(pieces).transpose(0, 1).flatten(1))
