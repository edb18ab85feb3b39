"""Moments of BatchNorm inputs against a float64 loop over groups with plain hooks, and what a pass leaves behind."""

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raykd import losses
from raykd.errors import UsageError
from raykd.models.moments import Moments, MomentTeacher, _Moments, _moments, activation_bytes, merged, variance_gaps
from raykd.models.teacher import Teacher


class Net(nn.Module):
    """A user's own classifier of [B, 3, 8, 8] with BatchNorm on maps and on vectors; one norm never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.unused = nn.BatchNorm2d(5)
        self.wide = nn.Conv2d(5, 6, 3, stride=2)
        self.second = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(24, 7)
        self.vector = nn.BatchNorm1d(7)
        self.head = nn.Linear(7, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images)).relu()
        maps = self.second(input=self.wide(maps)).relu()
        logits: Tensor = self.head(self.vector(self.hidden(maps.flatten(1))).relu())
        return logits


LAYERS = ["norm", "second", "vector"]


def trained(network: Net) -> Net:
    """Give the norms statistics and parameters as training would."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                assert values is not None
                nn.init.normal_(values, std=0.3)
            for values in (module.running_var, module.weight):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    return network


@pytest.fixture
def network() -> Net:
    torch.manual_seed(0)
    return trained(Net())


def wrapped(network: nn.Module, size: int = 8) -> MomentTeacher:
    return MomentTeacher(Teacher(network, channels=3, size=size))


def objective(logits: Tensor, moments: Moments, running: Moments) -> Tensor:
    """Something that depends on every output in its own way."""
    weighted = [((i + 1) * (m**3 + v.sin())).sum() for i, (m, v) in enumerate(moments)]
    return logits.square().sum() + losses.bn_statistics(moments, running) + torch.stack(weighted).sum()


def stored(network: nn.Module) -> Moments:
    norms = [network.get_submodule(name) for name in LAYERS]
    return [(norm.get_buffer("running_mean"), norm.get_buffer("running_var")) for norm in norms]


def slow(network: Net, images: Tensor, groups: int) -> tuple[Tensor, Moments, Tensor]:
    """Logits, moments and image gradient in float64, group by group."""
    exact = copy.deepcopy(network).double().eval()
    x = images.double().requires_grad_()
    seen: dict[str, Tensor] = {}
    for name in LAYERS:
        exact.get_submodule(name).register_forward_pre_hook(
            lambda layer, args, kwargs, name=name: seen.update({name: (*args, *kwargs.values())[0]}), with_kwargs=True
        )
    logits = exact(x)
    moments = []
    for name in LAYERS:
        rows = [part.movedim(1, -1).reshape(-1, part.shape[1]) for part in seen[name].chunk(groups)]
        means = [row.sum(0) / len(row) for row in rows]
        variances = [((row - mean) ** 2).sum(0) / len(row) for row, mean in zip(rows, means, strict=True)]
        moments.append((torch.stack(means), torch.stack(variances)))
    running = stored(exact)
    (gradient,) = torch.autograd.grad(objective(logits, moments, running), x)
    return logits, moments, gradient


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-4) -> None:
    expected = expected.detach()
    torch.testing.assert_close(actual.detach().double(), expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_values_and_image_gradients(network: Net, groups: int) -> None:
    images = torch.randn(6, 3, 8, 8)
    expected_logits, expected, expected_gradient = slow(network, images, groups)
    teacher = wrapped(network)
    assert (teacher.layers, teacher.widths) == (LAYERS, [5, 6, 7])
    torch.testing.assert_close(teacher.running(), stored(network), rtol=0, atol=0)
    x = images.requires_grad_()
    logits, features, moments = teacher(x, groups)
    assert [(m.shape, v.shape) for m, v in moments] == [((groups, c), (groups, c)) for c in (5, 6, 7)]
    for layer, reference in zip(moments, expected, strict=True):
        close(layer[0], reference[0])
        close(layer[1], reference[1])
    close(logits, expected_logits)
    assert torch.equal(features, teacher.teacher(x)[1])
    (gradient,) = torch.autograd.grad(objective(logits, moments, teacher.running()), x)
    close(gradient, expected_gradient)


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (6, 3), (4, 3, 5)])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_hand_written_backward(shape: tuple[int, ...], groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda inputs: _Moments.apply(inputs, shift, groups), (x,))
    assert torch.autograd.gradcheck(lambda inputs: _moments(inputs, shift, groups), (x,))
    output, mean, variance = _Moments.apply(x, shift, groups)
    torch.testing.assert_close((output, mean, variance), (x, *_moments(x, shift, groups)))


