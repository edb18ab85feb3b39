"""Weights that a store keeps by their sum are those, or they are refused and can be kept anew."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from raykd.engine.build import find_weights_file
from raykd.errors import CorruptError
from raykd.files import sha256_of
from raykd.store.workspace import STORED, Workspace
from tests.store.test_checkpoint import flip


def keep_in_memory(workspace: Workspace, network: nn.Module) -> str:
    return workspace.keep_network(network).removeprefix(STORED)


def keep_copy(workspace: Workspace, network: nn.Module) -> str:
    file = workspace.store.parent / "teacher.pt"
    if not file.exists():
        torch.save(network.state_dict(), file)
    workspace.keep_weights(sha256_of(file), network)
    return sha256_of(file)


@pytest.mark.parametrize("keep", [keep_in_memory, keep_copy])
def test_a_flipped_byte_of_kept_weights_is_noticed(tmp_path: Path, keep: Callable[[Workspace, nn.Module], str]) -> None:
    workspace = Workspace(None, tmp_path / "runs")
    network = nn.Linear(2, 2)
    sha256 = keep(workspace, network)
    path = workspace.kept_weights(sha256)
    assert path is not None
    flip(path)
    reads: list[Callable[[], object]] = [
        lambda: workspace.kept_weights(sha256),
        lambda: find_weights_file(STORED + sha256, workspace),
    ]
    for read in reads:
        with pytest.raises(CorruptError, match=f"{sha256}.safetensors is damaged .*or give the network again"):
            read()
    assert keep(workspace, network) == sha256
    assert workspace.kept_weights(sha256) == path
    flip(path)
    workspace.keep_weights(sha256, network)
    assert workspace.kept_weights(sha256) == path, "a run that finds it damaged keeps it anew"
