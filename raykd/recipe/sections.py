"""The sections that a recipe is made of, without the method's own."""

from typing import Any, Literal

from pydantic import Field, model_validator

from raykd.config.base import Config
from raykd.models.published import TRANSFORMERS

_MOST_OF_UNIT_IMAGES, _OF_BYTES = 1.5, 10


class DataConfig(Config):
    """Which data set, and how its images reach the network. ``data: NAME`` is short for ``{name: NAME}``.

    Who has no image at all describes them: ``num_classes``, ``channels`` and ``size``, and ``test: false``.
    """

    name: str = Field(description="one of `raykd list datasets`, a folder of Parquet, or any for data described")
    size: int | None = Field(default=None, gt=0, le=4096, description="network input size; default: the set's")
    pad: int = Field(
        default=0, ge=0, description="black pixels on each side, within size: images are resized, then padded"
    )
    mean: tuple[float, ...] | None = Field(default=None, description="of unit images, per channel")
    std: tuple[float, ...] | None = Field(default=None, description="of unit images, per channel")
    crop_pct: float | None = Field(
        default=None,
        ge=0.1,
        le=1,
        description="share of an image's shorter side that its centre keeps, 0.875 as ImageNet is measured; "
        "default: the set's, 1 of sets with a name",
    )
    class_names: tuple[str, ...] = Field(
        default=(), description="in their order; default: the set's, else those that the teacher is published with"
    )
    num_classes: int | None = Field(default=None, gt=1, description="of data described, not held")
    channels: int | None = Field(default=None, gt=0, description="of data described, not held")
    test: bool = Field(default=True, description="whether there is a test split to measure on")
    train: str | None = Field(default=None, description="another set to train on, such as a synthetic one")
    ood: str | None = Field(default=None, description="a set of other images, for methods that take such")
    ood_images: int | None = Field(default=None, gt=0, description="only so many of its first images; default: all")
    ood_index: str | None = Field(default=None, description="made by `raykd ood`: which of its images, the best first")
    ood_balanced: bool = Field(
        default=False, description="show images of every class, as the teacher sees them, equally often"
    )
    buffer: int | None = Field(
        default=None, gt=0, description="images to train on that are held and shuffled at a time; default: all"
    )
    random_crop: bool = Field(
        default=False,
        description="train on a random part of each image, 8 to 100 % of its area, cut out of its file; needs buffer",
    )
    holdout: float = Field(
        default=0.0, ge=0, lt=1, description="share of the images to train on that is kept out, to judge students by"
    )
    augment: tuple[str, ...] = Field(
        default=(), description="crop, flip, rotate, resized_crop, strong: of what is trained on"
    )

    @model_validator(mode="after")
    def _described_whole(self) -> "DataConfig":
        if (self.num_classes is None) != (self.channels is None):
            raise ValueError("data is described by num_classes, channels and size together")
        if self.num_classes is not None and (self.size is None or self.test):
            raise ValueError("described data needs a size and test: false, since it has no images")
        if self.num_classes is not None and self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"'class_names' are {len(self.class_names)}, and num_classes is {self.num_classes}")
        given = [max(values) for values in (self.mean, self.std) if values]
        # One alone may be beyond what images in [0, 1] have, as in the constants that undo a normalisation.
        if given and (min(given) > _MOST_OF_UNIT_IMAGES or max(given) > _OF_BYTES):
            raise ValueError(
                f"'mean' and 'std' are of images in [0, 1]: mean {list(self.mean or ())} and std {list(self.std or ())}"
                " look like those of 0 to 255; divide both by 255"
            )
        for key in ("ood_images", "ood_index", "ood_balanced"):
            if getattr(self, key) and self.ood is None:
                raise ValueError(f"{key!r} chooses of the set that 'ood' names; there is none here")
        if self.random_crop and self.buffer is None:
            raise ValueError(
                "'random_crop' cuts parts out of files while they are read, so it needs a 'buffer', such as 20000; "
                "augment: [resized_crop] cuts them out of images in memory"
            )
        if self.buffer is not None and self.ood_balanced:
            raise ValueError("'ood_balanced' needs all images in memory: leave out 'buffer', or use 'ood_index'")
        return self


_FACTORY_ARGS: Any = Field(
    default={}, description="arguments of the factory; num_classes, channels and size are given where it has such"
)
_WEIGHTS: Any = Field(
    default=None,
    description="safetensors, .npz or weights-only torch file; of torchvision/NAME and timm/NAME also DEFAULT, and of "
    "the former each of its names, such as IMAGENET1K_V1",
)
_ENTRY: Any = Field(default=None, description="which group of tensors of a file with several, as in model_ema")
_MAP_KEYS: Any = Field(
    default="name", description="how tensors of the file find theirs in the network; order: one after the other"
)
_OUTPUT: Any = Field(
    default=None, description="where the logits are in what the network returns: an index, a key or an attribute"
)


def _check_companions(config: "NetworkConfig | TeacherConfig") -> None:
    """Refuse fields that say more of a part that is not there."""
    if config.factory_args and config.factory is None:
        raise ValueError("'factory_args' are those of a 'factory'; there is none here")
    if config.weights is None and (config.entry is not None or config.map_keys != "name"):
        raise ValueError("'entry' and 'map_keys' say how to read 'weights'; there is no such file here")
    if config.output is not None and config.factory is None:
        raise ValueError("'output' says where a 'factory' network has its logits; there is none here")


