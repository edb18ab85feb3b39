"""The patch discriminator of MosaicKD (Fang et al., NeurIPS 2021, arXiv 2110.15094): real or synthetic, patch by patch.

Its receptive field is the size of the patches: what lies farther apart it cannot compare, so a generator that pleases
it may put real-looking patches together in any way. Shapes: B batch, C channels, H = W = size.
"""

from typing import Literal

from torch import Tensor, nn

from raykd.errors import UsageError

Patch = Literal[1, 2, 4, 10, 18, 22, "image"]

# (kernel, stride) of the two or three convolutions before the last, by receptive field: 1 + sum of (kernel - 1) times
# the strides before. All have a stride of 4 in total, so 32 pixels give 8 x 8 patches and the sums over them compare.
_LAYERS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((1, 2), (1, 2)),
    2: ((2, 2), (1, 2)),
    4: ((2, 2), (2, 2)),
    10: ((4, 2), (4, 2)),  # published: 531,328 parameters for 3 channels
    18: ((4, 2), (4, 2), (3, 1)),
    22: ((4, 2), (6, 2), (3, 1)),
}
_LAST = 4  # pixels: the maps that the discriminator of whole images ends in one convolution on


class PatchDiscriminator(nn.Sequential):
    """Images to a logit per patch, positive where it looks real."""

    def __init__(self, channels: int, size: int, width: int = 128, patch: Patch = 10) -> None:
        """Build with PyTorch's default initialisation, as published.

        Args:
            channels: C of the images.
            size: H and W of the images, divisible by 4; for ``patch="image"`` 4 times a power of two.
            width: of the first feature maps; the later ones have twice as many.
            patch: receptive field in pixels, or "image": one logit for all, the ablation.

        Raises:
            UsageError: if the size does not divide.
        """
        halvings = (size // _LAST).bit_length() - 1
        if patch == "image" and (size != _LAST << halvings or halvings < 1):
            raise UsageError(f"a discriminator of whole images takes a size of 8, 16, 32, 64, ..., not {size}")
        if size % 4:
            raise UsageError(f"a patch discriminator takes a size divisible by 4, not {size}")
        layers = ((4, 2),) * halvings if patch == "image" else _LAYERS[patch]
        modules: list[nn.Module] = []
        inputs = channels
        for index, (kernel, stride) in enumerate(layers):
            outputs = width if index == 0 else 2 * width
            modules.append(nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=index == 0))
            if index:
                modules.append(nn.BatchNorm2d(outputs, track_running_stats=False))
            modules.append(nn.LeakyReLU(0.2))
            inputs = outputs
        modules.append(nn.Conv2d(inputs, 1, _LAST if patch == "image" else 1, bias=False))
        super().__init__(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, 1, size / 4, size / 4], or [B, 1, 1, 1] for whole images, of images [B, C, H, W]."""
        logits: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return logits
