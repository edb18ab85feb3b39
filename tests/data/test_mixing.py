"""What is blended with what, and by how much."""

from random import Random

import pytest
import torch
from torch import Tensor

from raykd.data.mixing import mix_images

SIDE = 8


def flat(count: int) -> Tensor:
    """Images of one value each, their number."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, SIDE, SIDE)


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_pastes_one_box_of_the_neighbour(seed: int) -> None:
    mixed = mix_images(flat(6), "cutmix", 1.0, seed)
    assert mixed.partners.tolist() == [1, 0, 3, 2, 5, 4]
    box = mixed.images[0, 0] == 1
    assert torch.equal(mixed.images, torch.where(box, flat(6)[mixed.partners], flat(6)))
    assert mixed.own == 1 - box.float().mean()
    rows, columns = box.any(1), box.any(0)
    assert torch.equal(box, rows[:, None] & columns), "a box"
    for side in (rows, columns):
        assert (side.int().diff() == 1).sum() <= 1, "in one piece"
    drawn = Random(seed).betavariate(1.0, 1.0)
    assert mixed.own >= drawn - 1e-9, "what reaches over the edge is not pasted"
    assert int(SIDE * (1 - drawn) ** 0.5) >= max(int(rows.sum()), int(columns.sum()))


def test_boxes_are_of_all_sizes_and_everywhere() -> None:
    boxes = [mix_images(flat(2), "cutmix", 1.0, seed).images[0, 0] for seed in range(200)]
    shares = torch.stack(boxes).mean((1, 2))
    assert shares.min() == 0
    assert shares.max() > 0.5
    often = torch.stack(boxes).mean(0)
    assert often.min() > 0.03


@pytest.mark.parametrize("beta", [0.8, 1.0])
def test_mixup_averages_with_the_neighbour(beta: float) -> None:
    mixed = mix_images(flat(4), "mixup", beta, 5)
    own = Random(5).betavariate(beta, beta)
    assert mixed.own == own
    values = torch.tensor([1 - own, own, 2 * own + 3 * (1 - own), 3 * own + 2 * (1 - own)])
    torch.testing.assert_close(mixed.images, values.view(-1, 1, 1, 1).expand(4, 3, SIDE, SIDE))


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_two_workers_with_even_shares_see_what_one_would(kind: str) -> None:
    images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    whole = mix_images(images, kind, 1.0, 3)  # type: ignore[arg-type]
    halves = [mix_images(half, kind, 1.0, 3) for half in images.chunk(2)]  # type: ignore[arg-type]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert halves[0].own == whole.own


def test_an_odd_one_out_takes_the_one_before() -> None:
    assert mix_images(flat(3), "mixup", 1.0, 0).partners.tolist() == [1, 0, 1]
    assert torch.equal(mix_images(flat(1), "cutmix", 1.0, 0).images, flat(1))
