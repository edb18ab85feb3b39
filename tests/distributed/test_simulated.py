"""One process that plays a worker of several."""

import torch

from raykd.distributed.simulated import SimulatedWorld


def test_one_worker_plays_four_and_counts() -> None:
    world = SimulatedWorld(0, 4, torch.device("cpu"))
    tensor = torch.ones(10, requires_grad=True)
    assert torch.equal(world.sum(tensor), torch.full((10,), 4.0))
    assert world.sent == {"gradients": 60}, "2 x 3/4 of 40 bytes"
    world.mean(tensor).sum().backward()
    assert torch.equal(tensor.grad if tensor.grad is not None else tensor, torch.ones(10))
    assert world.sent["batch_terms"] == 120, "the gradient takes the way back"
    assert world.gather(torch.zeros(2)).shape == (4, 2)
    assert world.sent["gathered"] == 24
    arrived = world.exchange(torch.arange(6.0).view(3, 2), [1, 2, 0, 0], [1, 1, 1, 2])
    assert torch.equal(arrived[:, 0], torch.tensor([0.0, 2, 4, 0, 2]))
    assert world.sent["exchanged"] == 2 * 8, "its own row stays"
    assert world.exchange(torch.empty(0, 2), [0] * 4, [0, 1, 0, 0]).shape == (1, 2)
    assert world.share(8) == 2
    assert world.calls == {"gradients": 1, "batch_terms": 2, "gathered": 1, "exchanged": 2}
    assert world.broadcast("a") == "a" and world.gather_objects(1) == [1] * 4
    assert world.calls["objects"] == 2
    world.forget()
    assert not world.calls and not world.sent


def test_classes_that_one_has_are_followed_by_the_others() -> None:
    held = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])
    table = SimulatedWorld(0, 3, torch.device("cpu")).gather(held)
    assert torch.equal(table[1], torch.tensor([0, 0, 0, 1, 1, 1, 0, 0]))
    assert table.sum(0).min() == 1
    assert SimulatedWorld(0, 3, torch.device("cpu")).gather(torch.ones(8, dtype=torch.int64)).all()
