"""A student takes images as people have them, and says what it wants where it does not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raykd.errors import UsageError
from raykd.models.student import Student
from raykd.spec import DataSpec

SPEC = DataSpec("made", 3, 3, 4, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), ("a", "b", "c"))
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    return Student(nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 3)), SPEC)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        torch.from_numpy(IMAGES),
        IMAGES.transpose(0, 3, 1, 2),
        IMAGES / 255,
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255,
    ],
)
def test_every_layout_is_normalised_as_its_network_wants(student: Student, images: Any) -> None:
    found = student.classify(images)
    unit = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    expected = student(SPEC.normalise(unit)).softmax(1)
    torch.testing.assert_close(found.probabilities, expected)
    assert found.classes.tolist() == expected.argmax(1).tolist()
    assert found.names == ["abc"[i] for i in found.classes.tolist()]
    assert not found.probabilities.requires_grad


def test_grey_images_need_no_axis_of_channels() -> None:
    grey = Student(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), DataSpec("grey", 2, 1, 4, (0.5,), (0.5,)))
    found = grey.classify(IMAGES[..., 0])
    assert torch.equal(found.probabilities, grey.classify(IMAGES[..., :1]).probabilities)
    assert found.names == [str(i) for i in found.classes.tolist()], "without names, the numbers"


@pytest.mark.parametrize(
    "images",
    [IMAGES[:, :3], IMAGES[..., :1], IMAGES[0], IMAGES[:0], IMAGES.astype(int), IMAGES * 1.0, IMAGES / 255 - 0.5],
)
def test_other_images_are_refused_with_what_is_wanted(student: Student, images: Any) -> None:
    with pytest.raises(UsageError, match=r"takes images of 3 x 4 x 4, uint8 or floats in \[0, 1\].*resize and scale"):
        student.classify(images)


def test_a_student_of_padded_images_pads_them_itself() -> None:
    torch.manual_seed(0)
    padded = replace(SPEC, size=6, pad=1)
    student = Student(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), padded)
    unit = F.pad(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255, (1, 1, 1, 1))
    expected = student(padded.normalise(unit)).softmax(1)
    torch.testing.assert_close(student.classify(IMAGES).probabilities, expected)
    with pytest.raises(UsageError, match="takes images of 3 x 4 x 4"):
        student.classify(unit)
