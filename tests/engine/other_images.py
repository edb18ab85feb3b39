"""A run whose student sees other images than those of its task, which several tests share."""

from pathlib import Path

import numpy as np
import torch

from raykd.data import parquet
from raykd.models import build_model
from raykd.recipe.recipe import Recipe, load_recipe
from raykd.store.checkpoint import save_weights
from raykd.store.workspace import Workspace

CLASSES = 3  # of the other images; the task has ten


def other_images(root: Path, count: int = 9) -> None:
    """Write small images in colour."""
    rng = np.random.default_rng(0)
    records = [(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).tobytes(), row % CLASSES) for row in range(count)]
    about = {"name": "ours", "split": "train", "count": str(count), "shape": "[8, 8, 3]", "encoding": parquet.RAW}
    parquet.write(root / "ours", "train", records, {**about, "classes": '["a", "b", "c"]'})


def made(root: Path, *pairs: str, data: str = "{name: digits, ood: ours, ood_images: 5}") -> Recipe:
    """A short run of a teacher with strong opinions, on digits, whose students see other images."""
    other_images(root)
    torch.manual_seed(0)
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    list(network.parameters())[-2].data.mul_(20)
    save_weights(network.state_dict(), root / "teacher.safetensors")
    teacher = f"teacher={{model: lenet5, weights: {root / 'teacher.safetensors'}}}"
    schedule = "schedule={steps: 4, report_every: 2, global_batch: 32}"
    return load_recipe("blind_kd_mnist", [f"data={data}", teacher, schedule, *pairs])


def workspace(root: Path) -> Workspace:
    return Workspace(root, root / "runs")
