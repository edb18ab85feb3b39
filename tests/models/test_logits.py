"""Logits of a network over many images."""

import torch

from raykd.models.logits import compute_logits
from tests.engine.test_evaluator import ALONE, Recorder


def test_networks_are_asked_in_evaluation_mode_and_left_as_they_were() -> None:
    network = Recorder()
    batches = [torch.rand(2, 1, 2, 2), torch.rand(1, 1, 2, 2)]
    logits = compute_logits(network, batches, ALONE)
    assert torch.equal(logits, torch.cat([batch.flatten(1)[:, :3] for batch in batches]))
    assert network.modes == [False, False]
    assert network.training
    assert not compute_logits(network.eval(), batches, ALONE).requires_grad
    assert not network.training
