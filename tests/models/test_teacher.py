"""The teacher adapter: what it returns, and that nothing about the teacher changes or is kept."""

import copy
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from raykd.errors import UsageError
from raykd.models import build_model
from raykd.models.teacher import Teacher


class Net(nn.Module):
    """A user's own classifier of [B, 3, 8, 8]; its head is defined first and runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)
        self.hidden = nn.Linear(5, 6)
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)

    def body(self, images: Tensor) -> Tensor:
        pooled = self.norm(self.conv(images)).relu().mean(dim=(2, 3))
        features: Tensor = self.hidden(pooled).tanh()
        return features

    def forward(self, images: Tensor) -> object:
        return self.head(input=self.body(images))


class Returns(Net):
    """The same classifier with another kind of output."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> object:
        logits = self.head(self.body(images))
        outputs: dict[str, object] = {
            "object": SimpleNamespace(logits=logits),
            "tuple": (logits, images),
            "dict": {"out": logits},
            "maps": logits[:, :, None, None],
            "probabilities": logits.softmax(dim=1),
            "single": logits[:, :1],
            "other_head": logits[:, :3],
        }
        return outputs[self.kind]


def make(network: nn.Module) -> Teacher:
    return Teacher(network, channels=3, size=8)


def test_logits_and_features_are_the_networks_own() -> None:
    torch.manual_seed(0)
    network = Net()
    teacher = make(network)
    images = torch.randn(3, 3, 8, 8)
    logits, features = teacher(images)
    assert torch.equal(features, network.body(images))
    assert torch.equal(logits, network(images))
    assert (teacher.num_classes, teacher.feature_width, teacher.batch_norms) == (4, 6, ["norm"])


@pytest.mark.parametrize(("name", "width"), [("lenet5", 120), ("lenet5_half", 60)])
def test_lenet_features_are_the_activations_dafl_penalises(name: str, width: int) -> None:
    network = build_model(name, num_classes=10, channels=1, size=32)
    teacher = Teacher(network, channels=1, size=32)
    images = torch.randn(2, 1, 32, 32)
    assert teacher.feature_width == width
    assert torch.equal(teacher(images)[1], network.get_submodule("features")(images))
    assert teacher(images)[1].min() == 0


def test_hinton_features_are_the_last_hidden_vector() -> None:
    network = build_model("hinton800", num_classes=10, channels=1, size=8)
    teacher = Teacher(network, channels=1, size=8)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(teacher(images)[1], network.get_submodule("layers")(images))


def test_one_call_runs_the_network_once() -> None:
    network = Net()
    teacher = make(network)
    runs: list[int] = []
    network.conv.register_forward_hook(lambda *_: runs.append(1))
    teacher(torch.randn(2, 3, 8, 8))
    assert len(runs) == 1


def test_the_teacher_stays_as_it_was_and_gradients_reach_the_images() -> None:
    network = Net()
    network.norm.running_mean = torch.randn(5)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    teacher = make(network).train()
    wrapper = nn.ModuleList([teacher]).train()
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    logits, features = teacher(images)
    (logits.sum() + features.square().sum()).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(tensor.grad is None for tensor in teacher.parameters())
    assert not any(tensor.requires_grad for tensor in teacher.parameters())
    assert wrapper.training and not any(module.training for module in teacher.modules())
    for key, value in network.state_dict().items():
        assert value.contiguous().numpy().tobytes() == before[key].numpy().tobytes(), key


def test_features_carry_their_own_gradient() -> None:
    network = Net()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    make(network)(images)[1].sum().backward()
    direct = images.detach().clone().requires_grad_()
    network.body(direct).sum().backward()
    assert images.grad is not None and direct.grad is not None
    torch.testing.assert_close(images.grad, direct.grad)


