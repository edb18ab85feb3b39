"""How common repositories call the tensors of the networks that raykd builds: names there -> names here.

A layout is only taken where, renamed, all names and shapes are the network's; so it may be tried on any file.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple


class Layout(NamedTuple):
    """Names of one convention; ``rename`` maps those of a file that are called otherwise here."""

    name: str
    rename: Callable[[Collection[str]], dict[str, str]]


def _by_patterns(*patterns: tuple[str, str]) -> Callable[[Collection[str]], dict[str, str]]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in patterns]

    def rename(keys: Collection[str]) -> dict[str, str]:
        names = {}
        for key in keys:
            new = key
            for pattern, replacement in compiled:
                new = pattern.sub(replacement, new)
            if new != key:
                names[key] = new
        return names

    return rename


_STAGE = re.compile(
    r"(?:module\.)?(?:block|layer|group|conv|stage)_?(\d{1,4})\.(?:layer\.|block|layer)?(\d{1,4})\.(.+)"
)
_IN_BLOCK: Mapping[str, str] = {
    "convShortcut": "shortcut", "conv_shortcut": "shortcut", "downsample": "shortcut", "shortcut.0": "shortcut",
    "bn_0": "bn1", "bn_1": "bn2", "conv_0": "conv1", "conv_1": "conv2", "convdim": "shortcut",
    "bn0": "bn1", "conv0": "conv1",
}  # fmt: skip
_OUTSIDE: Mapping[str, str] = {
    "bn1": "bn", "bn": "bn", "batch_norm": "bn", "norm": "bn", "fc": "linear", "linear": "linear",
    "classifier": "linear", "output": "linear", "conv1": "conv1", "conv0": "conv1", "conv": "conv1",
    "init_conv": "conv1",
}  # fmt: skip


def _wide_resnet(keys: Collection[str]) -> dict[str, str]:
    """Number the blocks of all stages through, and call the parts of a block as raykd does."""
    matches = {key: match for key in keys if (match := _STAGE.fullmatch(key))}
    if not matches:
        return {}
    stages = sorted({int(match[1]) for match in matches.values()})
    first = min(int(match[2]) for match in matches.values())
    blocks = 1 + max(int(match[2]) for match in matches.values()) - first
    # Where the first batch norm of a block is bn_0 or bn0, conv1 is the second convolution and not the first.
    starts_at_zero = any(".bn0." in one or ".bn_0." in one for one in matches)
    names = {}
    for key in keys:
        match = matches.get(key)
        if match is None:
            part, dot, kind = key.rpartition(".")
            names[key] = f"{_OUTSIDE.get(part, part)}{dot}{kind}"
            continue
        part, dot, kind = match[3].rpartition(".")
        number = stages.index(int(match[1])) * blocks + int(match[2]) - first
        own = {"bn1": "bn2", "conv1": "conv2"} if starts_at_zero and part in ("bn1", "conv1") else _IN_BLOCK
        names[key] = f"groups.{number}.{own.get(part, part)}{dot}{kind}"
    return names


LAYOUTS = (
    Layout(
        "ResNets as torchvision and the CIFAR repositories write them",
        _by_patterns((r"\bdownsample\.", "shortcut."), (r"^(fc|classifier|output)\.", "linear.")),
    ),
    Layout("Wide ResNets of stages and blocks", _wide_resnet),
    Layout(
        "torchvision's DenseNets of before 2018",
        _by_patterns((r"(\.denselayer\d+\.(?:norm|conv|relu))\.(\d)\.", r"\1\2.")),
    ),
    Layout(
        "VGGs with one linear head", _by_patterns((r"^(classifier|fc|classifier\.\d+)\.(weight|bias)$", r"linear.\2"))
    ),
)
