"""Files of tensors that tell whether they are whole: safetensors whose metadata bears the sum of their content."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from raykd.errors import CorruptError
from raykd.files import damaged, describe, is_file, sha256_of

DESCRIPTION = "data"
"""Key of the metadata of a described file: JSON of what a network must be shown, and the sum."""
_SUM = "sha256"


def checksum_metadata(tensors: Mapping[str, Tensor], description: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the metadata by which a file of tensors that stands alone tells whether it is whole.

    Plain data that describe the tensors are in the same sum. There is one key in any case, since the order of several
    in such a file is left to chance, and equal runs write equal files.
    """
    if description is None:
        return {_SUM: sum_of_tensors({}, tensors)}
    checksum = sum_of_tensors({DESCRIPTION: json.dumps(description)}, tensors)
    return {DESCRIPTION: json.dumps({**description, _SUM: checksum})}


def sum_of_tensors(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a header and of tensors with their names, whatever their order."""
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensor_file(path: Path, advice: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file.

    Where the metadata are those of ``checksum_metadata``, the content must be what they tell.

    Args:
        path: the file.
        advice: what a user can do where it is damaged.

    Raises:
        CorruptError: if it is missing or damaged.
    """
    if not is_file(path):
        raise CorruptError(f"{path} is missing; {advice}")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise damaged(path, describe(error), advice) from None
    expected, header = _split_metadata(metadata)
    if expected is not None and expected != sum_of_tensors(header, tensors):
        raise damaged(path, "it differs from its checksum", advice)
    return metadata, tensors


def read_tensors(path: Path, advice: str, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; where it bears the sum of its own content, it must be that.

    Args:
        path: the file.
        advice: what a user can do where it is damaged.
        sha256: sum that the file itself must have if it bears none.

    Raises:
        CorruptError: if it is missing or damaged.
    """
    metadata, tensors = read_tensor_file(path, advice)
    if sha256 is not None and _split_metadata(metadata)[0] is None and sha256_of(path) != sha256:
        raise damaged(path, "it differs from its checksum", advice)
    return tensors


def _split_metadata(metadata: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
    """Return the sum that metadata bear, None where ``checksum_metadata`` did not make them, and the rest.

    Files of others may have keys of these names with another meaning, beside more keys or in another shape.
    """
    if metadata.keys() == {_SUM}:
        return metadata[_SUM], {}
    if metadata.keys() == {DESCRIPTION}:
        with suppress(ValueError, RecursionError):
            description = json.loads(metadata[DESCRIPTION])
            if isinstance(description, dict) and isinstance(description.get(_SUM), str):
                checksum = description.pop(_SUM)
                return checksum, {DESCRIPTION: json.dumps(description)}
    return None, dict(metadata)
