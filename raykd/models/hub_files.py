"""Weights in torch's hub cache, where torchvision and timm keep what they fetched. Nothing is fetched here."""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch

from raykd.errors import CorruptError, UsageError
from raykd.files import is_file, sha256_of

_SUM_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def find_hub_file(url: str, what: str) -> Path:
    """Return the file of an address in torch's hub cache; digits of its sha256 that stand in its name must be right.

    Args:
        url: from where its publishers give it.
        what: whose weights it holds, for messages.

    Raises:
        UsageError: if it is not there, saying where to put it.
        CorruptError: if its sum is another.
    """
    name = PurePosixPath(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not is_file(path):
        raise UsageError(
            f"{what}: no {path}; nothing is fetched here, so put {url} there (TORCH_HOME says where torch looks), or "
            "give a file of yours by 'weights'"
        )
    told = _SUM_IN_NAME.search(name)
    if told and not (found := sha256_of(path)).startswith(told[1]):
        raise CorruptError(
            f"{path} is damaged: its name tells a sha256 that begins with {told[1]}, it has {found}; fetch {url} again"
        )
    return path
