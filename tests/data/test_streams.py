import math

import pytest
import torch
from torch import Tensor

from raykd.data.augment import AUGMENTATIONS
from raykd.data.datasets import Images
from raykd.data.streams import TrainStream, evaluation_batches
from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.spec import Batch, DataSpec

SPEC = DataSpec("made", 3, 3, 8, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
EVERY = ("crop", "flip", "rotate", "strong")


def made(count: int = 10) -> Images:
    """Random images whose label is their row."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count))


def workers(size: int) -> list[World]:
    return [World(rank, size, torch.device("cpu")) for rank in range(size)]


def stream(
    images: Images,
    batch: int,
    seed: int = 0,
    augment: tuple[str, ...] = (),
    world: World | None = None,
) -> TrainStream:
    return TrainStream(images, SPEC, world or World.alone(), batch, seed, augment)


def seen(some: TrainStream, steps: int) -> list[int]:
    return [label for step in range(steps) for label in some.batch(step).labels.tolist()]


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 25])
def test_every_image_comes_once_per_epoch_without_short_batches(batch: int) -> None:
    labels = seen(stream(made(10), batch), 30)
    assert len(labels) == 30 * batch
    epochs = [labels[start : start + 10] for start in range(0, len(labels) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert any(one != other for one, other in zip(epochs, epochs[1:], strict=False))


def test_batches_are_the_images_normalised() -> None:
    images = made()
    batch = stream(images, 4).batch(1)
    torch.testing.assert_close(batch.images, SPEC.normalise(images.pixels[batch.labels].float() / 255))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    images = made()
    forward = stream(images, 4, augment=EVERY)
    in_order = [forward.batch(step) for step in range(8)]
    backward = stream(images, 4, augment=EVERY)
    for step in (7, 0, 3, 3, 5):
        assert same(backward.batch(step), in_order[step])
    other_seed = stream(images, 4, seed=1, augment=EVERY)
    assert not same(other_seed.batch(0), in_order[0])


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("size", [2, 3])
def test_workers_together_see_the_batch_of_one(size: int) -> None:
    images = made()
    alone = stream(images, 6, augment=EVERY)
    together = [stream(images, 6, augment=EVERY, world=world) for world in workers(size)]
    for step in range(5):
        shares = [some.batch(step) for some in together]
        joined = Batch(torch.cat([s.images for s in shares]), torch.cat([s.labels for s in shares]))
        whole = alone.batch(step)
        assert torch.equal(joined.labels, whole.labels)
        torch.testing.assert_close(joined.images, whole.images)


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = made(100)
    batch = stream(images, 100, augment=("flip",)).batch(0)
    plain = SPEC.normalise(images.pixels[batch.labels].float() / 255)
    flipped = sum(torch.allclose(got, want.flip(-1)) for got, want in zip(batch.images, plain, strict=True))
    kept = sum(torch.allclose(got, want) for got, want in zip(batch.images, plain, strict=True))
    assert flipped + kept == 100
    assert 30 < flipped < 70


def test_crop_is_a_window_of_the_padded_image() -> None:
    images = made(40)
    batch = stream(images, 40, augment=("crop",)).batch(0)
    padded = torch.nn.functional.pad(images.pixels[batch.labels].float() / 255, (4, 4, 4, 4))
    windows = SPEC.normalise(padded).unfold(2, 8, 1).unfold(3, 8, 1)  # 40, 3, 9, 9, 8, 8
    places = [place_of(got, some) for got, some in zip(batch.images, windows, strict=True)]
    assert all(len(place) == 1 for place in places)
    assert {place[0] // 9 for place in places} == set(range(9))
    assert {place[0] % 9 for place in places} == set(range(9))


def place_of(image: Tensor, windows: Tensor) -> list[int]:
    distance = (windows.permute(1, 2, 0, 3, 4) - image).abs().amax(dim=(2, 3, 4))
    return (distance.flatten() < 1e-5).nonzero().flatten().tolist()


def test_rotation_turns_by_small_angles_about_the_centre() -> None:
    x = torch.arange(31) - 15
    bar = (x.abs() <= 1).expand(31, 31) & (x[:, None] <= 0)  # from the centre to the top
    pixels = (bar * 255).to(torch.uint8).expand(64, 1, 31, 31)
    spec = DataSpec("bar", 1, 1, 31, (0.0,), (1.0,))
    images = Images(pixels, torch.zeros(64, dtype=torch.int64))
    turned = TrainStream(images, spec, World.alone(), 64, 0, ("rotate",)).batch(0).images[:, 0]
    mass = turned.sum((1, 2))
    across = (turned * x).sum((1, 2)) / mass
    up = -(turned * x[:, None]).sum((1, 2)) / mass
    degrees = torch.rad2deg(torch.atan2(across, up))
    assert degrees.abs().max() < 15.5
    assert degrees.max() > 10
    assert degrees.min() < -10
    torch.testing.assert_close(torch.hypot(across, up), torch.full((64,), 7.4), rtol=0.05, atol=0)


def test_evaluation_visits_every_image_once_over_all_workers() -> None:
    images = made(11)
    for size in (1, 2, 3):
        labels = []
        for world in workers(size):
            batches = list(evaluation_batches(images, SPEC, world, 2))
            share = torch.cat([batch.labels for batch in batches]).tolist()
            assert share == list(range(world.rank, 11, size))
            labels += share
        assert sorted(labels) == list(range(11))
    (only,) = evaluation_batches(images, SPEC, World.alone(), 100)
    torch.testing.assert_close(only.images, SPEC.normalise(images.pixels.float() / 255))


def test_a_worker_without_a_share_evaluates_nothing() -> None:
    assert list(evaluation_batches(made(1), SPEC, workers(2)[1], 4)) == []


def test_mistakes_are_explained() -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'flipp'; did you mean 'flip'"):
        stream(made(), 4, augment=("flipp",))
    with pytest.raises(UsageError, match="'made' has no images"):
        stream(made(0), 4)
    with pytest.raises(UsageError, match="does not divide among 2 workers"):
        stream(made(), 5, world=workers(2)[0])


def test_strong_makes_many_images_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 16, 16, generator=generator).repeat(40, 1, 1, 1)
    made_of_one = AUGMENTATIONS["strong"](images, torch.Generator().manual_seed(1), 40, slice(0, 40))
    assert made_of_one.shape == images.shape
    assert made_of_one.min() >= 0
    assert made_of_one.max() <= 1
    flat = made_of_one.flatten(1)
    distances = torch.cdist(flat, flat) + 1e3 * torch.eye(40)
    assert distances.min() > 0.5, "no two alike"
    one, two = (
        AUGMENTATIONS["strong"](images[:20], torch.Generator().manual_seed(1), 40, rows)
        for rows in (
            slice(0, 20),
            slice(20, 40),
        )
    )
    torch.testing.assert_close(torch.cat([one, two]), made_of_one)


def test_strong_keeps_what_a_crop_shows() -> None:
    ramp = torch.linspace(0.3, 0.7, 32).expand(200, 1, 32, 32)  # a picture in which position can be read
    made_of_ramp = AUGMENTATIONS["strong"](ramp, torch.Generator().manual_seed(0), 200, slice(0, 200))
    spread = made_of_ramp.amax((1, 2, 3)) - made_of_ramp.amin((1, 2, 3))
    assert spread.min() < 0.15 < 0.35 < spread.max(), "crops of a part and of nearly all"
    slope = (made_of_ramp[:, :, :, -4:] - made_of_ramp[:, :, :, :4]).mean((1, 2, 3))
    assert 0.3 < (slope > 0).float().mean() < 0.7, "mirrored, and inverted now and then"


def strong_reference(image: Tensor, draws: list[float]) -> Tensor:
    """Place one pixel after the other: image (C, S, S), and the ten numbers in [0, 1) drawn for it."""
    area, aspect, angle, y, x, contrast, brightness, vertical, horizontal, inverted = draws
    area, aspect = 0.05 + 0.95 * area, 3 / 4 * (16 / 9) ** aspect
    height, width = min(1.0, math.sqrt(area / aspect)), min(1.0, math.sqrt(area * aspect))
    size, turn = image.shape[-1], math.radians(60 * angle - 30)

    def mirrored(position: float) -> int:
        while not 0 <= position < size:
            position = -1 - position if position < 0 else 2 * size - 1 - position
        return int(position)

    cut = torch.zeros_like(image)
    for row in range(size):
        for column in range(size):
            # From the middle of the crop, in sides of the image.
            v = ((row + 0.5) / size - 0.5) * height * (-1 if vertical < 0.5 else 1)
            u = ((column + 0.5) / size - 0.5) * width * (-1 if horizontal < 0.5 else 1)
            across = u * math.cos(turn) - v * math.sin(turn) + width / 2 + (1 - width) * x
            down = u * math.sin(turn) + v * math.cos(turn) + height / 2 + (1 - height) * y
            left, top = across * size - 0.5, down * size - 0.5
            for i, j in ((math.floor(top) + di, math.floor(left) + dj) for di in (0, 1) for dj in (0, 1)):
                weight = (1 - abs(top - i)) * (1 - abs(left - j))
                cut[:, row, column] += weight * image[:, mirrored(i), mirrored(j)]
    changed = (cut - cut.mean()) * (0.6 + 0.8 * contrast) + cut.mean() + 0.4 * (brightness - 0.5)
    changed = changed.clamp(0, 1)
    return 1 - changed if inverted < 0.2 else changed


def test_strong_is_its_reference() -> None:
    count = 24
    images = torch.rand(count, 3, 7, 7, generator=torch.Generator().manual_seed(3))
    ours = AUGMENTATIONS["strong"](images, torch.Generator().manual_seed(4), count, slice(0, count))
    generator = torch.Generator().manual_seed(4)
    draws = torch.cat([torch.rand(7, count, generator=generator), torch.rand(3, count, generator=generator)]).double()
    assert (draws[9] < 0.2).any() and (draws[0] > 0.9).any(), "inverted ones, and crops of nearly all"
    for row in range(count):
        expected = strong_reference(images[row].double(), draws[:, row].tolist())
        torch.testing.assert_close(ours[row].double(), expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(7, 3, [3, 2, 2]), (6, 3, [3, 3]), (1, 3, [1]), (3, 2, [2, 1]), (5, 5, [5]), (0, 4, [])],
)
def test_no_single_image_is_evaluated_behind_others(count: int, batch: int, sizes: list[int]) -> None:
    spec = DataSpec("made", 10, 1, 2, (0.0,), (1.0,))
    images = Images(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), torch.arange(count))
    batches = list(evaluation_batches(images, spec, World.alone(), batch))
    assert [len(batch.labels) for batch in batches] == sizes
    assert [int(label) for batch in batches for label in batch.labels] == list(range(count))
