"""What a generator consists of: its configuration, the shapes of its tensors and the order of its layers.

    z -> project -> norm0 -> [upsample x2 -> conv_i -> norm_i] for i = 1 ... N -> conv_(N+1) -> tanh -> norm_(N+1)

Symbols: N = upsamplings, Z latent (with the one-hot class, where there is one), C channels, s = size / 2^N the first
size. ``norm`` is BatchNorm and, inside, LeakyReLU(0.2). Two published generators have this form:

* dcgan: DAFL (Chen et al. 2019, arXiv 1904.01186), as `raykd.generators.Dcgan`. N = 2; maps width, width, width / 2;
  no activation after norm0; the last norm has neither scale nor centre.
* lsgdfd: LS-GDFD (Luo et al. 2020, arXiv 2012.05578), after its released code. Maps width, then width // i after
  conv_i (128: 128, 64, 42, 32); the projection has no bias; the last norm has a scale but no centre.

Biases of convolutions that a norm follows would have a gradient of exactly zero: there are none.
"""

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from raykd.config.base import Config
from raykd.errors import UsageError
from raykd.generators.output import STANDARDISED, Output

_SLOPE = 0.2
_FIRST_EPS = 1e-5
_INNER_EPS = 0.8
"""Of the norms after convolutions: a momentum that was passed as eps in DAFL's code, kept by both papers."""


class GeneratorConfig(Config):
    """Which generator, and how large."""

    architecture: Literal["dcgan", "lsgdfd"] = Field(default="lsgdfd", description="DAFL's or LS-GDFD's")
    latent_dim: int = Field(default=100, gt=0, description="numbers of noise per image")
    width: int = Field(default=128, gt=0, description="first feature maps; later ones follow from it")
    upsamplings: int = Field(default=2, gt=0, description="doublings of the size; the first maps are size / 2^N")

    @model_validator(mode="after")
    def _buildable(self) -> "GeneratorConfig":
        if self.architecture == "dcgan" and self.upsamplings != 2:
            raise ValueError(f"dcgan has upsamplings=2, not {self.upsamplings}; for others use architecture=lsgdfd")
        if self.architecture == "dcgan" and self.width % 2:
            raise ValueError(f"dcgan needs an even width, not {self.width}")
        if self.width < self.upsamplings:
            raise ValueError(f"a width of {self.width} leaves no maps after {self.upsamplings} upsamplings; widen it")
        return self


class Norm(NamedTuple):
    """A BatchNorm and its activation: ``slope`` of the LeakyReLU, None for none."""

    width: int
    eps: float
    slope: float | None
    scale: bool = True
    centre: bool = True


class Architecture:
    """The layers of one generator.

    Attributes:
        first_size: s.
        widths: feature maps after norm0, norm1, ..., norm_N.
        norms: norm0 to norm_(N+1).
        shapes: of all parameters of one generator by name, e.g. ``conv1.weight``, in order of execution.
        statistics: shapes of the running statistics by name, e.g. ``norm0.running_mean``.
    """

    def __init__(
        self, config: GeneratorConfig, channels: int, size: int, conditions: int = 0, output: Output = STANDARDISED
    ) -> None:
        """Lay it out for images [C, size, size] and ``conditions`` numbers appended to the latent.

        Another ``output`` than the published one has parameters of its own, and the last norm then has none.

        Raises:
            UsageError: if the size does not divide.
        """
        parts = 1 << config.upsamplings
        if size % parts:
            raise UsageError(
                f"a generator with {config.upsamplings} upsamplings makes images whose size is divisible by {parts}, "
                f"not {size}; change generator.upsamplings or the size of the data"
            )
        self.channels, self.size, self.first_size = channels, size, size // parts
        self.upsamplings = config.upsamplings
        inner, dcgan = range(1, config.upsamplings + 1), config.architecture == "dcgan"
        self.widths = (config.width, *(config.width // i for i in inner))
        first = Norm(config.width, _FIRST_EPS, None if dcgan else _SLOPE)
        last = Norm(
            channels, _FIRST_EPS if dcgan else _INNER_EPS, None, scale=not dcgan and not output.learns, centre=False
        )
        self.norms = (first, *(Norm(self.widths[i], _INNER_EPS, _SLOPE) for i in inner), last)
        outputs = config.width * self.first_size**2
        self.shapes: dict[str, tuple[int, ...]] = {"project.weight": (outputs, config.latent_dim + conditions)}
        if dcgan:
            self.shapes["project.bias"] = (outputs,)
        self.statistics: dict[str, tuple[int, ...]] = {}
        self._add_norm(0)
        for i in (*inner, config.upsamplings + 1):
            self.shapes[f"conv{i}.weight"] = (self.norms[i].width, self.widths[i - 1], 3, 3)
            if i not in inner:
                self.shapes[f"conv{i}.bias"] = (channels,)
            self._add_norm(i)
        if output.learns:
            self.shapes |= {"output.centre": (channels,), "output.scale": (channels,)}

    def _add_norm(self, i: int) -> None:
        norm = self.norms[i]
        if norm.scale:
            self.shapes[f"norm{i}.weight"] = (norm.width,)
        if norm.centre:
            self.shapes[f"norm{i}.bias"] = (norm.width,)
        self.statistics[f"norm{i}.running_mean"] = self.statistics[f"norm{i}.running_var"] = (norm.width,)
