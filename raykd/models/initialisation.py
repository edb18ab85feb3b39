"""What every architecture of this package shares: the smallest image it takes and how it starts."""

import math

from torch import nn

from raykd.errors import UsageError


def require_size(model: str, size: int, smallest: int) -> None:
    """Refuse images that ``model`` would shrink to nothing.

    Raises:
        UsageError: ``size`` (pixels a side) is below ``smallest``.
    """
    if size < smallest:
        raise UsageError(
            f"{model} needs images of at least {smallest} x {smallest} pixels, "
            f"got {size} x {size}; resize the images or choose a smaller network"
        )


def he_initialise(network: nn.Module, linear_std: float | None = None) -> None:
    """Draw convolution weights from N(0, 2 / (k^2 c_out)), biases 0 (He et al. 2015, equation 14).

    Linear layers keep torch's default unless ``linear_std`` is given: N(0, linear_std^2), bias 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # Grouped convolutions count the outputs one input reaches, not all of them.
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)
