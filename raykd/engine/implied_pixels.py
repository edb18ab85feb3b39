"""Whether constants of normalisation are a teacher's own, told without an image, by what its BatchNorm remembers."""

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.data.datasets import DATASETS
from raykd.models.input_moments import input_moments
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

_MEANS, _DEVIATIONS = (0.03, 0.8), (0.19, 0.46)
"""What training images' pixels may have, by what BatchNorm remembers of them: see ``ImpliedPixels``."""


@dataclass(frozen=True)
class ImpliedPixels:
    """Mean and standard deviation per channel of the pixels a teacher was trained on, if its constants are right.

    On published CIFAR-10 networks and LeNets of digits, MNIST and Fashion-MNIST, averaged over the channels, the means
    were 0.17 to 0.41 and the deviations 0.23 to 0.43 with the right constants. With 0 and 1 for standardised ones the
    deviations were 1.01 to 1.39, with 0.5 and 0.5 0.50 to 0.69; with standardised ones for 0 and 1 0.10 to 0.13, and
    with 0.5 and 0.5 for 0 and 1 0.16 to 0.18. Constants of another set that differ little are not told apart.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(
        cls, seen: tuple[Sequence[float], Sequence[float]], mean: Sequence[float], std: Sequence[float]
    ) -> "ImpliedPixels":
        """Undo a normalisation of the ``seen`` means and deviations."""
        means = tuple(m * s + shift for m, s, shift in zip(seen[0], std, mean, strict=True))
        return cls(means, tuple(d * s for d, s in zip(seen[1], std, strict=True)))

    @property
    def averages(self) -> tuple[float, float]:
        """Return the means over the channels."""
        return sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)

    @property
    def possible(self) -> bool:
        """Tell whether there are such images."""
        mean, deviation = self.averages
        return _MEANS[0] < mean < _MEANS[1] and _DEVIATIONS[0] < deviation < _DEVIATIONS[1]


def implied_pixels(teacher: Teacher, spec: DataSpec) -> tuple[ImpliedPixels | None, str | None]:
    """Return what the first BatchNorm tells of the training images' pixels, and a warning where no images have such."""
    seen = input_moments(teacher)
    if seen is None:
        return None, None
    found = ImpliedPixels.of(seen, spec.mean, spec.std)
    if found.possible:
        return found, None
    mean, deviation = found.averages
    text = (
        f"by data.mean and data.std, here {list(spec.mean)} and {list(spec.std)}, its first BatchNorm remembers pixels "
        f"of mean {mean:.2f} and standard deviation {deviation:.2f}, which images do not have: check them"
    )
    for name, (means, deviations) in known_constants(spec).items():
        other = ImpliedPixels.of(seen, means, deviations)
        if other.possible:
            return found, f"{text}; by {name} it would be {other.averages[0]:.2f} and {other.averages[1]:.2f}"
    return found, text


def known_constants(spec: DataSpec) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Return the means and deviations by which such images are usually normalised, those of the set first."""
    known: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    if spec.name in DATASETS and DATASETS[spec.name].channels == spec.channels:
        known[f"those of {spec.name}"] = (DATASETS[spec.name].mean, DATASETS[spec.name].std)
    zero, half, one = ((value,) * spec.channels for value in (0.0, 0.5, 1.0))
    known |= {"0 and 1": (zero, one), "0.5 and 0.5": (half, half)}
    if spec.channels == DATASETS["imagenet"].channels:
        known["those of ImageNet"] = (DATASETS["imagenet"].mean, DATASETS["imagenet"].std)
    return known
