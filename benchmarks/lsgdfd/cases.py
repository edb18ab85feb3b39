"""What is measured: a number of generators, and ways to compute their step."""

from dataclasses import dataclass

from raykd.config.runtime import Compile, Precision

SIZE, CHANNELS, LATENT_DIM, WIDTH = 32, 3, 100, 128
TEACHER = "resnet18"
LR = 1e-3
MOMENT_WEIGHT, TV_WEIGHT, L2_WEIGHT = 1.0, 0.096, 2.4e-4
SEED = 0


def images_per_member(members: int) -> int:
    """Return how many images each generator makes in a step unless told: about 80 in all, at least one each."""
    return max(1, 80 // members)


@dataclass(frozen=True)
class Rung:
    """One way to compute the step; ``ours``: raykd's method; ``split``: the obvious way with the classes cut at once.

    A slice per class has a backward that fills and adds a tensor of the whole size; a split has one for all classes.
    """

    title: str
    ours: bool = True
    split: bool = False
    compile: Compile = "off"
    precision: Precision = "fp32"


RUNGS = {
    "obvious": Rung("a module, an optimizer and a slice of the maps per class", ours=False),
    "split": Rung("the same, maps split once instead of sliced", ours=False, split=True),
    "raykd": Rung("raykd's method, eager"),
    "raykd_compiled": Rung("raykd's method, compiled", compile="on"),
    "raykd_bf16": Rung("option: compiled, bfloat16", compile="on", precision="bf16"),
}
