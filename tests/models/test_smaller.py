"""Students are of the teacher's family, and smaller."""

import pytest

from raykd.models import build_model
from raykd.models.smaller import smaller_model


@pytest.mark.parametrize(
    ("teacher", "channels", "size", "student"),
    [
        ("lenet5", 1, 32, "lenet5_half"),
        ("lenet5_bn", 1, 32, "lenet5_half"),
        ("hinton1200", 1, 28, "hinton800"),
        ("cifar_resnet56", 3, 32, "cifar_resnet32"),
        ("cifar_resnet20", 3, 32, "cifar_resnet8"),
        ("resnet34", 3, 32, "resnet18"),
        ("resnet18", 3, 32, "wrn_16_2"),
        ("wrn_28_1", 3, 32, "wrn_16_1"),
        ("wrn_40_2", 3, 32, "wrn_16_2"),
        ("torchvision/resnet50", 3, 224, "torchvision/resnet18"),
        (None, 3, 32, "wrn_40_2"),
    ],
)
def test_a_student_is_proposed(teacher: str | None, channels: int, size: int, student: str) -> None:
    network = build_model(teacher or "resnet18", num_classes=10, channels=channels, size=size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    found = smaller_model(teacher, parameters, num_classes=10, channels=channels, size=size)
    assert found is not None
    name, count, reason = found
    assert name == student
    own = build_model(name, num_classes=10, channels=channels, size=size)
    assert f" {name}" in reason and "with at most 60% of the teacher's parameters" in reason
    assert count == sum(parameter.numel() for parameter in own.parameters()) < 0.6 * parameters + 1


def test_a_tiny_teacher_gets_the_smallest_that_there_is() -> None:
    found = smaller_model(None, 10, num_classes=10, channels=1, size=32)
    assert found is not None
    assert found.model == "lenet5_half"
    assert "none has far fewer parameters than the teacher" in found.reason
