"""raykd: train a small network to stand in for a large one, with or without the large one's data.

``raykd.train("dafl_digits")`` and the other verbs are those of ``raykd.api`` and ``raykd.distillation``, which are
loaded when one is used;
``raykd.cli`` is the way in from a shell. Importing the package loads nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykd.api import (
        evaluate,
        export,
        inspect,
        load,
        ood,
        plan,
        report,
        statistics,
        synthesize,
        table,
        train,
        train_seeds,
        tune,
    )
    from raykd.distillation import distill

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "load",
    "ood",
    "plan",
    "report",
    "statistics",
    "synthesize",
    "table",
    "train",
    "train_seeds",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "distill":
        from raykd import distillation

        return distillation.distill
    from raykd import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
