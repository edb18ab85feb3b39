"""Where a step runs."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Site:
    """Device, and a folder for whatever the step makes.

    On a CPU everything is small: there the steps are only rehearsed, and their figures mean nothing.
    """

    device: str
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Tell whether the device is a GPU."""
        return self.device != "cpu"

    @property
    def small(self) -> bool:
        """Tell whether shapes are shrunk."""
        return not self.on_gpu

    @property
    def data(self) -> Path:
        """Return the folder of data sets and teachers."""
        return Path(os.environ["RAYKD_DATA"])

    def wait(self) -> None:
        """Wait until the device has done all it was told."""
        if self.on_gpu:
            torch.cuda.synchronize()
