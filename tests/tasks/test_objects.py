"""Networks and images in memory: where a method wants them, and what makes another run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import raykd
from raykd.errors import UsageError
from raykd.store.run_directory import RunDirectory
from tests.test_api import Own, network, options, pair, trained

pytestmark = pytest.mark.usefixtures("bare_place")


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """What torchvision's ToTensor leaves."""

    classes = tuple("abcdefghij")

    def __init__(self, pixels: Any, labels: Any) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= len(self):
            raise IndexError
        return torch.from_numpy(self.pixels[index])[None].float() / 255, int(self.labels[index])


def test_a_class_that_makes_another_network_is_not_taken_for_it() -> None:
    result = trained(teacher=Own(width=24), student=Own())
    assert result.directory is not None
    recipe = RunDirectory(Path(result.directory)).experiment().recipe
    assert recipe.teacher is not None and str(recipe.teacher.factory).startswith("in-memory:")


def test_other_weights_or_images_are_another_run() -> None:
    first = trained()
    assert trained().run == first.run
    assert trained(teacher=network(32, seed=1)).run != first.run
    assert trained(data=pair(seed=1)).run != first.run
    assert trained(seed=1).run == first.run.replace("-s0", "-s1")


def test_images_are_where_the_method_wants_them() -> None:
    free = trained()
    assert [role for role, sets in free.data_opened.items() if sets] == ["test"]
    shown = raykd.train("kd_digits", **options())
    assert [role for role, sets in shown.data_opened.items() if sets] == ["train"]
    assert shown.student.top1 is None
    both = raykd.train("kd_digits", **options(data={"train": pair(), "test": Pictures(*pair(20, seed=1))}))
    assert [role for role, sets in both.data_opened.items() if sets] == ["train", "test"]
    assert both.student.top1 is not None
    assert raykd.load(both, student=network()).classify(pair()[0]).names[0] in Pictures.classes
    others = raykd.train("mosaickd_mnist", **options(ood=pair(60, seed=2)))
    assert [role for role, sets in others.data_opened.items() if sets] == ["ood", "test"]
    with pytest.raises(UsageError, match=r"data in memory has the splits \['valid'\]"):
        trained(data={"valid": pair()})
    with pytest.raises(UsageError, match="object store: give out=FOLDER"):
        trained(out="s3://bucket/runs")
    with pytest.raises(UsageError, match="student is a int: give a name, a section, or an nn.Module"):
        trained(student=3)
