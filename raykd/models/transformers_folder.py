"""Image classifiers of transformers as ``save_pretrained`` leaves them in a folder. No code of the folder ever runs.

config.json                 the network: its sizes, and the names of its classes
preprocessor_config.json    what its images are made of
model.safetensors           or model.safetensors.index.json and what that names
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from raykd.config.data_root import data_place
from raykd.errors import CorruptError, UsageError, shortened, unknown
from raykd.files import describe, read_bytes
from raykd.models.factories import first_line
from raykd.models.packages import import_optional
from raykd.models.published_facts import PublishedFacts, resized_and_cropped
from raykd.models.weights import load_weights
from raykd.models.weights_file import read_weights

PACKAGE = "transformers"
_PREFIX = "hf/"  # of the names of such models
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_SAVE = "save model and image processor there by save_pretrained(FOLDER)"
_MAX_BYTES = 8 * 2**20
_MAX_VALUES = 2**31
"""Numbers of a network: 8 GiB as float32."""
_MAX_LAYERS = 1000
_DEEP = ("layer", "depth", "block", "repeat", "stage", "expert")
"""Parts of the names of numbers that say how often something is built."""
_WIDE = ("channel", "dim", "size")
"""Parts of the names of those that say how wide each of these is, as in ``stage_in_channels``."""
_MAX_LIST = 1000
_MAX_CHANNELS, _MAX_CLASSES = 1000, 10**6
_CODE = ("auto_map", "custom_pipelines")
_FETCHING = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "quantization_config")
"""Fields that have transformers take a part of the network from elsewhere, or compute it by another package."""
_LABELS = ("id2label", "label2id", "num_labels")
_LEFT_OUT = (*_LABELS, "architectures", "transformers_version", "dtype", "torch_dtype", "problem_type")
"""Fields that do not make the network: how many classes there are is the data's, and it computes as all others do."""
_UNLIKE = ("do_flip_channel_order", "do_color_quantize")
"""Steps of an image processor that no mean and std per channel can stand for."""
_LEVELS = 255
_WHOLE = 384
"""From so many pixels on the processor of ConvNeXt, which has ``crop_pct``, crops nothing."""


class SavedClassifier(NamedTuple):
    """What a folder holds: the fields that make the network, the file of its weights, and what is said beside."""

    config: dict[str, Any]
    weights: str
    facts: PublishedFacts


def read_folder(name: str) -> SavedClassifier:
    """Read what ``save_pretrained`` wrote, weights aside.

    Args:
        name: the folder, from here or in the data root of the environment.

    Raises:
        UsageError: no such folder, a file of it is missing, or it is no classifier of images that could be built
            without running code of the folder.
        CorruptError: a file is damaged.
    """
    folder = _find(name)
    content = _read_object(folder / CONFIG)
    config = _checked(content, folder / CONFIG)
    weights = next((file for file in _WEIGHTS if (folder / file).is_file()), None)
    if weights is None:
        pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        why = f"it has {pickled[0]}, which may hold code: load it where you trust it and " if pickled else ""
        raise UsageError(f"{folder} has no {_WEIGHTS[0]}; {why}{_SAVE}")
    with _wrong_types(folder / CONFIG):
        names = _class_names(content)
        channels = int(config.get("num_channels", 3))
        if not 1 <= channels <= _MAX_CHANNELS:
            raise ValueError(f"num_channels is {shortened(channels)}, and 1 to {_MAX_CHANNELS} are taken")
        own_size = config.get("image_size")
    with _wrong_types(folder / PREPROCESSOR):
        facts = _facts(name, _read_object(folder / PREPROCESSOR), names, channels, own_size)
    return SavedClassifier(config, f"{name}/{weights}", facts)


def build_transformers(config: Mapping[str, Any], what: str, *, num_classes: int, channels: int) -> nn.Module:
    """Build a classifier of transformers with fresh weights.

    Args:
        config: the fields that make it, see ``SavedClassifier``; of anybody's.
        what: how messages call it.
        num_classes: that it is to tell apart.
        channels: of its images, whose size is among the fields.

    Raises:
        MissingPackage: transformers is not installed.
        UsageError: it cannot be built from that, or for such images, or is larger than 2**31 numbers.
    """
    config = _checked(config, what)
    if (own := config.get("num_channels", 3)) != channels:
        raise UsageError(f"{what} takes images of {own} channels, the data has {channels}: they must be equal")
    transformers = import_optional(PACKAGE, what, PACKAGE)
    kind, fields = config["model_type"], {key: value for key, value in config.items() if key != "model_type"}

    def build() -> nn.Module:
        made = transformers.AutoConfig.for_model(kind, **fields, num_labels=num_classes)
        network: nn.Module = transformers.AutoModelForImageClassification.from_config(
            made, attn_implementation="eager", trust_remote_code=False
        )
        return network

    try:
        with torch.device("meta"):  # first without memory
            network = build()
            values = sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
        if values <= _MAX_VALUES:
            return build()
    except Exception as error:  # transformers raises whatever such fields make of its networks
        raise UsageError(
            f"{what}: transformers cannot build it ({type(error).__name__}: {first_line(error)}); {_SAVE}"
        ) from None
    raise UsageError(f"{what} describes a network of {values:,} numbers; at most {_MAX_VALUES:,} are built")


