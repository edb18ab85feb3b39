"""Embeddings of labels from a user's file: one row of numbers per class, such as text embeddings of their names."""

from pathlib import Path

from torch import Tensor

from raykd.errors import UsageError
from raykd.models.weights_file import read_weights

_KINDS = (".safetensors", ".npz")


def read_embeddings(path: Path, num_classes: int) -> Tensor:
    """Return the one matrix that a file holds, float32 (K, D), its rows in the order of the labels.

    Raises:
        UsageError: if it is no .safetensors or .npz file, or does not hold one matrix of K rows of finite numbers.
        CorruptError: if it is damaged.
    """
    advice = f"give a {' or '.join(_KINDS)} file of one matrix, a row for each of the {num_classes} classes"
    if path.suffix not in _KINDS:
        raise UsageError(f"method.embeddings={path}: no file of tensors; {advice}")
    tensors = read_weights(path)
    assert isinstance(tensors, dict), "files of these kinds hold tensors by name"
    if len(tensors) != 1:
        raise UsageError(f"{path} holds {len(tensors)} tensors ({', '.join(sorted(tensors)[:3])}); {advice}")
    (matrix,) = tensors.values()
    if matrix.dim() != 2 or len(matrix) != num_classes or not matrix.is_floating_point():
        raise UsageError(f"{path} holds {matrix.dtype} of shape {list(matrix.shape)}; {advice}")
    embeddings: Tensor = matrix.float()
    if not embeddings.isfinite().all():
        raise UsageError(f"{path} holds numbers that are not finite; {advice}")
    if bool((embeddings == embeddings[0]).all()):
        raise UsageError(f"{path} has equal rows for all classes, which say nothing of their labels; {advice}")
    return embeddings
