"""A bank against as many separate plain generators."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from raykd.config.optim import Adam
from raykd.errors import UsageError
from raykd.generators import EVERY, Dcgan, GeneratorBank, GeneratorConfig
from raykd.generators.upsampling import upsampled_conv3x3
from tests.generators.plain import PlainGenerator, PlainLsgdfd, as_member

Z, B, SIZE, CHANNELS = 6, 3, 8, 3
CLASSES = (4, 0, 3)
BOTH = ("dcgan", "lsgdfd")


def config(architecture: str = "lsgdfd") -> GeneratorConfig:
    return GeneratorConfig.model_validate({"architecture": architecture, "latent_dim": Z, "width": 8})


def made(
    classes: Sequence[int] = CLASSES,
    architecture: str = "lsgdfd",
    conditions: int = 0,
    chunk_images: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> GeneratorBank:
    """A bank that has seen some batches, so that no tensor is what it started as."""
    bank = GeneratorBank(
        classes, config(architecture), channels=CHANNELS, size=SIZE, conditions=conditions, chunk_images=chunk_images
    )
    bank.initialise(1)
    bank.to(dtype)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
        bank(torch.randn(len(bank.classes), B, Z + conditions, generator=rng, dtype=dtype))
    return bank


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def plains(bank: GeneratorBank) -> list[nn.Module]:
    """The bank's members as modules of their own."""
    modules: list[nn.Module] = []
    for cls in bank.classes:
        kind = PlainGenerator if bank.config.architecture == "dcgan" else PlainLsgdfd
        plain = kind(Z + bank.conditions, CHANNELS, SIZE, bank.config.width).double()
        state, targets = bank.member_state(cls), as_member(plain)
        assert state.keys() == targets.keys()
        with torch.no_grad():
            for name, tensor in targets.items():
                tensor.copy_(state[name])
            if isinstance(plain, PlainGenerator):
                # Biases before a BatchNorm move nothing but its running mean, which a bank takes without them.
                for dead in ("conv_blocks1.0.bias", "conv_blocks2.0.bias"):
                    plain.get_parameter(dead).zero_().requires_grad_(False)
        modules.append(plain.train(bank.training))
    return modules


def assert_members(bank: GeneratorBank, modules: Sequence[nn.Module]) -> None:
    for cls, plain in zip(bank.classes, modules, strict=True):
        torch.testing.assert_close(bank.member_state(cls), as_member(plain, lambda tensor: tensor.detach()))


