"""What those who publish a classifier say of its input and its answers."""

from dataclasses import dataclass

_NAMED = 3  # classes in a line


@dataclass(frozen=True)
class PublishedFacts:
    """What is known of a classifier beside its weights.

    Attributes:
        source: who says so.
        channels: of its images.
        size: height and width of these, in pixels.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        num_classes: that it tells apart; None where its weights are somebody else's.
        class_names: in their order; empty where they are not known.
        preparation: how an image comes to that size; empty where it is not known.
    """

    source: str
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    preparation: str = ""

    def __str__(self) -> str:
        """Return all of it in a line."""
        shown = (
            f"images of {self.channels} x {self.size} x {self.size}, mean {_short(self.mean)}, std {_short(self.std)}"
        )
        names = ", ".join(self.class_names[:_NAMED])
        more = ", ..." if len(self.class_names) > _NAMED else ""
        classes = "" if self.num_classes is None else f"; {self.num_classes:,} classes{names and f' ({names}{more})'}"
        return f"{self.source}: {shown}{self.preparation and f' ({self.preparation})'}{classes}"


def resized_and_cropped(resized: int, size: int) -> str:
    """Say how evaluation images were prepared where that differs from resizing them whole, as raykd does."""
    if resized == size:
        return ""
    return f"there resized to {resized} pixels and cropped to the {size} in the middle; here resized whole"


def _short(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
