"""Where the images of a synthetic set come from, as a numbered row: a bank, or a method's own generator."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from raykd.artifacts.bank import BankFiles
from raykd.config.runtime import Runtime
from raykd.distributed.world import World, mix
from raykd.engine.build import build
from raykd.engine.selection import Selection
from raykd.engine.state import restore
from raykd.errors import RunFailed, UsageError
from raykd.files import MANIFEST, sha256_of
from raykd.generators import EVERY, GeneratorBank
from raykd.methods import METHODS
from raykd.recipe.recipe import Recipe, without_test
from raykd.store.checkpoint import latest_checkpoint
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

_SEED = 0x517E  # apart from all that training draws by the recipe's seed
_ORDER, _LATENT = 0, 1
_SAMPLE = 1024  # images that the pixel range is taken from
_SAMPLE_VALUES = 4096  # of each of them and each channel at most
_GROUP_BYTES = 512 * 2**20  # of members held at a time
_MOST_IMAGES = 512  # generated or judged at a time
_BATCH_PIXELS = 2**20  # of them together, so that large images come in smaller batches
_BLOCK = 256  # images that a method's generator normalises together


class Rows(Protocol):
    """Images by number."""

    labelled: bool
    """Whether a class is asked for."""

    @property
    def batch(self) -> int:
        """Return how many images to make or judge at a time."""

    def asked(self, rows: range) -> Tensor:
        """Return the classes asked of the generators for the rows, int64 (N,), where there are such."""

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows in pieces: (places among the rows (B,), normalised images (B, C, H, W)).

        Raises:
            RunFailed: if an image is not finite.
        """


def makes_images(recipe: Recipe) -> bool:
    """Tell whether runs of the recipe train a generator beside their student, and no bank."""
    method = METHODS[recipe.method.name]
    return "student" in method.roles and "bank" not in method.roles and bool(method.makes_images)


class BankRows:
    """A bank as a numbered row of images, of which one group of members is held at a time.

    Row i's class and latent depend on the bank run's seed and on i alone; each of K classes comes once in every K rows.
    """

    def __init__(self, bank: BankFiles, seed: int, device: torch.device) -> None:
        """Take the seed of the bank's run."""
        about = bank.about
        self._bank = bank
        self._seed = mix(seed, _SEED)
        self._device = device
        self._values = int(about["size"]) ** 2
        self.single = bank.classes == (EVERY,)
        self.labelled = not self.single or about["conditions"] > 0
        self._classes = torch.tensor(range(bank.num_classes) if self.single else bank.classes)
        count = max(1, _GROUP_BYTES * len(bank.classes) // (4 * bank.numbers))
        self._groups = [bank.classes[i : i + count] for i in range(0, len(bank.classes), count)]
        self._held: tuple[tuple[int, ...], GeneratorBank] | None = None

    @property
    def batch(self) -> int:
        """Return how many images to make or judge at a time."""
        return max(8, min(_MOST_IMAGES, _BATCH_PIXELS // self._values))

    def asked(self, rows: range) -> Tensor:
        """Return the classes asked of the generators for the rows, int64 (N,)."""
        every = len(self._classes)
        rounds = range(rows.start // every, (rows.stop - 1) // every + 1)
        generator = torch.Generator()
        order = [
            torch.randperm(every, generator=generator.manual_seed(mix(self._seed, _ORDER, round_))) for round_ in rounds
        ]
        first = rows.start - rounds.start * every
        return self._classes[torch.cat(order)[first : first + len(rows)]]

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows in pieces: (places among the rows (B,), normalised images (B, C, H, W)).

        Raises:
            RunFailed: if an image is not finite.
        """
        asked = self.asked(rows)
        for group in self._groups:
            # By class, so that a batch takes few members.
            places = asked.argsort(stable=True)
            if not self.single:
                places = places[torch.isin(asked[places], torch.tensor(group))]
            for some in places.split(self.batch):
                if not len(some):
                    continue
                latents = self._latents([rows[place] for place in some.tolist()])
                with torch.no_grad():
                    images = self._members(group).mixed(latents, asked[some].to(self._device))
                if not images.isfinite().all():
                    raise RunFailed(f"the bank in {self._bank.folder.parent.name} makes images that are not finite")
                yield some, images

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


class MethodRows:
    """A generator that a finished run trained beside its student, as a numbered row of images.

    It normalises over blocks of as many images: row i depends on the run's seed and on i alone.
    """

    labelled = False

    def __init__(self, run: RunDirectory, world: World, workspace: Workspace) -> None:
        """Restore the run's last checkpoint.

        Raises:
            UsageError: if the run is not finished or has no checkpoint any more.
        """
        checkpoint, experiment = latest_checkpoint(run.checkpoints), run.experiment()
        if not run.is_finished or checkpoint is None:
            state = "is not finished" if checkpoint else "has no checkpoint, in which its generator was"
            raise UsageError(f"run {run.name} {state}: train it, in another store if it has finished here")
        without = experiment.with_recipe(without_test(experiment.recipe))
        built = build(without, world, Runtime(), workspace)
        assert built.teacher is not None and built.teacher_sha256 is not None, "its method has one"
        told = run.environment().get("teacher_sha256")
        if told != built.teacher_sha256:
            raise UsageError(
                f"the teacher's weights are not those that run {run.name} was trained against (sha256 {told} then, "
                f"{built.teacher_sha256} now): put them back, or train it again"
            )
        restore(checkpoint, built.method, Selection(built.method, built.teacher))
        self.teacher, self.teacher_sha256 = built.teacher, built.teacher_sha256
        self.sha256 = sha256_of(checkpoint / MANIFEST)
        self._method, self._seed, self._name = built.method, mix(experiment.recipe.seed, _SEED), run.name

    @property
    def batch(self) -> int:
        """Return how many images to make or judge at a time."""
        return _BLOCK

    def asked(self, rows: range) -> Tensor:
        """Return nothing: no class is asked for."""
        return torch.empty(0, dtype=torch.int64)

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows, block by block; see ``Rows``."""
        for number in range(rows.start // _BLOCK, -(-rows.stop // _BLOCK)):
            first = number * _BLOCK
            inside = range(max(rows.start, first), min(rows.stop, first + _BLOCK))
            images = self._method.sample(_BLOCK, mix(self._seed, number))
            images = images[inside.start - first : inside.stop - first]
            if not images.isfinite().all():
                raise RunFailed(f"the generator of {self._name} makes images that are not finite")
            yield torch.arange(inside.start, inside.stop) - rows.start, images


def sample(source: Rows) -> Tensor:
    """Return values of a source's first images, (C, M)."""
    pieces = []
    for _, images in source.images(range(_SAMPLE)):
        stride = -(-images[0, 0].numel() // _SAMPLE_VALUES)
        pieces.append(images.flatten(2)[..., ::stride].cpu())
    return torch.cat(pieces).transpose(0, 1).flatten(1)
