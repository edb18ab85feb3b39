"""Every classifier of timm by its own name, untrained, and what timm says of its weights. Nothing is fetched here."""

import math
from pathlib import Path
from typing import Any

from torch import nn

from raykd.errors import UsageError, unknown
from raykd.models.factories import first_line
from raykd.models.hub_files import find_hub_file
from raykd.models.packages import import_optional
from raykd.models.published_facts import PublishedFacts, resized_and_cropped

_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights of a published network are called, the better first."""


def build_timm(name: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """Build timm's network of that name with fresh weights.

    Raises:
        MissingPackage: timm is not installed.
        UsageError: no such network, or it cannot be built for such images.
    """
    arguments = timm_arguments(name, num_classes, channels, size)
    try:
        network: nn.Module = import_optional("timm", f"timm/{name}", "timm").create_model(**arguments)
    except Exception as error:  # networks of many authors, each with errors of its own
        raise UsageError(
            f"timm/{name} cannot be built for {num_classes} classes of images {channels} x {size} x {size} "
            f"({type(error).__name__}: {first_line(error)}); set data.size or another network"
        ) from error
    return network


def timm_arguments(name: str, num_classes: int, channels: int, size: int) -> dict[str, Any]:
    """Return what ``timm.create_model`` is called with for an untrained classifier.

    Raises:
        MissingPackage, UsageError: as ``build_timm``.
    """
    config = _find_config(name)
    own_size = config.input_size[-1]
    # Only networks of a fixed size, such as transformers with a position for each patch, have such a parameter.
    options = {"img_size": size} if config.fixed_input_size and size != own_size else {}
    return {"model_name": name, "pretrained": False, "num_classes": num_classes, "in_chans": channels, **options}


def full_timm_name(name: str) -> str:
    """Return a name with the tag of its weights, as in ``resnet18.a1_in1k``: which are the default changes with timm.

    Raises:
        MissingPackage, UsageError: as ``build_timm``.
    """
    config = _find_config(name)
    return f"{config.architecture}.{config.tag}" if config.tag else name


def timm_facts(name: str, *, own_weights: bool) -> PublishedFacts:
    """Return what timm says of a network's published weights; ``own_weights`` are the user's, of whatever classes.

    Raises:
        MissingPackage, UsageError: as ``build_timm``, or if the published ones classify nothing.
    """
    config = _find_config(name)
    size = config.input_size[-1]
    if not own_weights and not config.num_classes:
        raise UsageError(f"timm/{name}: its published weights have no classifier; give weights that have one")
    return PublishedFacts(
        source=f"timm's pretrained_cfg of {name}",
        channels=config.input_size[0],
        size=size,
        mean=tuple(config.mean),
        std=tuple(config.std),
        num_classes=None if own_weights else config.num_classes,
        class_names=() if own_weights else _class_names(config),
        preparation="" if own_weights else resized_and_cropped(math.floor(size / config.crop_pct), size),
    )


def timm_file(name: str) -> Path:
    """Return the file of a network's published weights in the local cache of Hugging Face, or of torch's hub.

    Raises:
        MissingPackage: timm is not installed.
        UsageError: no such network, or its weights are not here, saying how to bring them.
        CorruptError: if the file's sum is not that in its name.
    """
    config = _find_config(name)
    if not config.hf_hub_id:
        if not config.url:
            raise UsageError(f"timm/{name} has no published weights: give a file by 'weights'")
        return find_hub_file(config.url, f"timm/{name}")
    hub = import_optional("huggingface_hub", f"timm/{name}", "timm")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    for file in names:
        found = hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return Path(found)
    raise UsageError(
        f"timm/{name}: its weights are not in the local cache {hub.constants.HF_HUB_CACHE} (HF_HOME says where it is), "
        f"and nothing is fetched here: `hf download {config.hf_hub_id} {names[0]}` does so, or give a file by 'weights'"
    )


def _find_config(name: str) -> Any:
    """Return timm's ``PretrainedCfg`` of a name, with or without the tag of weights."""
    timm = import_optional("timm", f"timm/{name}", "timm")
    architecture = name.partition(".")[0]
    # Names with a scheme, such as hf-hub:..., would have timm ask the network.
    if not timm.is_model(architecture) or "/" in name:
        raise unknown("timm model", name, timm.list_models())
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # no such tag
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        raise unknown(f"weights of timm/{architecture}", name, tags) from None


def _class_names(config: Any) -> tuple[str, ...]:
    """Return the classes that weights know: timm ships the names of ImageNet's sets."""
    if config.label_names:
        return tuple(map(str, config.label_names))
    data = import_optional("timm.data", "timm", "timm")
    subset = data.infer_imagenet_subset(config)
    if subset is None:
        return ()
    known = data.ImageNetInfo(subset)
    if known.num_classes() != config.num_classes:
        return ()
    # The first of several synonyms.
    return tuple(known.index_to_description(index).partition(",")[0] for index in range(config.num_classes))
