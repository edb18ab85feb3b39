"""What generators that invert a teacher are given."""

import math

import pytest
import torch
from torch import nn

from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.methods.latents import Labels, label_embeddings, label_latents, normal_latents

WORLD = World.alone()


@pytest.mark.parametrize("classes", [4, 10])
def test_one_hot_labels_are_as_far_apart_as_they_can_be(classes: int) -> None:
    """Standardised over a balanced batch, their Gram matrix is k on the diagonal, and all cosines are -1 / (k - 1)."""
    labels = Labels(classes, WORLD, 3 * classes, 0, balanced=True).draw(0)
    embeddings = label_embeddings("onehot", nn.Linear(2, 2), classes)
    latents = label_latents(embeddings, labels, 5, WORLD, seed=0, number=0)
    order = labels[:classes].argsort()
    rows = latents.h[0][order].double()
    gram = rows @ rows.T
    wanted = torch.full((classes, classes), -classes / (classes - 1), dtype=torch.float64).fill_diagonal_(classes)
    torch.testing.assert_close(gram, wanted, rtol=1e-3, atol=1e-3)
    cosine = gram[0, 1] / gram[0, 0]
    assert cosine.item() == pytest.approx(-1 / (classes - 1), rel=1e-3)


def test_labels_behind_a_layer_are_nearly_independent_noise() -> None:
    """W ~ N(0, 1) behind such rows: variance k, and images of one label in two blocks have nothing in common."""
    labels = Labels(10, WORLD, 400, 0, balanced=True).draw(0)
    embeddings = label_embeddings("onehot", nn.Linear(2, 2), 10)
    v = label_latents(embeddings, labels, 200, WORLD, seed=0, number=0).vectors().detach()
    assert v.shape == (400, 200)
    assert v.var().item() == pytest.approx(10, rel=0.05)
    same = [(a, b) for a in range(10) for b in range(10, 20) if labels[a] == labels[b]]
    cosines = torch.stack([torch.cosine_similarity(v[a], v[b], dim=0) for a, b in same])
    assert cosines.abs().mean() < 3 / math.sqrt(200)


def test_balanced_labels_come_in_blocks_of_all_classes() -> None:
    labels = Labels(5, WORLD, 23, 0, balanced=True)
    seen: set[int] = set()
    for number in range(6):
        rows = labels.draw(number)
        blocks = rows[:20].view(4, 5).sort(dim=1).values
        assert torch.equal(blocks, torch.arange(5).expand(4, 5))
        assert rows[20:].max() < 5
        seen.add(int(rows[4]))
    assert seen == set(range(5)), "no class has its place in a batch for itself"
    assert torch.equal(labels.draw(3), Labels(5, WORLD, 23, 0, balanced=True).draw(3))


def test_labels_at_random_are_of_all_classes_and_of_their_number() -> None:
    labels = Labels(4, WORLD, 4000, 7, balanced=False)
    counts = labels.draw(0).bincount(minlength=4)
    assert (counts > 900).all()
    assert not torch.equal(labels.draw(0), labels.draw(1))


def test_workers_take_their_rows_of_the_labels() -> None:
    whole = Labels(5, WORLD, 20, 0, balanced=True).draw(2)
    parts = [Labels(5, World(rank, 2, torch.device("cpu")), 20, 0, balanced=True).draw(2) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_the_rows_of_a_block_share_a_layer() -> None:
    """v = W_b h + c_b with the block's own W, against a loop; a last block may be smaller."""
    torch.manual_seed(0)
    embeddings, labels = torch.randn(3, 4), torch.tensor([0, 1, 2, 2, 0, 1, 1, 0])
    latents = label_latents(embeddings, labels, 6, WORLD, seed=1, number=2)
    with torch.no_grad():
        latents.bias.normal_()
    e = embeddings[labels].double()
    h = (e - e.mean(0)) / (e.var(0, unbiased=False) + 1e-5).sqrt()
    rows = [h[row] @ latents.weight[row // 3].double() + latents.bias[row // 3, 0].double() for row in range(8)]
    torch.testing.assert_close(latents.vectors().double(), torch.stack(rows), rtol=1e-5, atol=1e-6)
    assert [p.shape for p in latents.parameters] == [(3, 4, 6), (3, 1, 6)]
    assert all(p.requires_grad and p.is_leaf for p in latents.parameters)


def test_the_draw_is_that_of_seed_and_number() -> None:
    first, again, other = (normal_latents(WORLD, 4, 3, 5, number).z for number in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.requires_grad and first.is_leaf
    workers = [normal_latents(World(rank, 2, torch.device("cpu")), 4, 3, 5, 1).z for rank in range(2)]
    assert torch.equal(torch.cat(workers), first)


def test_the_classifiers_rows_are_the_last_layers_of_the_classes() -> None:
    teacher = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 7), nn.Linear(7, 3))
    head = teacher[2]
    assert isinstance(head, nn.Linear)
    rows = head.weight.detach()
    torch.testing.assert_close(label_embeddings("classifier", teacher, 3), rows - rows.mean(0))
    with pytest.raises(UsageError, match=r"none with 5 outputs; use method.latent=onehot"):
        label_embeddings("classifier", teacher, 5)