@pytest.mark.parametrize("take", [lambda *a: _Moments.apply(*a)[1:], _moments])
def test_a_mean_far_from_zero_costs_no_digits(take: Callable[..., tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 4, 4) + 1000
    exact = x.double().var(dim=(0, 2, 3), correction=0)[None]
    close(take(x, torch.full((3,), 1000.0), 1)[1], exact, 1e-5)
    # Without the shift nearly nothing is left of it.
    assert ((take(x, torch.zeros(3), 1)[1] - exact).abs() > 0.01).any()


def test_constant_channels_have_no_negative_variance() -> None:
    x, shift = torch.linspace(0.1, 10, 100)[:, None, None].expand(4, 100, 3, 3), torch.zeros(100)
    assert (x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()).min() < 0
    assert _Moments.apply(x, shift, 2)[2].min() >= 0 and _moments(x, shift, 2)[1].min() >= 0


def test_moments_are_float32_under_autocast(network: Net) -> None:
    images = torch.randn(6, 3, 8, 8)
    _, expected, expected_gradient = slow(network, images, 3)
    x = images.requires_grad_()
    teacher = wrapped(network)
    seen: list[torch.dtype] = []
    network.norm.register_forward_hook(lambda layer, args, output: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits, _, moments = teacher(x, 3)
    assert seen == [torch.bfloat16]
    for layer, reference in zip(moments, expected, strict=True):
        assert layer[0].dtype == layer[1].dtype == torch.float32
        close(layer[0], reference[0], 0.02)
        close(layer[1], reference[1], 0.03)
    (gradient,) = torch.autograd.grad(objective(logits.float(), moments, teacher.running()), x)
    assert (gradient - expected_gradient).norm() < 0.03 * expected_gradient.norm()


def test_half_precision_is_accumulated_in_float32() -> None:
    x = (torch.randn(64, 2, 32, 32, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    _, mean, variance = _Moments.apply(x, torch.zeros(2), 1)
    close(mean, x.double().mean((0, 2, 3))[None], 1e-5)
    close(variance, x.double().var((0, 2, 3), correction=0)[None], 1e-5)


def compiled_and_plain(teacher: MomentTeacher, images: Tensor, groups: int, backend: str) -> None:
    # fullgraph: a graph break would raise.
    compiled = torch.compile(teacher, backend=backend, fullgraph=True, dynamic=False)
    results = []
    for run in (teacher, compiled, compiled):
        x = images.clone().requires_grad_()
        logits, features, moments = run(x, groups)
        (gradient,) = torch.autograd.grad(objective(logits, moments, teacher.running()), x)
        results.append((logits.detach(), features.detach(), [(m.detach(), v.detach()) for m, v in moments], gradient))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-4)
    assert all((tap.groups, tap.held) == (0, None) for tap in teacher.taps)


def test_it_compiles_without_a_graph_break(network: Net) -> None:
    compiled_and_plain(wrapped(network), torch.randn(6, 3, 8, 8), 3, "aot_eager")


@pytest.mark.endurance
@pytest.mark.slow
def test_inductor_agrees(network: Net) -> None:
    compiled_and_plain(wrapped(network), torch.randn(6, 3, 8, 8), 3, "inductor")


def test_nothing_is_left_behind(network: Net) -> None:
    teacher = wrapped(network)
    outputs = teacher(torch.randn(4, 3, 8, 8, requires_grad=True), 2)
    alive = [weakref.ref(outputs[0]), *(weakref.ref(tensor) for pair in outputs[2] for tensor in pair)]
    del outputs
    assert not any(reference() for reference in alive), "freed without the garbage collector: no cycle"
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    features = weakref.ref(teacher.teacher(images)[1])
    network(images)
    assert features() is None
    with pytest.raises(UsageError, match="takes images"):
        teacher(torch.zeros(2, 3, 9, 9))
    assert all((tap.groups, tap.held) == (0, None) for tap in teacher.taps)


def test_the_wrapped_teacher_and_a_deep_copy_work_on_their_own(network: Net) -> None:
    images = torch.randn(4, 3, 8, 8)
    teacher = wrapped(network)
    clone = copy.deepcopy(teacher)
    before = teacher(images, 2)
    with torch.no_grad():
        clone.teacher.network.get_submodule("conv").get_parameter("bias").add_(5.0)
    torch.testing.assert_close(clone(images, 2)[2][0][0], before[2][0][0] + 5.0)
    assert torch.equal(teacher(images, 2)[2][0][0], before[2][0][0])
    assert torch.equal(teacher.teacher(images)[0], before[0])
    second = MomentTeacher(teacher.teacher)
    assert torch.equal(second(images, 2)[2][1][1], before[2][1][1])
    assert not teacher.train().teacher.training


def test_variance_gaps_are_those_of_a_slow_reference_and_leave_no_hook(network: Net) -> None:
    images = torch.randn(6, 3, 8, 8)
    before = [len(module._forward_pre_hooks) for module in network.modules()]
    with torch.no_grad(), variance_gaps(network.eval()) as gaps:
        network(images)
    _, moments, _ = slow(network, images, 1)
    running = stored(network)
    expected = [
        (seen[0] / own.double()).log().abs().mean().item() for (_, seen), (_, own) in zip(moments, running, strict=True)
    ]
    assert [gap.item() for gap in gaps] == pytest.approx(expected, rel=1e-4)
    assert [len(module._forward_pre_hooks) for module in network.modules()] == before


def test_merged_moments_are_those_of_the_concatenation(network: Net) -> None:
    teacher = wrapped(network)
    images = torch.randn(10, 3, 8, 8, dtype=torch.float64)
    teacher.double()
    whole = teacher(images, 1)[2]
    torch.testing.assert_close(merged(teacher(images, 5)[2]), whole)
    # Two workers: one has three groups of two images, the other has two.
    parts = [teacher(images[:6], 3)[2], teacher(images[6:], 2)[2]]
    (means, variances), (centre, _) = ([torch.cat(kind, 1) for kind in zip(*m, strict=True)] for m in (parts[1], whole))
    other_sums = [torch.cat((means.sum(0), torch.full((1,), 2.0))), (variances + (means - centre).square()).sum(0)]

    def average(local: Tensor) -> Tensor:
        return (local + other_sums.pop(0)) / 2

    torch.testing.assert_close(merged(parts[0], average), whole)
    assert not other_sums


def test_merged_moments_carry_gradients() -> None:
    torch.manual_seed(0)
    mean, variance = torch.randn(3, 2, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    flat = (mean.requires_grad_(), variance.requires_grad_())
    assert torch.autograd.gradcheck(lambda m, v: merged([(m, v)])[0], flat)


def test_activation_bytes(network: Net) -> None:
    # Per image: itself, then each norm's input and the ReLU after it; of 4 bytes each.
    floats = 3 * 64 + 2 * 5 * 36 + 2 * 6 * 4 + 2 * 7
    teacher = wrapped(network)
    assert activation_bytes(teacher, (3, 8, 8)) == activation_bytes(teacher.teacher, (3, 8, 8)) == 4 * floats


class Twice(Net):
    """One norm in two places."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images) + self.head(self.vector(images.flatten(1)[:, :7]))
        return logits


class Fickle(Net):
    """A path that depends on the images."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images) if images.sum() == 0 else self.head(images.flatten(1)[:, :7])
        return logits


def test_a_norm_used_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="'vector' .* runs 2 times .* a layer of its own"):
        wrapped(Twice())


def test_a_norm_over_pieces_of_images_is_refused() -> None:
    pieces = nn.Sequential(nn.Flatten(0, 1), nn.Unflatten(0, (-1, 1)), nn.BatchNorm2d(1), nn.Unflatten(0, (-1, 3)))
    with pytest.raises(UsageError, match="'2' .* sees 6 rows for 2 images"):
        wrapped(nn.Sequential(*pieces, nn.Flatten(), nn.Linear(192, 4)))


def test_a_network_without_norms_is_refused() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(UsageError, match="no BatchNorm layer .* such as lenet5_bn"):
        wrapped(plain)


@pytest.mark.parametrize("groups", [0, 4])
def test_groups_must_be_of_equal_size(network: Net, groups: int) -> None:
    with pytest.raises(UsageError, match=f"6 images cannot be {groups} groups of equal size"):
        wrapped(network)(torch.zeros(6, 3, 8, 8), groups)


def test_a_layer_left_out_later_is_reported(network: Net) -> None:
    teacher = wrapped(Fickle())
    with pytest.raises(UsageError, match=r"without its layers \['norm', 'second', 'vector'\]"):
        teacher(torch.ones(2, 3, 8, 8))
