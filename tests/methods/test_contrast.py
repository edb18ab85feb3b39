"""CMI's contrast: views, loss and memory; whole calls with it are in test_pool_inversion."""

import pytest
import torch
from torch import Tensor

from raykd.distributed.world import World
from raykd.methods.contrast import Contrast, feature_means
from tests.methods.toy import SPEC

FEATURES, BATCH = 5, 6


def contrast(world: World | None = None, *, flips: bool = True, negatives: int = 4) -> Contrast:
    return Contrast(
        (2, 3), SPEC, world or World.alone(), lr=1e-3, temperature=0.2, memory=8, negatives=negatives, seed=3,
        flips=flips, steps=10,
    )  # fmt: skip


def ramps() -> Tensor:
    """Images whose pixel is its column, and in a second channel its row, both in [-1, 1] as grids have them."""
    line = (torch.arange(8) + 0.5) / 4 - 1
    image = torch.stack([line.expand(8, 8), line[:, None].expand(8, 8)])
    return image.expand(200, 2, 8, 8).clone()


def test_a_local_view_is_an_enlarged_part_of_its_image() -> None:
    images = ramps().requires_grad_()
    views = contrast().local_view(images, 0)
    assert views.shape == images.shape
    column, row = views.detach().unbind(1)
    width = (column[:, 0, -1] - column[:, 0, 0]).abs() / (2 * 7 / 8)
    height = (row[:, -1, 0] - row[:, 0, 0]) / (2 * 7 / 8)
    assert (height > 0).all(), "never upside down"
    mirrored = column[:, 0, 0] > column[:, 0, -1]
    assert 60 < int(mirrored.sum()) < 140
    area = width * height
    # At the border half a pixel is repeated, which narrows what is seen of it.
    assert 0.2 < float(area.min()) < 0.35 and 0.85 < float(area.max()) <= 1.0 + 1e-5
    (gradient,) = torch.autograd.grad(views.sum(), images)
    assert gradient.sum().item() == pytest.approx(views.numel(), rel=1e-4)
    plain = contrast(flips=False).local_view(ramps(), 0)
    assert (plain[:, 0, 0, 0] < plain[:, 0, 0, -1]).all()


def test_workers_cut_what_one_would() -> None:
    images = ramps()[:BATCH]
    whole = contrast().local_view(images, 4)
    halves = [contrast(World(rank, 2, torch.device("cpu"))).local_view(images[:3], 4) for rank in range(2)]
    torch.testing.assert_close(torch.cat(halves), whole)
    assert not torch.equal(contrast().local_view(images, 5), whole)


def test_images_that_are_told_apart_cost_little() -> None:
    term = contrast(negatives=0)
    features = 4 * torch.eye(5)
    alike = features[:1].expand(5, 5)
    assert term.loss(features, features, 0) < term.loss(alike, alike, 0)
    assert term.loss(alike, alike, 0).item() == pytest.approx(torch.tensor(5.0).log().item(), rel=1e-5)


def test_the_global_view_carries_no_gradient_and_the_memory_trains_the_head_alone() -> None:
    term = contrast()
    torch.manual_seed(0)
    local, whole = (torch.randn(BATCH, FEATURES, requires_grad=True) for _ in range(2))
    head = list(term.head.parameters())

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(term.loss(local, whole, 0), [local, whole, *head], materialize_grads=True)

    first = gradients()
    assert first[0].any() and not first[1].any()
    term.remember(torch.randn(BATCH, 2 * FEATURES))
    second = gradients()
    assert second[0].any() and not second[1].any()
    assert any(not torch.equal(a, b) for a, b in zip(first[2:], second[2:], strict=True))


def test_the_memory_keeps_the_newest() -> None:
    term = contrast()
    rows = torch.arange(12.0)[:, None].expand(12, 2 * FEATURES)
    for part in rows.split(4):
        term.remember(part)
    kept = term.state_dict()["features"]
    assert kept[:, 0].tolist() == list(range(4, 12))
    assert kept.nbytes == term.state_bytes()
    other = contrast()
    other.load_state_dict(term.state_dict())
    assert torch.equal(other.state_dict()["features"], kept)


def test_the_head_is_that_of_its_seed_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = contrast().head.state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = contrast().head.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_features_are_the_channels_means() -> None:
    layers = [(torch.ones(4, 2), torch.zeros(4, 2)), (torch.full((4, 3), 2.0), torch.zeros(4, 3))]
    assert feature_means(layers).tolist() == [[1, 1, 2, 2, 2]] * 4