def test_no_graph_is_kept_after_a_forward() -> None:
    network = Net()
    teacher, other = make(network), make(network)
    logits, features = teacher(torch.randn(2, 3, 8, 8, requires_grad=True))
    network(torch.randn(2, 3, 8, 8, requires_grad=True))
    alive = weakref.ref(features)
    del logits, features
    gc.collect()
    assert alive() is None
    held = [value for tap in (teacher, other) for value in vars(tap.tap).values()]
    assert not any(isinstance(value, Tensor) for value in held)


def test_a_trial_run_leaves_the_random_state_alone() -> None:
    network = Net()
    state = torch.get_rng_state()
    make(network)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_deep_copy_is_independent() -> None:
    teacher = make(Net())
    clone = copy.deepcopy(teacher)
    with torch.no_grad():
        for tensor in clone.network.get_submodule("hidden").parameters():
            tensor.zero_()
    images = torch.randn(2, 3, 8, 8)
    assert clone(images)[1].abs().sum() == 0
    assert teacher(images)[1].abs().sum() > 0


def test_compiled_teacher_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    teacher = make(Net())
    # fullgraph: a graph break would raise, so the hook is inside the compiled graph.
    compiled = torch.compile(teacher, backend="aot_eager", fullgraph=True)
    gradients = []
    images = torch.randn(3, 3, 8, 8)
    for _ in range(2):
        for run in (teacher, compiled):
            x = images.clone().requires_grad_()
            logits, features = run(x)
            (logits.square().sum() + features.sum()).backward()
            assert x.grad is not None
            gradients.append((logits.detach(), features.detach(), x.grad))
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])
    assert teacher.tap.held is None


def test_logits_of_an_output_object_are_found() -> None:
    network = Returns("object")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(make(network)(images)[0], network.head(network.body(images)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tuple", "returns a tuple; return the logits \\[B, C\\] as one tensor"),
        ("dict", "returns a dict; return the logits"),
        ("maps", "returns a tensor \\[2, 4, 1, 1\\]"),
        ("probabilities", "returns probabilities; remove its softmax"),
        ("single", "gives 1 logit"),
        ("other_head", "'head' gives 4 values but the teacher 3 logits"),
    ],
)
def test_unusable_outputs_are_refused(kind: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(Returns(kind))


def test_a_network_without_a_linear_head_must_name_its_feature_layer() -> None:
    class Convolutional(nn.Sequential):
        feature_layer: str | None = None

    layers = (nn.Conv2d(3, 5, 7), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.Flatten())
    with pytest.raises(UsageError, match="no linear layer that runs; end it in nn.Linear"):
        make(Convolutional(*layers))
    Convolutional.feature_layer = "2"
    network = Convolutional(*layers)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(make(network)(images)[1], network[:2](images).flatten(1))
    Convolutional.feature_layer = "head"
    with pytest.raises(UsageError, match="'head' is no module"):
        make(Convolutional(*layers))


def test_the_head_may_be_a_convolution_of_one_pixel() -> None:
    layers = (nn.Conv2d(3, 5, 5), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(*layers)
    images = torch.randn(2, 3, 8, 8)
    logits, features = make(network)(images)
    assert features.shape == (2, 5)
    assert torch.allclose(features, network[:2](images).mean((2, 3)))
    weight, bias = network.get_parameter("2.weight"), network.get_parameter("2.bias")
    assert torch.allclose(logits, features @ weight.flatten(1).T + bias, atol=1e-6)


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 28)])
def test_a_network_for_other_images_is_refused(channels: int, size: int) -> None:
    network = build_model("lenet5", num_classes=10, channels=3, size=32)
    with pytest.raises(UsageError, match="rejects images .* check the channels and the size"):
        Teacher(network, channels=channels, size=size)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"takes images \[B, 3, 8, 8\], got \[2, 3, 9, 9\]"):
        make(Net())(torch.zeros(2, 3, 9, 9))


def test_batch_norms_without_running_statistics_are_not_listed() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.Flatten(),
        nn.BatchNorm1d(192),
        nn.Linear(192, 4),
    )
    assert make(network).batch_norms == ["0", "3"]