def load_saved(network: nn.Module, path: Path) -> None:
    """Copy weights that ``save_pretrained`` wrote into a network of ``build_transformers``.

    Files bear the names of the first releases, which transformers turns into those of its networks.

    Args:
        network: the network.
        path: .safetensors, or their .index.json.

    Raises:
        UsageError: no such file, no floats, or another network's.
        CorruptError: it is damaged.
    """
    if ".safetensors" not in path.name:
        raise UsageError(f"{path} is no .safetensors file; {_SAVE}")
    tensors = read_weights(path)
    assert isinstance(tensors, dict), "safetensors are tensors by name"
    if tensors.keys() == network.state_dict().keys():  # as the store's copies are
        load_weights(network, path)
        return
    # Counters of BatchNorm, and indices that earlier releases of transformers have saved and this one computes.
    whole = {name.rpartition(".")[2] for name, one in network.named_buffers() if not one.is_floating_point()}
    strange = [name for name, one in tensors.items() if not one.is_floating_point()]
    if strange := [name for name in strange if name.rpartition(".")[2] not in whole]:
        raise UsageError(f"{path}: {strange[0]} holds {tensors[strange[0]].dtype}, and the network's are floats")
    network_class: Any = type(network)
    try:
        with _silent():
            made, told = network_class.from_pretrained(
                None, config=network.config, state_dict=tensors, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # transformers raises whatever such tensors make of its readers
        raise UsageError(f"{path}: transformers cannot read it ({type(error).__name__}: {first_line(error)})") from None
    for kind in ("missing", "mismatched", "unexpected"):
        if keys := sorted(str(key[0] if isinstance(key, tuple) else key) for key in told[f"{kind}_keys"]):
            raise UsageError(
                f"{path} is for another network than its {CONFIG} and the classes of the data tell: {len(keys)} "
                f"{kind} tensors, such as {keys[0]}"
            )
    network.load_state_dict(made.state_dict())


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' bars and reports to itself: what matters of them is said otherwise."""
    library = import_optional(PACKAGE, "hf/FOLDER", PACKAGE).utils.logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.CRITICAL)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def _find(name: str) -> Path:
    root = data_place()
    places = [Path(name), *([Path(root) / name] if root and "://" not in root else [])]
    for place in places:
        if place.is_dir():
            return place
    meant, hint = _PREFIX + name, ""
    if Path(meant).is_dir():
        hint = f"; the folder {meant} here is {_PREFIX + meant!r}, since what stands behind {_PREFIX} is a path"
    raise UsageError(f"no folder {name!r} (looked at {' and '.join(map(str, places))}){hint}; {_SAVE}")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(path, _MAX_BYTES))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} has no {path.name}; {_SAVE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is damaged ({describe(error)}); {_SAVE}") from None
    if not isinstance(found, dict):
        raise CorruptError(f"{path} holds a {type(found).__name__}, not an object; {_SAVE}")
    return found


def _checked(config: Mapping[str, Any], what: Path | str) -> dict[str, Any]:
    """Return the fields that make a network, of a configuration that neither runs nor fetches anything.

    Raises:
        UsageError: for any other, or for another kind of network.
    """
    names = {key for key, _ in _leaves(config)}
    if code := sorted(names.intersection(_CODE)):
        raise UsageError(
            f"{what} has {code[0]}: its network is code of its own, which is not run; use 'factory' instead"
        )
    if elsewhere := sorted(names.intersection(_FETCHING)):
        raise UsageError(f"{what} has {elsewhere[0]}: a part of it lies elsewhere; use 'factory' instead")
    kind = config.get("model_type")
    auto = import_optional("transformers.models.auto.modeling_auto", str(what), PACKAGE)
    known = [name for name in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if name != "timm_wrapper"]
    if kind == "timm_wrapper":
        raise UsageError(f"{what} is a network of timm: use model timm/NAME, with its model.safetensors as 'weights'")
    if kind not in known:
        raise unknown(f"model_type in {what}, of a classifier of images", str(kind), known)
    own = {key: value for key, value in config.items() if key not in _LEFT_OUT and not key.startswith("_")}
    _check_depth(own, what)
    return own


def _check_depth(config: Mapping[str, Any], what: Path | str) -> None:
    """Refuse what would be built for hours."""
    for key, value in _leaves(config):
        many = value if isinstance(value, list) else [value]
        numbers = [one for one in many if isinstance(one, int | float)]
        is_deep = any(word in key for word in _DEEP) and not any(word in key for word in _WIDE)
        if len(many) > _MAX_LIST or (is_deep and sum(numbers) > _MAX_LAYERS):
            raise UsageError(f"{what}: {key} is larger than any network needs; at most {_MAX_LAYERS} layers are built")


def _leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield fields and their values, those of nested objects too."""
    for key, value in config.items():
        yield str(key), value
        if isinstance(value, Mapping) and key not in _LABELS:
            yield from _leaves(value)


@contextmanager
def _wrong_types(path: Path) -> Iterator[None]:
    """Say of values of another type than ``save_pretrained`` writes in which file they stand."""
    try:
        yield
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, ZeroDivisionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{path} has a value that cannot be ({type(error).__name__}: {first_line(error)}); {_SAVE}"
        ) from None


def _class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes by their numbers; without names two of none, or ``num_labels``, as transformers has it."""
    if "id2label" not in config:
        count = config.get("num_labels", 2)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MAX_CLASSES:
            raise ValueError(f"num_labels is {shortened(count)}, and 1 to {_MAX_CLASSES:,} are taken")
        return tuple(f"LABEL_{number}" for number in range(count))
    names = {int(number): str(label) for number, label in config["id2label"].items()}
    if sorted(names) != list(range(len(names))):
        raise ValueError("id2label does not number its classes from 0")
    return tuple(names[number] for number in range(len(names)))


def _facts(name: str, shown: Mapping[str, Any], names: tuple[str, ...], channels: int, own_size: Any) -> PublishedFacts:
    """Return what an image processor makes of pixels, as mean and std of pixels in [0, 1].

    With a factor f it computes (f p - o - m) / s of levels p in [0, 255], where o is 1 for those with an offset; of
    pixels u = p / 255 that is (u - (m + o) / 255 f) / (s / 255 f). EfficientNet's, with ``include_top``, divides by s
    once more.
    """
    if unlike := [key for key in _UNLIKE if shown.get(key)]:
        raise UsageError(
            f"{PREPROCESSOR} in {name} has {unlike[0]}, which no mean and std can stand for; use 'factory' instead, "
            "with a network that does so itself"
        )
    factor = float(shown.get("rescale_factor", 1 / _LEVELS)) if shown.get("do_rescale", True) else 1.0
    offset = float(bool(shown.get("rescale_offset", False)))
    mean, std = [0.0] * channels, [1.0] * channels
    if shown.get("do_normalize", True):
        mean, std = (_per_channel(shown[key], channels) for key in ("image_mean", "image_std"))
    if shown.get("include_top", False):
        std = [one * again for one, again in zip(std, _per_channel(shown["image_std"], channels), strict=True)]
    resized, size = _sizes(shown, own_size)
    plain = all(label == f"LABEL_{number}" for number, label in enumerate(names))
    return PublishedFacts(
        source=f"{PREPROCESSOR} in {name}",
        channels=channels,
        size=size,
        mean=tuple(round((value + offset) / (_LEVELS * factor), 7) for value in mean),
        std=tuple(round(value / (_LEVELS * factor), 7) for value in std),
        num_classes=len(names),
        class_names=() if plain else names,
        preparation=resized_and_cropped(resized, size),
    )


def _per_channel(values: Any, channels: int) -> list[float]:
    given = [float(value) for value in values] if isinstance(values, list) else [float(values)] * channels
    if len(given) != channels:
        raise ValueError(f"{len(given)} numbers for {channels} channels")
    return given


def _sizes(shown: Mapping[str, Any], own_size: Any) -> tuple[int, int]:
    """Return to how many pixels an image is resized, and to how many it is cropped."""
    resized = _side(shown["size"] if shown.get("do_resize", True) and shown.get("size") else own_size)
    if shown.get("do_center_crop", False):
        return resized, _side(shown.get("crop_size", resized))
    is_edge = isinstance(shown.get("size"), Mapping) and "shortest_edge" in shown["size"]
    if is_edge and shown.get("crop_pct") and resized < _WHOLE:
        return int(resized / float(shown["crop_pct"])), resized
    return resized, resized


def _side(size: Any) -> int:
    if isinstance(size, Mapping):
        size = [size["shortest_edge"]] if "shortest_edge" in size else [size["height"], size["width"]]
    sides = {int(side) for side in (size if isinstance(size, list) else [size])}
    if len(sides) != 1 or min(sides) < 1:
        raise ValueError(f"images are not square: {size}")
    return sides.pop()
