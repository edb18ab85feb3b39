"""The pool: what a draw is, who holds what, what goes when it is full, and what comes back from the disk."""

import pytest
import torch
from torch import Tensor

from raykd.data import image_pool as module
from raykd.data.image_pool import ImagePool, PoolPart, to_pixels
from raykd.distributed.world import World
from raykd.spec import DataSpec

SPEC = DataSpec("tiny", 5, 3, 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
B, V = 64, 3


def images_of(batch: int) -> Tensor:
    """Images of 256 levels that tell their batch and row by their first pixels."""
    pixels = torch.randint(256, (B, 3, 8, 8), generator=torch.Generator().manual_seed(batch))
    pixels[:, 0, 0, 0], pixels[:, 1, 0, 0] = batch, torch.arange(B)
    return SPEC.normalise(pixels.float() / 255)


def filled(batches: int, world: World | None = None, *, capacity: int = 4, views: int = 0, **options: str) -> ImagePool:
    world = world or World.alone()
    pool = ImagePool(SPEC, world, batch=B, batches=capacity, seed=3, views=views, **options)  # type: ignore[arg-type]
    mine = world.slice(B)
    for batch in range(batches):
        logits = torch.randn(B, views, 5, generator=torch.Generator().manual_seed(batch))[mine] if views else None
        pool.append(images_of(batch)[mine], torch.full((B,), batch % 5)[mine], logits)
    return pool


def places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return batch and row of images."""
    pixels = to_pixels(images, SPEC)
    return pixels[:, 0, 0, 0], pixels[:, 1, 0, 0]


def test_a_draw_is_uniform_over_the_training_images_and_depends_on_the_step_alone() -> None:
    pool = filled(4)
    batches, rows = zip(*(places(pool.draw(512, step).images) for step in range(40)), strict=True)
    counts = torch.bincount(torch.cat(batches).long() * B + torch.cat(rows), minlength=4 * B).view(4, B)
    assert (counts == 0).sum(1).tolist() == [2, 2, 2, 2], "one image in 32 is held out"
    drawn = counts[counts > 0].double()
    assert drawn.var() / drawn.mean() == pytest.approx(1, abs=0.25), "as counts of uniform draws vary"
    assert torch.equal(pool.draw(64, 7).images, filled(4).draw(64, 7).images)
    assert not torch.equal(pool.draw(64, 7).images, pool.draw(64, 8).images)


def test_held_out_images_are_those_that_no_draw_has_and_come_once_before_any_again() -> None:
    pool = filled(4)
    batches, rows = places(pool.held_out(8, seed=1))
    assert sorted(zip(batches.tolist(), rows.tolist(), strict=True)) == [(b, r) for b in range(4) for r in (31, 63)]
    assert len(pool.held_out(20, seed=1)) == 20


def test_labels_and_pixels_stay_together_through_rounding() -> None:
    drawn = filled(4).draw(100, 0)
    assert torch.equal(drawn.labels, places(drawn.images)[0].long() % 5)
    assert drawn.teacher_logits is None
    assert to_pixels(SPEC.normalise(torch.full((1, 3, 8, 8), 0.5)), SPEC).unique().tolist() == [128], "not truncated"
    outside = torch.tensor([-1.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert to_pixels(SPEC.normalise(outside), SPEC).flatten(1).unique(dim=1).flatten().tolist() == [0, 255]


@pytest.mark.parametrize("eviction", ["oldest", "random"])
def test_a_full_pool_stays_as_large_and_forgets_whole_batches(eviction: str) -> None:
    pool = filled(9, eviction=eviction)
    assert len(pool) == 4 * B
    assert pool.batches == 9
    batches, _ = places(pool.draw(2000, 0).images)
    left = batches.unique().tolist()
    if eviction == "oldest":
        assert left == [5, 6, 7, 8]
    else:
        assert len(left) == 4
        assert 8 in left, "the newest is there"
        assert left != [5, 6, 7, 8]


@pytest.mark.parametrize("views", [0, V])
@pytest.mark.parametrize("eviction", ["oldest", "random"])
def test_parts_bring_back_the_same_pool(views: int, eviction: str) -> None:
    pool, parts = filled(0, views=views, eviction=eviction), []
    assert pool.unsaved() is None
    for batch in range(9):
        logits = torch.randn(B, views, 5) if views else None
        pool.append(images_of(batch), torch.full((B,), batch % 5), logits)
        if batch % 2:
            parts += [part] if (part := pool.unsaved()) else []
    again = filled(0, views=views, eviction=eviction)
    again.load(parts, {"batches": 8, "seed": 3})
    older = filled(8, views=0, eviction=eviction)
    assert torch.equal(places(again.draw(64, 5).images)[0], places(older.draw(64, 5).images)[0]) or views
    again.append(images_of(8), torch.full((B,), 8 % 5), logits)
    for mine, theirs in zip(pool.draw(64, 5), again.draw(64, 5), strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or torch.equal(mine, theirs)
    assert torch.equal(pool.held_out(8, 0), again.held_out(8, 0))
    assert again.unsaved() is not None, "what came after the load"


def test_a_part_that_is_missing_is_noticed() -> None:
    part = filled(2).unsaved()
    assert part is not None
    half = PoolPart(*(rows[:B] for rows in part[:3]))
    with pytest.raises(ValueError, match="64 of its images are missing"):
        filled(0).load([half], {"batches": 2, "seed": 3})


@pytest.mark.parametrize(("shape", "views"), [((1, 1, 1), 0), ((3, 8, 8), V), ((3, 4, 4), 0)])
def test_parts_of_other_shapes_are_refused(shape: tuple[int, ...], views: int) -> None:
    """One pixel would be broadcast over an image without a word."""
    numbers = torch.arange(B)
    logits = torch.zeros(B, views, 5).half() if views else None
    odd = PoolPart(torch.zeros(B, *shape, dtype=torch.uint8), torch.zeros_like(numbers), numbers, logits)
    with pytest.raises(ValueError, match="belong there"):
        filled(0).load([odd], {"batches": 1, "seed": 3})


def test_views_weigh_in_where_a_pool_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed: list[int] = []

    def home(size: int, device: torch.device) -> torch.device:
        weighed.append(size)
        return device

    monkeypatch.setattr(module, "_home", home)
    filled(0, views=V)
    assert weighed == [4 * B * (3 * 8 * 8 + 16 + 2 * V * 5)]


def test_a_view_is_a_crop_of_its_image_and_has_its_own_logits() -> None:
    pool = ImagePool(SPEC, World.alone(), batch=B, batches=1, seed=3, views=V)
    cuts, images = pool.next_views(), images_of(0)
    unit = pool.as_stored(images)
    shown = torch.stack([type(cuts)(cuts.corners[:, v], cuts.flips[:, v]).of(unit) for v in range(V)], dim=1)
    pool.append(images, torch.zeros(B, dtype=torch.int64), shown.flatten(2)[:, :, :5])
    drawn = pool.draw(200, 0)
    assert drawn.teacher_logits is not None
    seen = SPEC.denormalise(drawn.images)
    torch.testing.assert_close(seen.flatten(1)[:, :5], drawn.teacher_logits, rtol=0, atol=1e-3)
    rows = (seen[:, None, None] - shown[None]).abs().flatten(3).amax(3).amin(dim=(1, 2))
    assert rows.max() < 1e-5, "every drawn image is one of the views"


def test_another_number_of_workers_takes_over() -> None:
    parts = [filled(3, World(rank, 2, torch.device("cpu"))).unsaved() for rank in range(2)]
    one = filled(0)
    one.load([part for part in parts if part is not None], {"batches": 3, "seed": 3})
    assert torch.equal(one.draw(64, 1).images, filled(3).draw(64, 1).images)


@pytest.mark.parametrize("eviction", ["oldest", "random"])
def test_what_goes_before_it_is_saved_is_saved_all_the_same(eviction: str) -> None:
    pool = filled(9, views=V, eviction=eviction)
    often, parts = filled(0, views=V, eviction=eviction), []
    for batch in range(9):
        logits = torch.randn(B, V, 5, generator=torch.Generator().manual_seed(batch))
        often.append(images_of(batch), torch.full((B,), batch % 5), logits)
        parts.append(often.unsaved())
    once = pool.unsaved()
    assert once is not None
    assert once.numbers.tolist() == list(range(9 * B)), "all images, in order"
    for together, apart in zip(once, zip(*(part for part in parts if part), strict=True), strict=True):
        assert together is not None
        assert torch.equal(together, torch.cat(apart))
    assert pool.unsaved() is None


def test_views_stay_those_that_the_teacher_answered_where_the_noise_is_another() -> None:
    """As after a rewind: draws are others, the images, their views and what is to go are not."""
    pool = filled(6, views=V, eviction="random")
    part = pool.unsaved()
    assert part is not None
    again = ImagePool(SPEC, World.alone(), batch=B, batches=4, seed=9, views=V, eviction="random")
    again.load([part], pool.state_dict())
    assert again.state_dict() == pool.state_dict()
    assert not torch.equal(again.draw(64, 0).labels, pool.draw(64, 0).labels)
    shown = {tuple(row.tolist()): image for row, image in zip(*_answers(pool), strict=True)}
    both = [
        (shown[key], image)
        for row, image in zip(*_answers(again), strict=True)
        if (key := tuple(row.tolist())) in shown
    ]
    assert len(both) > 1000
    assert all(torch.equal(mine, theirs) for mine, theirs in both)
    logits = torch.zeros(B, V, 5)
    for one in (pool, again):
        one.append(images_of(6), torch.zeros(B, dtype=torch.int64), logits)
    assert torch.equal(pool.held_out(8, 0), again.held_out(8, 0)), "the same batch went"


def _answers(pool: ImagePool) -> tuple[Tensor, Tensor]:
    """Teacher's logits and view of many draws."""
    draws = [pool.draw(512, step) for step in range(6)]
    logits = [draw.teacher_logits for draw in draws if draw.teacher_logits is not None]
    return torch.cat(logits), torch.cat([draw.images for draw in draws])
