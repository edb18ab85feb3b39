"""Tf-KD_self: a network learns from an earlier run of itself (Yuan et al., CVPR 2020, arXiv 1909.11723, eq. 9).

    S <- m alpha T^2 KL(T(x) / T || S(x) / T) + (1 - alpha) CE(S(x), y),    T a frozen, trained copy of S

Symbols as in ``kd``, whose arithmetic it is in both readings; what differs is that the teacher must be the student's
own architecture. The multiplier is the released code's (1 to 100 by model), the paper has none.

Effective weight of the batch-mean KL in the released reading: m alpha T^2 / K, for example 17.1 for ResNet-18 on
CIFAR-100 (alpha 0.95, T 6, m 50).
"""

from collections.abc import Iterable
from typing import Literal

from torch import nn

from raykd.errors import UsageError
from raykd.methods.base import MethodContext
from raykd.methods.kd import Kd, KdConfig
from raykd.methods.signs import Remark, TeacherSigns


class TfkdSelfConfig(KdConfig):
    """The symbols of the equation."""

    name: Literal["tfkd_self"]  # type: ignore[assignment]


class TfkdSelf(Kd):
    """Distillation from a frozen earlier copy of the same network."""

    config = TfkdSelfConfig

    def __init__(self, config: TfkdSelfConfig, context: MethodContext) -> None:
        """Check that the teacher is such a copy.

        Raises:
            UsageError: if its parameters and buffers differ from the student's in name, order or shape.
        """
        teacher = context.networks["teacher"].network
        assert isinstance(teacher, nn.Module), "wrapped by the engine"
        ours, theirs = _shapes(context.networks["student"]), _shapes(teacher)
        if ours != theirs:
            raise UsageError(
                f"the teacher must be an earlier run of the student's own network: it has {_size(theirs)}, the student "
                f"{_size(ours)}; give teacher.recipe a run of the same model, or use another method"
            )
        super().__init__(config, context)

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """Name what the student must be."""
        yield Remark("needs", "a student that is the teacher's own network")


def _shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in network.state_dict().values()]


def _size(shapes: list[tuple[int, ...]]) -> str:
    count = 0
    for shape in shapes:
        product = 1
        for length in shape:
            product *= length
        count += product
    return f"{len(shapes)} tensors of {count:,} values"
