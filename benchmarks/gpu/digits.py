"""Handwritten digits where scikit-learn is not installed: its file travels with the kit."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

FILE = "digits.csv.gz"


def lend_digits(folder: Path) -> None:
    """Let ``sklearn.datasets.load_digits`` read the file of ``folder`` in this process, if there is no scikit-learn."""
    if find_spec("sklearn") is not None:
        return

    def load_digits() -> SimpleNamespace:
        rows = np.loadtxt(folder / FILE, delimiter=",")
        return SimpleNamespace(images=rows[:, :-1].reshape(-1, 8, 8), target=rows[:, -1].astype(int))

    names = ("sklearn", "sklearn.datasets")
    # With a spec: torch's compiler asks every package for one that it knows by name.
    modules: list[Any] = [module_from_spec(ModuleSpec(name, None)) for name in names]
    modules[1].load_digits = load_digits
    modules[0].datasets = modules[1]
    sys.modules |= dict(zip(names, modules, strict=True))
