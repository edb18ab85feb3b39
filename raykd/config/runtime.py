"""How the arithmetic of a run is done on its machine."""

from typing import Literal

from pydantic import Field

from raykd.config.base import Config

Precision = Literal["fp32", "tf32", "bf16"]
Compile = Literal["auto", "on", "off", "graphs"]


class Runtime(Config):
    """How the arithmetic runs; never changes what is computed beyond rounding, so not in a recipe."""

    precision: Precision = Field(
        default="fp32",
        description="bf16: bfloat16 where it is safe; tf32: float32 whose products keep 10 bits, on GPUs that have it; "
        "fp32: as torch is set, by itself TF32 in a GPU's convolutions alone",
    )
    compile: Compile = Field(
        default="auto",
        description="torch.compile; auto = where the run is long enough to repay it; graphs = and kept as CUDA graphs, "
        "for small networks, whose kernels a GPU ends sooner than the host orders them",
    )
    threads: int | None = Field(default=None, gt=0, description="CPU threads of one worker")
    teacher_logits: Literal["cached", "live"] = Field(
        default="cached",
        description="of a fixed teacher on fixed images without augmentation: computed once for all runs of the store, "
        "or in every step",
    )
    wave: int | None = Field(
        default=None, gt=0, description="generators that a worker trains at once; default: what fits its memory"
    )
    bank: Literal["auto", "copy", "exchange"] = Field(
        default="auto",
        description="a bank of several workers: copy = all generators on each, exchange = each its classes, images "
        "travel; auto = copy where it fits",
    )
