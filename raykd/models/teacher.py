"""The adapter that makes a frozen teacher of any classifier.

B batch, C classes, F features, H W image.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.errors import UsageError

RETURN_LOGITS = "return the logits [B, C] as one tensor, or an object that has them as .logits"
NAME_LAYER = (
    "end it in nn.Linear(features, classes), or set its class attribute feature_layer to the name "
    "of the module whose input is the feature vector"
)


class _Tap:
    """A forward pre-hook that keeps the input of one layer, when armed, until it is taken.

    An object, not a closure, so that a deep copy of the network taps into its own copy; armed only
    while its teacher runs, so that running the network otherwise leaves nothing behind.
    """

    def __init__(self) -> None:
        self.armed = False
        self.held: Tensor | None = None

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.armed:
            self.held = args[0] if args else next(iter(kwargs.values()))

    def take(self) -> Tensor | None:
        self.armed = False
        held, self.held = self.held, None  # what stayed here would keep the whole graph alive
        return held


class Teacher(nn.Module):
    """A frozen classifier that answers with logits and penultimate features.

    The network itself is changed: its parameters require no gradient, and it stays in evaluation mode
    (BatchNorm uses its running statistics and keeps them). Gradients flow to the images. The features
    are the input of ``network.feature_layer`` if it has that attribute, else of the last layer that
    runs and gives one value per class: a linear one, or a convolution of 1 x 1 pixels, whose input
    is averaged over its pixels.
    """

    def __init__(self, network: nn.Module, *, channels: int, size: int) -> None:
        """Wrap ``network``, a classifier of images [B, channels, size, size].

        Raises:
            UsageError: the network rejects such images, gives no logits [B, C] or has no head.
        """
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.image_shape = (channels, size, size)
        probe = self._probe()
        names: list[str] = []
        handles = [
            module.register_forward_hook(lambda *_, name=name: names.append(name))
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
        ]
        try:
            logits = self._try(probe)
        finally:
            for handle in handles:
                handle.remove()
        _refuse_probabilities(logits)
        self._num_classes: int = logits.shape[1]
        self.tap = _Tap()
        layer = self._feature_layer(names)
        layer.register_forward_pre_hook(self.tap, with_kwargs=True)
        self._pools_features = isinstance(layer, nn.Conv2d) and getattr(network, "feature_layer", None) is None
        with torch.no_grad():
            features = self(probe)[1]
        if len(features) != len(probe):
            raise UsageError(
                f"the teacher's feature layer sees {len(features)} rows for {len(probe)} images; {NAME_LAYER}"
            )
        self._feature_width: int = features.shape[1]

    @property
    def num_classes(self) -> int:
        """Width of the logits."""
        return self._num_classes

    @property
    def feature_width(self) -> int:
        """Width F of the features."""
        return self._feature_width

    @property
    def batch_norms(self) -> list[str]:
        """Names, within ``network``, of the BatchNorm layers that hold running statistics."""
        return [
            name
            for name, module in self.network.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode whatever is asked: a teacher does not change."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B, channels, size, size] to logits [B, C] and features [B, F].

        Raises:
            UsageError: the images are not of the shape the teacher was made for.
        """
        if images.shape[1:] != self.image_shape:
            raise UsageError(
                f"the teacher takes images [B, {', '.join(map(str, self.image_shape))}], got {list(images.shape)}"
            )
        self.tap.armed = True
        logits = _logits(self.network(images))
        features = self.tap.take()
        if features is None:
            raise UsageError(f"the teacher ran without its feature layer; {NAME_LAYER}")
        return logits, (features.mean((2, 3)) if self._pools_features else features.flatten(1))

    def _probe(self) -> Tensor:
        """Make two images for a trial; black, since random ones would move the random state."""
        parameter = next(self.network.parameters(), torch.empty(0))
        return torch.zeros(2, *self.image_shape, dtype=parameter.dtype, device=parameter.device)

    def _try(self, probe: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                output = self.network(probe)
        except Exception as error:  # the user's own code: it may fail in any way
            raise UsageError(
                f"the teacher rejects images {list(probe.shape)}: {error}; "
                "check the channels and the size of the data against the network"
            ) from error
        return _logits(output)

    def _feature_layer(self, executed: list[str]) -> nn.Module:
        """Choose the layer whose input is the features; ``executed``: linear layers, in order."""
        named: str | None = getattr(self.network, "feature_layer", None)
        if named is not None:
            modules: dict[str, nn.Module] = dict(self.network.named_modules())
            if named not in modules:
                raise UsageError(f"feature_layer {named!r} is no module of the teacher")
            return modules[named]
        layers = [self.network.get_submodule(name) for name in executed]
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        for layer in (*layers[-1:], *linear[-1:]):
            if self._is_head(layer):
                return layer
        if not linear:
            raise UsageError(f"the teacher has no linear layer that runs; {NAME_LAYER}")
        raise UsageError(
            f"the last linear layer {executed[layers.index(linear[-1])]!r} gives {linear[-1].out_features} values but "
            f"the teacher {self._num_classes} logits, so it is not the head; {NAME_LAYER}"
        )

    def _is_head(self, layer: nn.Module) -> bool:
        width = layer.out_features if isinstance(layer, nn.Linear) else getattr(layer, "out_channels", None)
        return width == self._num_classes


def _logits(output: object) -> Tensor:
    """Find the logits [B, C] in what a network returned."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise UsageError(f"the teacher returns a {type(output).__name__}; {RETURN_LOGITS}")
    if logits.dim() != 2:
        raise UsageError(f"the teacher returns a tensor {list(logits.shape)}; {RETURN_LOGITS}")
    return logits


def _refuse_probabilities(logits: Tensor) -> None:
    """Refuse a softmax at the end: every loss would apply a second one, and nothing would fail."""
    if logits.shape[1] < 2:
        raise UsageError(f"the teacher gives {logits.shape[1]} logit, a classifier at least 2")
    ones = torch.ones_like(logits[:, 0])
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(dim=1), ones, atol=1e-3):
        raise UsageError(f"the teacher returns probabilities; remove its softmax and {RETURN_LOGITS}")
