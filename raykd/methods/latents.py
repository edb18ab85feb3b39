"""What a generator that inverts a teacher is given: noise that is optimised with it, or labels behind a noisy layer.

    normal       z_i ~ N(0, I_Z), itself optimised (CMI, Fast-DFKD)
    labels       z_i = W_b h_i + c_b, b = floor(i / K), W_b ~ N(0, 1), c_b = 0, both optimised (NAYER)

with h = the embedding e of the image's label, each dimension standardised over the batch, as a BatchNorm without
parameters does. Rows come in blocks of K with every label once; a last, smaller block has labels at random. The noise
is in the layer, so only the Gram matrix of the embeddings matters: any rotation of e makes the same distribution. Where
NAYER asks CLIP for text embeddings, here are (Tran et al., CVPR 2024, arXiv 2310.00258, without CLIP)

    onehot       e = I_K
    classifier   e = the rows of the teacher's last linear layer, which say which classes it takes for alike
    file         e = those of a user's file, such as text embeddings of the classes' names

Shapes: B rows of the batch, b of this worker, K classes, D of an embedding, Z of a latent.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from raykd.distributed.world import World, mix
from raykd.errors import UsageError

Latent = Literal["normal", "onehot", "classifier", "file"]

_LABELS, _LAYERS = 31, 32  # keep these draws apart from others of the same seed
_TINY = 1e-5


class Labels:
    """The labels of each batch, by its number alone."""

    def __init__(self, num_classes: int, world: World, batch: int, seed: int, *, balanced: bool) -> None:
        """Draw them at random, or ``balanced`` in blocks of all classes."""
        self._num_classes, self._world, self._batch, self._seed, self._balanced = (
            num_classes, world, batch, seed, balanced,
        )  # fmt: skip

    def draw(self, number: int) -> Tensor:
        """Return the labels of this worker's rows of a batch, int64 (b,), on the device."""
        generator = torch.Generator().manual_seed(mix(self._seed, _LABELS, number))
        labels = torch.randint(self._num_classes, (self._batch,), generator=generator)
        if self._balanced:
            # They begin with another class in every batch, so that rows held out by their place are of all classes.
            whole = self._batch - self._batch % self._num_classes
            labels[:whole] = (torch.arange(whole) + number) % self._num_classes
        return labels[self._world.slice(self._batch)].to(self._world.device, non_blocking=True)


class NormalLatents(NamedTuple):
    """Noise, itself a parameter."""

    z: Tensor

    @property
    def parameters(self) -> list[Tensor]:
        """Return what is optimised beside the generator."""
        return [self.z]

    def vectors(self) -> Tensor:
        """Return the generator's input, (b, Z)."""
        return self.z


class LabelLatents(NamedTuple):
    """Embeddings of labels behind a noisy layer for each block of K rows."""

    h: Tensor
    """(blocks, K, D), the last block filled up with zeros."""
    weight: Tensor
    """(blocks, D, Z)."""
    bias: Tensor
    """(blocks, 1, Z)."""
    rows: int

    @property
    def parameters(self) -> list[Tensor]:
        """Return what is optimised beside the generator."""
        return [self.weight, self.bias]

    def vectors(self) -> Tensor:
        """Return the generator's input, (b, Z)."""
        return torch.baddbmm(self.bias, self.h, self.weight).flatten(0, 1)[: self.rows]


def normal_latents(world: World, batch: int, latent_dim: int, seed: int, number: int) -> NormalLatents:
    """Draw this worker's rows of a batch of noise."""
    return NormalLatents(world.randn(batch, latent_dim, seed=seed, step=number).requires_grad_())


def label_latents(
    embeddings: Tensor, labels: Tensor, latent_dim: int, world: World, seed: int, number: int
) -> LabelLatents:
    """Draw the noisy layers of this worker's rows of a batch.

    Args:
        embeddings: e, (K, D).
        labels: of the rows, int64 (b,).
        latent_dim: Z.
        world: whose worker this is; each draws layers of its own.
        seed: of the draws, with the batch's ``number``.
        number: of the batch.
    """
    classes, rows = len(embeddings), len(labels)
    h = embeddings[labels]
    h = (h - h.mean(dim=0)) / (h.var(dim=0, unbiased=False) + _TINY).sqrt()
    blocks = -(-rows // classes)
    h = torch.cat([h, h.new_zeros(blocks * classes - rows, h.shape[1])]).unflatten(0, (blocks, classes))
    generator = torch.Generator(world.device).manual_seed(mix(seed, _LAYERS, number, world.rank))
    weight = torch.randn(blocks, h.shape[2], latent_dim, generator=generator, device=world.device)
    bias = torch.zeros(blocks, 1, latent_dim, device=world.device)
    return LabelLatents(h, weight.requires_grad_(), bias.requires_grad_(), rows)


def label_embeddings(kind: Latent, teacher: nn.Module, num_classes: int, given: Tensor | None = None) -> Tensor:
    """Return e, float32 (K, D), where the teacher is; ``given`` are those of a file.

    Raises:
        UsageError: if the rows of the classifier are asked for and the teacher ends in no linear layer.
    """
    device = next(iter(teacher.state_dict().values())).device
    if kind == "file":
        assert given is not None, "validated by the configuration, read by the engine"
        return given.to(device)
    if kind == "onehot":
        return torch.eye(num_classes, device=device)
    heads: Sequence[nn.Linear] = [
        layer for layer in teacher.modules() if isinstance(layer, nn.Linear) and layer.out_features == num_classes
    ]
    if not heads:
        raise UsageError(
            f"method.latent=classifier takes the rows of the teacher's last linear layer, and it has none with "
            f"{num_classes} outputs; use method.latent=onehot"
        )
    rows = heads[-1].weight.detach().float()
    return rows - rows.mean(dim=0)
