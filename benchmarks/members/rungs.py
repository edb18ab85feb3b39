"""What is measured: banks of three sizes, and the ways to train one."""

from dataclasses import dataclass

LATENT_DIM, CHANNELS, SIZE = 100, 3, 32


@dataclass(frozen=True)
class Case:
    """``members`` generators that make ``images`` images each in a step."""

    members: int
    images: int
    width: int = 128


CASES = {10: Case(10, 20), 100: Case(100, 2), 250: Case(250, 1, width=48)}


@dataclass(frozen=True)
class Variant:
    """One way to take the step; ``optimizer`` alone, if that is set."""

    about: str
    host: bool = True  # allocator and float32 products as raykd sets them
    stacked: bool = True
    chunk_images: int | None = None
    compiled: bool = False
    precision: str = "fp32"
    optimizer: bool = False


RUNGS = {
    "loop": Variant("loop over modules, an Adam each", host=False, stacked=False),
    "loop_host": Variant("the same, host prepared", stacked=False),
    "eager": Variant("bank, eager"),
    "chunked": Variant("bank, eager, 16 images at a time", chunk_images=16),
    "compiled": Variant("bank, compiled", compiled=True),
    "compiled_bf16": Variant("option: compiled, bfloat16", compiled=True, precision="bf16"),
}
OPTIMIZER_RUNGS = {
    "adams": Variant("an Adam for each module", host=False, stacked=False, optimizer=True),
    "adam": Variant("one fused Adam of stacked tensors", optimizer=True),
}
"""The first of either table is what the others are compared with."""

ALL = {**RUNGS, **OPTIMIZER_RUNGS}