class NetworkConfig(Config):
    """A network: ``model`` by name or ``factory`` as module:function; ``weights`` is a file."""

    model: str | None = Field(default=None, description="one of `raykd list models`")
    factory: str | None = Field(default=None, description="module:function of yours that returns the network")
    factory_args: dict[str, Any] = _FACTORY_ARGS
    weights: str | None = _WEIGHTS
    entry: str | None = _ENTRY
    map_keys: Literal["name", "order"] = _MAP_KEYS
    output: int | str | None = _OUTPUT

    @model_validator(mode="after")
    def _one_source(self) -> "NetworkConfig":
        if (self.model is None) == (self.factory is None):
            raise ValueError("give either 'model' or 'factory' (module:function)")
        if self.model is not None and self.model.startswith(TRANSFORMERS):
            raise ValueError(
                "'hf/FOLDER' is a trained classifier, so a teacher; a student is one of `raykd list models`"
            )
        _check_companions(self)
        return self


class TeacherConfig(Config):
    """A teacher: a ``recipe`` whose run supplies it, or a network with its weights."""

    recipe: str | None = Field(default=None, description="whose student is the teacher: a packaged name or a file")
    overrides: dict[str, Any] = Field(
        default={}, description="dotted fields of that recipe, as in {schedule.steps: 100} for a teacher stopped early"
    )
    model: str | None = Field(
        default=None, description="one of `raykd list models`, or hf/FOLDER that transformers has saved"
    )
    factory: str | None = Field(default=None, description="module:function of yours that returns the network")
    factory_args: dict[str, Any] = _FACTORY_ARGS
    weights: str | None = _WEIGHTS
    entry: str | None = _ENTRY
    map_keys: Literal["name", "order"] = _MAP_KEYS
    output: int | str | None = _OUTPUT
    architecture: dict[str, Any] = Field(
        default={}, description="of hf/FOLDER: what its config.json says of the network; filled in for you"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "TeacherConfig":
        sources = [s for s in (self.recipe, self.model, self.factory) if s is not None]
        if len(sources) != 1:
            raise ValueError("give exactly one of 'recipe', 'model' and 'factory' (module:function)")
        is_folder = self.model is not None and self.model.startswith(TRANSFORMERS)
        if (self.recipe is None) == (self.weights is None) and not is_folder:
            raise ValueError(
                "'weights' (a file, or DEFAULT of torchvision/NAME and timm/NAME) goes with 'model' or 'factory', and "
                "must be given there"
            )
        if self.overrides and self.recipe is None:
            raise ValueError("'overrides' change the 'recipe' of a teacher; there is none here")
        if self.architecture and not is_folder:
            raise ValueError("'architecture' is that of a model 'hf/FOLDER'; there is none here")
        _check_companions(self)
        return self


class BankConfig(Config):
    """Generators, those of a ``recipe``'s run or of a ``run`` by its id; with ``images`` a frozen set of theirs."""

    recipe: str | None = Field(default=None, description="which trains them: a packaged name or a file")
    overrides: dict[str, Any] = Field(
        default={}, description="dotted fields of that recipe, as in {method.tv_weight: 0.1}"
    )
    seed: int = Field(default=0, ge=0, description="of the recipe's run")
    run: str | None = Field(default=None, description="a run directory's name in the store")
    images: int | None = Field(
        default=None, gt=0, description="so many of their images, made once and kept; default: made anew in every step"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "BankConfig":
        if (self.recipe is None) == (self.run is None):
            raise ValueError("give either 'recipe' or 'run' (the name of a run directory in the store)")
        if self.overrides and self.recipe is None:
            raise ValueError("'overrides' change the 'recipe' of generators; there is none here")
        if self.run is not None and "/" in self.run:
            name = self.run.rstrip("/").rpartition("/")[2]
            raise ValueError(
                f"'run' is a path, {self.run!r}: give the name alone, {name!r}; the store is where it lies"
            )
        return self


class CalibrationConfig(Config):
    """Where class-conditional BatchNorm statistics of the teacher come from. They take images of its classes."""

    per_class: int | None = Field(default=None, gt=1, description="training images of each class to open")
    file: str | None = Field(default=None, description="made by `raykd statistics`; in the data root or from here")
    from_teacher: bool = Field(default=False, description="what the teacher's run has collected")

    @model_validator(mode="after")
    def _one_source(self) -> "CalibrationConfig":
        if (self.per_class is not None) + (self.file is not None) + self.from_teacher != 1:
            raise ValueError("give exactly one of 'per_class', 'file' and 'from_teacher: true'")
        return self


class ScheduleConfig(Config):
    """The budget. The batch is the global one: workers take shares of it, of its images or of its classes."""

    steps: int = Field(gt=0, description="how long to train")
    report_every: int = Field(gt=0, description="steps between evaluations and checkpoints")
    global_batch: int = Field(gt=1, le=2**20, description="images of a step, of all workers together")


class SentinelConfig(Config):
    """What a run does where its numbers or two reports in a row say that it fails, see `raykd.engine.sentinel`."""

    policy: Literal["warn", "stop", "rewind"] = Field(
        default="warn",
        description="warn: go on, and fail only where numbers are not finite; stop: fail; rewind: go on from the last "
        "good checkpoint with halved rates and other noise, three times at most",
    )


class Change(Config):
    """Numbers that become others at a step, as population-based training finds them."""

    at: int = Field(gt=0, description="the first step that they hold for; a multiple of report_every")
    values: dict[str, float] = Field(
        min_length=1, description="dotted numbers of 'method' and 'student_optim' with a fraction, from here on"
    )
