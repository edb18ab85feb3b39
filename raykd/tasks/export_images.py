"""Images that an export is compared and calibrated on: those of a run that can be had, and which they are.

Shapes: N images, C channels, S side of the images that the exported network takes, K classes.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.data.datasets import Images, count_images, train_spec
from raykd.data.ledger import OpenedData
from raykd.distributed.world import World
from raykd.engine.image_sources import ImageSource
from raykd.engine.loaders import sources
from raykd.engine.synthesis import find_generators, open_source
from raykd.engine.synthetic_sets import on_stored_sets
from raykd.errors import CorruptError, RunFailed, UsageError
from raykd.recipe.experiment import images_of_pool
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace

logger = logging.getLogger(__name__)

_SYNTHETIC, _RANDOM = 1024, 256  # images to compare on where there is no test split
_CALIBRATION = 512
_SEED = 0xE19  # of the draws here


class ShownImages(NamedTuple):
    """Pixels uint8 (N, C, S, S) as they are shown to an exported network, labels int64 (N,) or None, and their name."""

    pixels: Tensor
    labels: Tensor | None
    name: str


class RunImages:
    """What images of a run can be opened here."""

    def __init__(self, run: RunDirectory, spec: DataSpec, workspace: Workspace, world: World) -> None:
        """Open nothing yet."""
        self._run, self._spec, self._workspace, self._world = run, spec, workspace, world
        self._recipe = on_stored_sets(run.experiment(), workspace).recipe
        self._generators: tuple[RunDirectory, ImageSource] | None = None
        self._compared = 0  # of their first images
        self.opened = OpenedData(workspace.data)

    def to_compare(self) -> ShownImages:
        """Return the whole test split; where there is none, images of the run's generators, or else random ones.

        Raises:
            CorruptError: if the test split is damaged.
        """
        if self._recipe.data.test:
            name = self._recipe.data.name
            try:
                images = self.opened.open("test", name, "test", self._spec)
            except UsageError as error:
                logger.warning("the test split is not here, so others are compared on: %s", error)
            else:
                return ShownImages(self._cropped(images.pixels), images.labels, f"{Path(name).name}/test")
        try:
            shown = self._generated(_SYNTHETIC)
        except UsageError as error:
            logger.info("no images of the run's own, so random ones are compared on: %s", error)
        except (CorruptError, RunFailed) as error:  # the student is sound all the same
            logger.warning("the run's own images cannot be had, so random ones are compared on: %s", error)
        else:
            self._compared = len(shown.pixels)
            return shown
        generator = torch.Generator().manual_seed(_SEED)
        shape = (_RANDOM, self._spec.channels, self._spec.interior, self._spec.interior)
        return ShownImages(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), None, "random pixels")

    def to_calibrate(self) -> ShownImages:
        """Return images as the student has learned from: of its train split, of its generators, or of another domain.

        A data-free run stays so: no real image is opened for it. Synthetic ones are others than ``to_compare`` has
        returned; where a pool has too few for that, it is said.

        Raises:
            UsageError: if they are not here.
            CorruptError: if they are damaged.
            RunFailed: if the run's generators make images that are not finite.
        """
        datasets = sources(self._recipe)
        if "train" in datasets:
            return self._learned_from("train", datasets["train"])
        try:
            return self._generated(_CALIBRATION, self._compared)
        except UsageError:
            if "ood" not in datasets:
                raise
        return self._learned_from("ood", datasets["ood"])

    def _learned_from(self, role: str, source: str) -> ShownImages:
        root = self._workspace.data
        input_spec = train_spec(source, self._spec, root, labelled=role == "train")
        count = count_images(source, "train", root)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
        rows = order[:_CALIBRATION].sort().values
        images: Images = self.opened.open("train" if role == "train" else "ood", source, "train", input_spec, rows)
        shown = input_spec.normalise(images.pixels.float() / 255)
        return ShownImages(self._to_pixels(shown), None, f"{Path(source).name}/train")

    def _generated(self, count: int, compared: int = 0) -> ShownImages:
        """Return images of the run's generators or pool, at most so many, behind the first ones that are compared on.

        A pool that has not so many behind them gives its last ones.

        Raises:
            UsageError: if there are none, or they cannot be made here.
            CorruptError: if what makes them is damaged.
            RunFailed: if they are not finite.
        """
        origin, source = self._open_generators()
        stop = compared + count
        stop = min(stop, images_of_pool(origin.experiment().recipe) or stop)
        rows = range(max(0, stop - count), stop)
        name, shared = f"synthetic images of {origin.name}", max(0, compared - rows.start)
        if shared:
            logger.warning(
                "the pool of %s is small: %s images are calibrated and compared on", origin.name, f"{shared:,}"
            )
            name += f" ({shared:,} of them compared on too)"
        shape = (len(rows), self._spec.channels, self._spec.interior, self._spec.interior)
        pixels = torch.empty(shape, dtype=torch.uint8)
        for positions, images in source.images(rows):
            pixels[positions] = self._to_pixels(images.float().cpu())
        self.opened.inherit(origin.data_opened())
        return ShownImages(pixels, None, name)

    def _open_generators(self) -> tuple[RunDirectory, ImageSource]:
        """Return the run that makes images and its source of them, opened once."""
        if self._generators is None:
            origin = find_generators(self._run)
            workspace = Workspace(self._workspace.data, origin.path.resolve().parent)
            self._generators = origin, open_source(origin, workspace, self._world)[0]
        return self._generators

    def _to_pixels(self, shown: Tensor) -> Tensor:
        """Return what was shown to the student as pixels; what leaves the range of pixels is clipped."""
        levels = self._spec.denormalise(shown).nan_to_num().clamp(0, 1) * 255
        return self._cropped(levels.round().to(torch.uint8))

    def _cropped(self, pixels: Tensor) -> Tensor:
        """Return pixels without the black frame, which the exported network adds."""
        return F.pad(pixels, (-self._spec.pad,) * 4) if self._spec.pad else pixels
