import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from raykd.errors import UsageError
from raykd.spec import DataSpec

SPEC = DataSpec("rgb", 2, 3, 4, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))


def test_normalise_is_x_minus_mean_over_std_per_channel() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    normalised = SPEC.normalise(images)
    for channel, (mean, std) in enumerate(zip(SPEC.mean, SPEC.std, strict=True)):
        torch.testing.assert_close(normalised[:, channel], (images[:, channel] - mean) / std)


def test_denormalise_undoes_normalise_and_keeps_what_is_outside() -> None:
    images = 3 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 1
    assert images.min() < 0 and images.max() > 1
    torch.testing.assert_close(SPEC.denormalise(SPEC.normalise(images)), images)


def test_normalise_carries_gradients() -> None:
    images = torch.full((1, 3, 1, 1), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(SPEC.normalise(images).sum(), images)
    assert gradient.flatten().tolist() == [2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"std": (0.5, float("nan"), 0.5)}, "must be finite"),
        ({"mean": (0.5, 0.5, float("inf"))}, "must be finite"),
        ({"mean": (0.5,)}, r"mean \[0.5\] has 1 numbers; give one per channel \(3\)"),
        ({"std": (1.0, 0.0, 1.0)}, "must be above 0"),
        ({"pad": 2}, "pad 2 on each side leaves no image in a size of 4, .* give 0 to 1"),
        ({"pad": -1}, "give 0 to 1"),
    ],
)
def test_impossible_specs_are_refused(fields: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "name": "x", "num_classes": 2, "channels": 3, "size": 4,
        "mean": (0.5,) * 3, "std": (0.5,) * 3,
    }  # fmt: skip
    with pytest.raises(UsageError, match=message):
        DataSpec(**(good | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{}, {"pad": 1}, {"normalisation_known": False}, {"class_names": ("a", "b")}])
def test_plain_data_leads_back(fields: dict[str, Any]) -> None:
    spec = replace(SPEC, **fields)
    assert DataSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_what_is_inside_the_padding() -> None:
    assert replace(SPEC, size=32, pad=2).interior == 28
