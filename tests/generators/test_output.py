"""What generators give: the published output for standardised data, else pixels that there can be."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from raykd.data.datasets import DATASETS
from raykd.generators import (
    EVERY,
    Dcgan,
    GeneratorBank,
    GeneratorConfig,
    Kind,
    Output,
    OutputRange,
    UnitGenerator,
    choose_output,
    outside_share,
)
from raykd.spec import DataSpec

Z, B, WIDTH, SIZE = 6, 16, 8, 8
UNIT = DataSpec("plain pixels", 2, 3, SIZE, (0.0,) * 3, (1.0,) * 3)
BYTES = replace(UNIT, std=(1 / 255,) * 3)
HALF = replace(UNIT, mean=(0.5,) * 3, std=(0.5,) * 3)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def wild(network: nn.Module) -> nn.Module:
    """The same with parameters that would lead far away."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=3)
    return network


@pytest.mark.parametrize("spec", DATASETS.values(), ids=list(DATASETS))
def test_known_sets_keep_the_published_output(spec: DataSpec) -> None:
    assert choose_output(spec).kind == "standardised"
    assert outside_share(spec) < 0.35


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (HALF, "standardised"),
        (UNIT, "pixels"),
        (BYTES, "pixels"),
        (replace(UNIT, mean=(0.5,) * 3), "pixels"),
        (replace(HALF, normalisation_known=False), "learned"),
    ],
)
def test_others_keep_to_what_is_known_of_the_range(spec: DataSpec, kind: str) -> None:
    assert choose_output(spec).kind == kind
    for choice in ("standardised", "pixels", "learned"):
        assert choose_output(spec, choice).kind == choice


def test_the_share_outside_is_that_of_drawn_pixels() -> None:
    spec = replace(UNIT, mean=(0.1, 0.3, 0.5), std=(0.3, 0.3, 0.2))
    pixels = spec.denormalise(noise(200, 3, 64, 64))
    assert outside_share(spec) == pytest.approx(((pixels < 0) | (pixels > 1)).float().mean().item(), abs=2e-3)


@pytest.mark.parametrize("spec", [UNIT, BYTES, HALF], ids=["unit", "bytes", "half"])
@pytest.mark.parametrize("kind", ["dcgan", "bank", "bank of one", "mosaic"])
def test_every_generator_keeps_to_the_range_of_pixels(spec: DataSpec, kind: str) -> None:
    output = choose_output(spec, "pixels")
    with torch.no_grad():
        if kind == "dcgan":
            images = wild(Dcgan(Z, 3, SIZE, WIDTH, output))(noise(B, Z))
        elif kind == "mosaic":
            images = wild(UnitGenerator(Z, SIZE, spec.mean, spec.std, (WIDTH, WIDTH // 2, WIDTH // 4)))(noise(B, Z))
        else:
            classes, conditions = ((EVERY,), 2) if kind == "bank of one" else ((0, 1), 0)
            bank = GeneratorBank(
                classes, GeneratorConfig(latent_dim=Z, width=WIDTH), channels=3, size=SIZE, conditions=conditions,
                output=output,
            )  # fmt: skip
            bank.initialise(0)
            wild(bank)
            images = bank(noise(len(classes), B, Z + conditions))
            images = torch.cat([images, bank.eval().mixed(noise(4, Z), torch.tensor([0, 1, 1, 0]))])
    unit = spec.denormalise(images)
    assert unit.min() >= -1e-4
    assert unit.max() <= 1 + 1e-4


def test_it_begins_with_pixels_of_all_levels_and_can_move() -> None:
    torch.manual_seed(0)
    generator = Dcgan(Z, 3, SIZE, WIDTH, choose_output(UNIT))
    images = generator(noise(256, Z))
    assert images.mean().item() == pytest.approx(0.5, abs=0.05)
    assert 0.2 < images.std() < 0.35
    images.sum().backward()
    for name in ("centre", "scale", "conv3.weight"):
        gradient = generator.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_a_learned_output_begins_as_the_published_one_and_can_leave_it() -> None:
    torch.manual_seed(0)
    learned = Dcgan(Z, 1, SIZE, WIDTH, Output("learned"))
    torch.manual_seed(0)
    published = Dcgan(Z, 1, SIZE, WIDTH)
    assert learned.state_dict().keys() - published.state_dict().keys() == {"centre", "scale"}
    z = noise(B, Z)
    torch.testing.assert_close(learned(z), published(z))
    with torch.no_grad():
        learned.get_parameter("centre").fill_(0.5)
        learned.get_parameter("scale").fill_(50.0)
    torch.testing.assert_close(learned(z), math.tanh(0.5) + 1.25 * published(z))


def test_mosaics_normalisation_is_learned_where_nobody_knows_it() -> None:
    torch.manual_seed(0)
    generator = UnitGenerator(Z, SIZE, HALF.mean, HALF.std, (WIDTH, WIDTH // 2, WIDTH // 4), output=Output("learned"))
    torch.manual_seed(0)
    published = UnitGenerator(Z, SIZE, HALF.mean, HALF.std, (WIDTH, WIDTH // 2, WIDTH // 4))
    images = generator(noise(B, Z))
    torch.testing.assert_close(images, published(noise(B, Z)))
    images.sum().backward()
    assert all(generator.get_parameter(f"output_{name}").grad is not None for name in ("centre", "scale"))


@pytest.mark.parametrize("architecture", ["dcgan", "lsgdfd"])
@pytest.mark.parametrize("kind", ["pixels", "learned"])
def test_members_of_a_bank_have_an_output_each(architecture: Literal["dcgan", "lsgdfd"], kind: Kind) -> None:
    config = GeneratorConfig(architecture=architecture, latent_dim=Z, width=WIDTH)
    bank, other = (
        GeneratorBank((0, 1), config, channels=3, size=SIZE, output=Output.of(kind, UNIT.mean, UNIT.std))
        for _ in range(2)
    )
    for one in (bank, other):
        one.initialise(0)
    with torch.no_grad():
        bank.get_parameter("output.centre")[1] = 0.5
    z = noise(2, B, Z)
    images, plain = bank(z), other(z)
    assert torch.equal(images[:B], plain[:B])
    assert (images[B:] > plain[B:]).all()
    images.sum().backward()
    for name in ("centre", "scale"):
        gradient = bank.get_parameter(f"output.{name}").grad
        assert gradient is not None
        assert gradient.shape == (2, 3)
    other.load_member(1, bank.member_state(1))
    torch.testing.assert_close(other(z), images)


@pytest.mark.parametrize("choice", ["standardised", "learned"])
def test_a_choice_of_the_recipe_counts(choice: OutputRange) -> None:
    output = choose_output(UNIT, choice)
    y, zero = torch.full((1, 3, 1, 1), -3.0), torch.zeros(3, 1, 1)
    torch.testing.assert_close(output(y, zero, zero) if output.learns else output(y), y)