@pytest.fixture(params=[False, True], ids=["eager", "compiling"])
def compiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take both ways through the code, without the wait for a compiler."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("chunk_images", [None, 1, 2 * B])
@pytest.mark.parametrize("architecture", BOTH)
def test_images_gradients_and_running_statistics_are_those_of_separate_modules(
    architecture: str, chunk_images: int | None
) -> None:
    bank = made(architecture=architecture, chunk_images=chunk_images)
    modules, z = plains(bank), noise(3, B, Z)
    images = bank(z)
    expected = torch.cat([plain(rows) for plain, rows in zip(modules, z, strict=True)])
    torch.testing.assert_close(images, expected)
    cotangent = noise(*images.shape)
    (images * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    for row, plain in enumerate(modules):
        grads = {name: p.grad[row] for name, p in bank.named_parameters() if p.grad is not None}
        torch.testing.assert_close(grads, as_member(plain, lambda tensor: tensor.grad))
    assert_members(bank, modules)


@pytest.mark.parametrize("architecture", BOTH)
def test_one_optimizer_trains_as_many(architecture: str) -> None:
    bank = made(architecture=architecture, chunk_images=B)
    modules = plains(bank)
    one = Adam(name="adam", lr=1e-2).build(bank.parameters())
    many = [torch.optim.Adam(plain.parameters(), lr=1e-2) for plain in modules]
    for step in range(4):
        z = noise(4, 3, B, Z)[step]
        one.zero_grad()
        bank(z).sin().sum().backward()
        one.step()
        for plain, rows, optimizer in zip(modules, z, many, strict=True):
            optimizer.zero_grad()
            plain(rows).sin().sum().backward()
            optimizer.step()
    assert_members(bank, modules)


@pytest.mark.parametrize("chunk_images", [None, 2, 1000])
def test_evaluation_gives_each_row_the_image_of_its_class_in_any_company(chunk_images: int | None) -> None:
    bank = made((4, 0, 3, 7, 2, 9), chunk_images=chunk_images).eval()
    modules = dict(zip(bank.classes, plains(bank), strict=True))
    labels = torch.tensor([3, 3, 4, 3, 0, 9, 2, 3, 4, 3, 2])  # 7 is absent; equal counts are not neighbours
    z = noise(len(labels), Z)
    with torch.no_grad():
        images = bank.mixed(z, labels)
        rows = [modules[int(label)](z[row : row + 1]) for row, label in enumerate(labels)]
        torch.testing.assert_close(images, torch.cat(rows))
        torch.testing.assert_close(bank.mixed(z[4:6], labels[4:6]), images[4:6])
        assert bank.mixed(z[:0], labels[:0]).shape == (0, CHANNELS, SIZE, SIZE)
        whole = torch.stack([z[0:2]] * len(bank.classes))
        torch.testing.assert_close(bank(whole)[4:6], bank.mixed(z[0:2], torch.tensor([3, 3])))


@pytest.mark.parametrize("chunk_images", [None, 4])
@pytest.mark.parametrize("classes", [CLASSES, (EVERY,)])
def test_evaluation_makes_few_images_at_a_time(
    classes: tuple[int, ...], chunk_images: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = []

    def recorded(images: Tensor, weight: Tensor) -> Tensor:
        at_once.append(images.shape[0] * images.shape[1])
        return upsampled_conv3x3(images, weight)

    bank = made(classes, chunk_images=chunk_images).eval()
    monkeypatch.setattr("raykd.generators.bank._AT_ONCE", {"cpu": 4})
    monkeypatch.setattr("raykd.generators.bank.upsampled_conv3x3", recorded)
    bank.mixed(noise(23, Z), torch.tensor([0, 3] * 3 + [4] * 17))
    assert max(at_once) == 4
    assert sum(at_once) == 2 * 23  # two convolutions each


def test_training_in_any_order_is_that_in_the_order_of_members() -> None:
    bank, other = made(), made()
    labels = torch.tensor([3, 4, 4, 0, 3, 0])
    z = noise(6, Z)
    images = bank.mixed(z, labels)
    stacked = other(torch.stack([z[[1, 2]], z[[3, 5]], z[[0, 4]]]))
    torch.testing.assert_close(images[[1, 2, 3, 5, 0, 4]], stacked)
    torch.testing.assert_close(bank.state_dict(), other.state_dict())
    with pytest.raises(UsageError, match="equally many images, not 1 to 2"):
        bank.mixed(z[:5], labels[:5])
    with pytest.raises(UsageError, match="equally many images, not 0 to 2"):
        bank.mixed(z[:2], labels[1:3])


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_of_one_class_moves_its_member_only(training: bool) -> None:
    bank = made().train(training)
    labels = torch.tensor([0, 3, 4, 3, 4, 0])
    images = bank.mixed(noise(6, Z), labels)
    (images[labels == 3] ** 3).sum().backward()
    for name, parameter in bank.named_parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().amax(1) > 0
        assert moved.tolist() == [False, False, True], name


def test_members_travel_between_banks() -> None:
    whole = made()
    parts = [GeneratorBank(classes, config(), channels=CHANNELS, size=SIZE) for classes in ((0,), (3, 4))]
    for part in parts:
        part.double()
        for cls in part.classes:
            part.load_member(cls, whole.member_state(cls))
    merged = GeneratorBank(CLASSES, config(), channels=CHANNELS, size=SIZE).double()
    for part in parts:
        for cls in part.classes:
            merged.load_member(cls, part.member_state(cls))
    torch.testing.assert_close(merged.state_dict(), whole.state_dict(), rtol=0, atol=0)
    state = whole.member_state(3)
    state["conv1.weight"].zero_()
    assert whole.get_parameter("conv1.weight")[2].abs().max() > 0  # it was a copy


def test_a_published_dcgan_takes_a_members_state() -> None:
    bank = made(architecture="dcgan")
    single = Dcgan(Z, CHANNELS, SIZE, 8).double()
    keys = single.load_state_dict(bank.member_state(3), strict=False)
    assert set(keys.missing_keys) == {"conv1.bias", "conv2.bias"}
    assert all("running_" in key for key in keys.unexpected_keys)
    z = noise(3, B, Z)
    torch.testing.assert_close(bank(z)[2 * B :], single(z[2]))


def test_members_start_alike_however_they_are_dealt() -> None:
    whole, part, other = (
        GeneratorBank(classes, config("dcgan"), channels=CHANNELS, size=SIZE) for classes in (CLASSES, (3,), CLASSES)
    )
    for bank, seed in ((whole, 7), (part, 7), (other, 8)):
        bank.initialise(seed)
    torch.testing.assert_close(whole.member_state(3), part.member_state(3), rtol=0, atol=0)
    for name in ("project.weight", "project.bias", "conv1.weight", "conv3.weight", "conv3.bias"):
        rows = [bank.get_parameter(name)[row] for bank in (whole, other) for row in range(3)]
        assert len({float(row.detach().flatten()[0]) for row in rows}) == 6
        # Uniform up to 1 / sqrt(inputs), as torch starts linear layers and convolutions.
        inputs = {"project": Z, "conv1": 8 * 9, "conv3": 4 * 9}[name.split(".")[0]]
        largest = float(torch.stack(rows).detach().abs().max()) * inputs**0.5
        assert 0.8 < largest <= 1
    made_once = made((3,))
    made_once.initialise(7)
    fresh = GeneratorBank((3,), config(), channels=CHANNELS, size=SIZE)
    fresh.initialise(7)
    torch.testing.assert_close(made_once.float().state_dict(), fresh.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("conditions", [0, 5])
def test_one_generator_for_every_class(conditions: int, training: bool) -> None:
    bank = made((EVERY,), conditions=conditions, chunk_images=2).train(training)
    (plain,) = plains(bank)
    labels, z = torch.tensor([4, 0, 1, 1, 3, 2, 0]), noise(7, Z)
    told = torch.cat((z, torch.eye(conditions).double()[labels]), dim=1) if conditions else z
    torch.testing.assert_close(bank.mixed(z, labels), plain(told))


def test_labels_and_weights_that_do_not_belong_are_refused() -> None:
    bank = made().eval()
    for label in (-1, 1, 5):
        with pytest.raises(UsageError, match=rf"makes class {label}; it has the classes 4, 0, 3$"):
            bank.mixed(noise(2, Z), torch.tensor([0, label]))
    with pytest.raises(UsageError, match="makes class 5"):
        bank.member_state(5)
    with pytest.raises(UsageError, match="classes 0 to 4"):
        made((EVERY,), conditions=5).mixed(noise(2, Z), torch.tensor([0, 5]))
    with pytest.raises(UsageError, match=r"norm3.weight is missing, here \(3,\) \(2 tensors differ\)"):
        bank.load_member(3, made(architecture="dcgan").member_state(3))
