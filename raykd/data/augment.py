"""Augmentations on the device, in batches: of a stream's images, and of what a method makes.

Each draws for the whole global batch and applies this worker's rows, so any number of workers
together see the batch that one worker would. Images come and go as float (B, C, H, W) in [0, 1];
what moves in from outside is black. Gradients flow through all of them.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from raykd.distributed.world import World, mix
from raykd.errors import unknown
from raykd.spec import DataSpec

_GENERATED = 2  # keeps these draws apart from others of the same seed and step

PAD = 4
"""Pixels by which a crop moves an image at most."""
_DEGREES = 15.0

# Of ``strong``: the share of the area that a crop keeps, its aspect, the angle, and how far intensities move.
_AREA = (0.05, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_STRONG_DEGREES = 30.0
_JITTER = 0.4
_INVERTED = 0.2  # of the images

_SMALLEST = 0.08  # of ``resized_crop``: the least share of the area that a crop keeps

Augmentation = Callable[[Tensor, Generator, int, slice], Tensor]
"""(images, generator, global batch, rows of this worker) -> images."""


def crop(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Pad by 4 pixels and cut out the former size at a random place."""
    return cut_out(images, torch.randint(0, 2 * PAD + 1, (global_batch, 2), generator=generator)[rows])


def cut_out(images: Tensor, corners: Tensor) -> Tensor:
    """Pad images (B, C, H, W) by ``PAD`` pixels and cut the former size out of each, at its corner of int64 (B, 2)."""
    batch, _, height, width = images.shape
    top, left = corners.to(images.device, non_blocking=True).unbind(1)
    padded = F.pad(images, (PAD, PAD, PAD, PAD))
    y = top[:, None] + torch.arange(height, device=images.device)
    x = left[:, None] + torch.arange(width, device=images.device)
    b = torch.arange(batch, device=images.device)
    cut = padded.permute(0, 2, 3, 1)[b[:, None, None], y[:, :, None], x[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def flip(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Mirror every other image, by chance, left to right."""
    return mirrored(images, torch.rand(global_batch, generator=generator)[rows] < 0.5)


def mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Mirror those of images (B, C, H, W) left to right for which bool (B,) says so."""
    return torch.where(which.to(images.device, non_blocking=True).view(-1, 1, 1, 1), images.flip(-1), images)


def rotate(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Turn by a random angle of up to 15 degrees about the centre."""
    turns = (2 * torch.rand(global_batch, generator=generator)[rows] - 1) * math.radians(_DEGREES)
    cos, sin, zero = turns.cos(), turns.sin(), torch.zeros_like(turns)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    matrices = matrices.to(images.device, non_blocking=True)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def strong(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Make many images of few: a crop of any size, turned by up to 30 degrees, mirrored both ways, intensities changed.

    After Asano and Saeed 2023 (arXiv 2112.00725), who distil from a single image: random resized crops of 5 to 100 % of
    the area at aspects of 3:4 to 4:3, brightness and contrast by up to 40 %, and one image in five inverted.
    """
    area, aspect, angle, y, x, contrast, brightness = torch.rand(7, global_batch, generator=generator)[:, rows]
    vertical, horizontal, inverted = torch.rand(3, global_batch, generator=generator)[:, rows]
    area = _AREA[0] + (_AREA[1] - _AREA[0]) * area
    segment = torch.exp(math.log(_ASPECT[0]) + math.log(_ASPECT[1] / _ASPECT[0]) * aspect).sqrt()
    height, width = (area.sqrt() / segment).clamp(max=1), (area.sqrt() * segment).clamp(max=1)
    top, left = (1 - height) * (2 * y - 1), (1 - width) * (2 * x - 1)  # centre of the crop in [-1, 1]
    height, width = height * (1 - 2 * (vertical < 0.5).float()), width * (1 - 2 * (horizontal < 0.5).float())
    turn = (2 * angle - 1) * math.radians(_STRONG_DEGREES)
    cos, sin = turn.cos(), turn.sin()
    matrices = torch.stack([width * cos, -height * sin, left, width * sin, height * cos, top], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices.to(images.device, non_blocking=True), list(images.shape), align_corners=False)
    # What a turned crop takes from outside is mirrored in: a black corner would tell the angle.
    cut = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain, shift, sign = (
        values.to(images.device, non_blocking=True).view(-1, 1, 1, 1)
        for values in (
            1 + _JITTER * (2 * contrast - 1),
            _JITTER * (brightness - 0.5),
            1 - 2 * (inverted < _INVERTED).float(),
        )
    )
    mean = cut.mean(dim=(1, 2, 3), keepdim=True)
    changed = ((cut - mean) * gain + mean + shift).clamp(0, 1)
    signed: Tensor = (changed - 0.5) * sign + 0.5
    return signed


def resized_crop(images: Tensor, generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Enlarge a random part to the whole, 8 to 100 % of the area at aspects of 3:4 to 4:3: ImageNet's augmentation."""
    return crop_resized(images, torch.rand(4, global_batch, generator=generator)[:, rows], _SMALLEST)


def crop_resized(images: Tensor, draws: Tensor, smallest: float) -> Tensor:
    """Enlarge a part of each image to the former size, bilinearly; gradients flow.

    A part keeps ``smallest`` to 1 of the area, each share equally likely, and an aspect of 3:4 to 4:3, uniform in its
    logarithm, as far as such a part fits: one of the whole area is the whole image.

    Args:
        images: (B, C, H, W), of any range.
        draws: uniform in [0, 1) for area, aspect, top and left, (4, B), or (4, 1) for one part of all images.
        smallest: above 0, at most 1.
    """
    area, aspect, top, left = draws
    area = smallest + (1 - smallest) * area
    # Width and height are at most 1 where the aspect is between the area and its inverse.
    widest = torch.minimum(-area.log(), torch.tensor(math.log(_ASPECT[1])))
    aspect = ((2 * aspect - 1) * math.log(_ASPECT[1])).clamp(-widest, widest).exp()
    height, width = (area / aspect).sqrt(), (area * aspect).sqrt()
    y, x, zero = (1 - height) * (2 * top - 1), (1 - width) * (2 * left - 1), torch.zeros_like(area)
    matrices = torch.stack([width, zero, x, zero, height, y], dim=1).view(-1, 2, 3)
    matrices = matrices.to(images.device, images.dtype, non_blocking=True)
    grid = F.affine_grid(matrices, [len(matrices), *images.shape[1:]], align_corners=False)
    grid = grid.expand(len(images), -1, -1, -1)
    # At the edges of the image nothing moves in from outside.
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": crop,
    "flip": flip,
    "rotate": rotate,
    "strong": strong,
    "resized_crop": resized_crop,
}


def check_augmentations(names: Sequence[str]) -> None:
    """Refuse names that are not in the table.

    Raises:
        UsageError: naming the nearest.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)


def augment_share(images: Tensor, names: Sequence[str], generator: Generator, global_batch: int, rows: slice) -> Tensor:
    """Apply augmentations in their order to this worker's ``rows`` of a global batch, (B, C, H, W) in [0, 1]."""
    for name in names:
        images = AUGMENTATIONS[name](images, generator, global_batch, rows)
    return images


def augment_normalised(
    images: Tensor, names: Sequence[str], spec: DataSpec, world: World, *, seed: int, step: int
) -> Tensor:
    """Augment this worker's share (B, C, H, W) of a global batch in network-input space, by (seed, step) alone.

    This is for a method that augments what it has made. As with ``World.randn``, every worker draws for the whole
    global batch and applies its rows. A method that augments several times a step counts ``step`` in draws.

    Raises:
        UsageError: for an unknown name, naming the nearest.
    """
    check_augmentations(names)
    batch = len(images)
    rows = slice(world.rank * batch, (world.rank + 1) * batch)
    generator = Generator().manual_seed(mix(seed, _GENERATED, step))
    return spec.normalise(augment_share(spec.denormalise(images), names, generator, batch * world.size, rows))
