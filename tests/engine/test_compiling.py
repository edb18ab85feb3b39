"""Which runs are compiled, how, and what a graph's answers must be."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raykd.config.runtime import Compile
from raykd.engine import compiling
from raykd.engine.compiling import choose_compiler, replayed

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MANY, FEW = 10_000_000, 1000


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What torch.compile is asked for; there is a compiler for every device."""
    found: list[dict[str, Any]] = []

    def compile(network: nn.Module, **options: Any) -> nn.Module:
        found.append(options)
        return network

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(compiling, "compile_obstacle", lambda device: None)
    return found


@pytest.mark.parametrize(
    ("how", "device", "images", "options"),
    [
        ("off", GPU, MANY, []),
        ("auto", CPU, FEW, []),
        ("auto", CPU, MANY, [{"dynamic": False}]),
        ("on", CPU, FEW, [{"dynamic": False}]),
        ("graphs", GPU, FEW, [{"dynamic": False, "mode": "reduce-overhead"}]),
    ],
)
def test_what_torch_is_asked_for(
    asked: list[dict[str, Any]], how: Compile, device: torch.device, images: int, options: list[dict[str, Any]]
) -> None:
    network = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    assert choose_compiler(how, device, images)(network)(x).equal(network(x))
    assert asked == options


def test_without_a_gpu_graphs_are_plain_compiling_and_say_so(
    asked: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        choose_compiler("graphs", CPU, FEW)(nn.Linear(2, 2))
    assert asked == [{"dynamic": False}]
    assert "graphs is for GPUs" in caplog.text


def test_without_a_compiler_networks_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "compile_obstacle", lambda device: "no compiler; install one")
    network = nn.Linear(2, 2)
    with caplog.at_level(logging.WARNING):
        assert choose_compiler("graphs", GPU, MANY)(network) is network
    assert "running without torch.compile: no compiler; install one" in caplog.text


def test_answers_of_a_graph_outlive_its_next_replay() -> None:
    memory = torch.zeros(2)

    def graph(x: Tensor) -> tuple[Tensor, list[tuple[Tensor, None]]]:
        memory.copy_(2 * x)
        return memory, [(memory, None)]

    call = replayed(graph)
    first, nested = call(torch.ones(2))
    call(torch.full((2,), 5.0))
    assert first.tolist() == [2, 2]
    assert nested[0][0].tolist() == [2, 2]


def test_gradients_flow_through_a_graphs_answers() -> None:
    network, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(network(x).square().sum(), x)
    (got,) = torch.autograd.grad(replayed(network)(x).square().sum(), x)
    assert got.equal(expected)
