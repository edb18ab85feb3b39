"""CMI's contrast, which pulls the images of an inversion apart (Fang et al., IJCAI 2021, arXiv 2105.08584).

f(x) is the mean over an image's pixels of what every BatchNorm layer of the teacher is given, one after the other. With
the features l of a local view of an image and g of its global one, h a head of two layers and a unit sphere,

    L_con = mean_i CE_i + mean_j CE_j,     CE_i = -ln softmax(h(l_i) . h(g)' / tau)_i

over the B images i of the batch and N others j from a memory, each told from all B + N by its global view, which
carries no gradient. While the memory is empty there are only the i. The second mean trains the head alone.

The head learns by Adam through the whole run; the memory takes the features of the images that a batch ends with, in
half precision, and is that of all workers.

Where we differ from the authors' code: f takes the inputs of all BatchNorm layers for every architecture (theirs of
ResNets the four stages' outputs); the memory stays on the device; it never is empty again once it was full.

Shapes: B rows of the global batch, b of this worker, M rows of the memory, N of a draw from it, D of a feature.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raykd.config.optim import Adam
from raykd.data.augment import mirrored
from raykd.distributed.updater import Updater
from raykd.distributed.world import World, mix
from raykd.models.moments import Moments
from raykd.spec import DataSpec

_VIEW, _NEGATIVES = 51, 52  # keep these draws apart from others of the same seed
_PROJECTED = 256
_AREA, _ASPECT = (0.25, 1.0), (3 / 4, 4 / 3)


class Contrast:
    """Head, memory and loss.

    Attributes:
        head: from features (n, D) to (n, 256).
        updater: of the head.
    """

    def __init__(
        self,
        widths: Sequence[int],
        spec: DataSpec,
        world: World,
        *,
        lr: float,
        temperature: float,
        memory: int,
        negatives: int,
        seed: int,
        flips: bool,
        steps: int,
    ) -> None:
        """Build an untrained head and an empty memory.

        Args:
            widths: channels of the teacher's BatchNorm layers, D in all.
            spec: of the images.
            world: of which this is a worker.
            lr: of the head.
            temperature: tau.
            memory: M at most.
            negatives: N at most.
            seed: of the head, the views and the draws.
            flips: whether a local view may be mirrored.
            steps: of the head, over the whole run.
        """
        features = sum(widths)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, _PROJECTED))
        self.head.to(world.device)
        self.updater = Updater(self.head.parameters(), Adam(name="adam", lr=lr), world, steps)
        self._spec, self._world, self._seed, self._flips = spec, world, seed, flips
        self._temperature, self._size, self._negatives = temperature, memory, negatives
        self._memory = torch.empty(0, 2 * features, dtype=torch.float16, device=world.device)

    def local_view(self, images: Tensor, draw: int) -> Tensor:
        """Cut a part of 25 to 100 % of each image (b, C, H, W) out, mirror some, and enlarge them, with gradients."""
        rows = slice(self._world.rank * len(images), (self._world.rank + 1) * len(images))
        generator = Generator().manual_seed(mix(self._seed, _VIEW, draw))
        numbers = torch.rand(5, len(images) * self._world.size, generator=generator)[:, rows]
        area, aspect, y, x, flip = numbers
        area = _AREA[0] + (_AREA[1] - _AREA[0]) * area
        root = torch.exp(math.log(_ASPECT[0]) + math.log(_ASPECT[1] / _ASPECT[0]) * aspect).sqrt()
        height, width = (area.sqrt() / root).clamp(max=1), (area.sqrt() * root).clamp(max=1)
        zero = torch.zeros_like(area)
        top, left = (1 - height) * (2 * y - 1), (1 - width) * (2 * x - 1)  # centre of the part in [-1, 1]
        matrices = torch.stack([width, zero, left, zero, height, top], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(matrices.to(images, non_blocking=True), list(images.shape), align_corners=False)
        cut = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return mirrored(cut, flip < 0.5) if self._flips else cut

    def loss(self, local: Tensor, whole: Tensor, draw: int) -> Tensor:
        """Return L_con for the features (b, D) of local and global views; ``draw`` decides who comes from memory."""
        known = self._memory[self._drawn(draw)].float()
        known_local, known_whole = known.chunk(2, dim=1)
        views = self.head(torch.cat([local, known_local, whole, known_whole]))
        from_local, from_whole = F.normalize(views, dim=1).chunk(2)
        logits = from_local @ from_whole.detach().T / self._temperature
        each = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
        rows = len(local)
        return each[:rows].mean() + (each[rows:].mean() if len(known) else 0)

    def remember(self, features: Tensor) -> None:
        """Put (b, 2 D), local beside global, of all workers' images into the memory; the oldest go."""
        new = self._world.gather(features.detach()).flatten(0, 1).to(self._memory)
        self._memory = torch.cat([self._memory, new])[-self._size :]

    def state_dict(self) -> dict[str, Any]:
        """Return the memory; the head is among what the method trains."""
        return {"features": self._memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._memory = state["features"].to(self._memory)

    def state_bytes(self) -> int:
        """Return the bytes of a full memory."""
        return self._size * self._memory.shape[1] * self._memory.element_size()

    def _drawn(self, draw: int) -> Tensor:
        generator = Generator().manual_seed(mix(self._seed, _NEGATIVES, draw))
        chosen = torch.randperm(len(self._memory), generator=generator)[: self._negatives]
        return chosen.to(self._memory.device, non_blocking=True)


def feature_means(by_image: Moments) -> Tensor:
    """Return f (n, D) of the moments of single images, each layer's (n, C)."""
    return torch.cat([mean for mean, _ in by_image], dim=1)
