"""What a generator consists of: its published sizes, and configurations that cannot be built."""

from typing import Any

import pytest
from pydantic import ValidationError

from raykd.generators import GeneratorConfig, member_parameters
from tests.generators.plain import PlainGenerator, PlainLsgdfd, as_member


def test_published_sizes() -> None:
    dcgan = GeneratorConfig(architecture="dcgan", latent_dim=100)
    assert member_parameters(dcgan, 1, 32) == 1049985 - 128 - 64  # without the biases that do nothing
    for upsamplings, size in ((2, 32), (4, 128)):
        ours = GeneratorConfig(latent_dim=512, upsamplings=upsamplings)
        plain = PlainLsgdfd(512, 3, size, upsamplings=upsamplings)
        published = as_member(plain, lambda tensor: tensor if tensor.requires_grad else None)
        assert member_parameters(ours, 3, size) == sum(tensor.numel() for tensor in published.values())
    assert member_parameters(dcgan, 3, 32) == sum(
        tensor.numel()
        for name, tensor in as_member(PlainGenerator(100, 3, 32)).items()
        if not name.split(".")[1].startswith("running")
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "dcgan", "upsamplings": 3}, "dcgan has upsamplings=2, not 3"),
        ({"architecture": "dcgan", "width": 7}, "even width, not 7"),
        ({"width": 3, "upsamplings": 4}, "no maps after 4"),
    ],
)
def test_configurations_that_cannot_be_built(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GeneratorConfig.model_validate(fields)
