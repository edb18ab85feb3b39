"""The images that students are judged on where no real one may be: of several ages and kinds, and every class counts.

A generator that makes one class is agreed on by a student that always answers it. So agreement is a mean over the
teacher's classes, in which those that are not shown are answered wrongly: one class of K alone earns 1 / K. And a
generator may make what no camera does, on which a student learns to agree and on pixels does not. So half of the images
are stretched to the range of real ones, and the half that is agreed on less is what counts.

Shapes: N images, C channels, H W image, K classes.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from raykd.distributed.world import World, mix
from raykd.models.logits import compute_logits
from raykd.spec import DataSpec

_REPORTS, _PER_CLASS = 8, 20  # images are held of so many reports' worth, and so many of each class
_MOST_IMAGES, _MOST_BYTES = 8192, 64 * 2**20
_BATCH = 256
_ARRIVAL = 0xA9E5  # keeps the draws of views, and of who stays, apart from others of the same seed
_HELD = ("images", "teacher_logits", "keys", "stretched", "origins")

_FEWEST = 5  # images that show a class; of a pool that has fewer for each, all images count alike
_SHARE = 0.2  # of the images that each class has where all have equally many: so many show it
_SHIFT = 2  # pixels


def class_credit(labels: Tensor, num_classes: int, world: World) -> Tensor:
    """Return what each image counts, float64 (N,); their sum over all workers is 1 where all classes are shown.

    A class counts 1 / K, shared by its images, and less where they are fewer than ``_FEWEST``, or than ``_SHARE`` of an
    equal part. Where even an equal part is less, as of 200 images of 1,000 classes, images count alike.

    Args:
        labels: the teacher's answers to this worker's share of the images, int64 (N,).
        num_classes: K.
        world: whose workers hold the other shares.
    """
    counts = world.sum(labels.bincount(minlength=num_classes).double())
    enough = max(_FEWEST, _SHARE * counts.sum().item() / num_classes)
    return (1 / counts.clamp(min=enough) / min(num_classes, counts.sum().item() / enough))[labels]


def balanced_score(logits: Tensor, teacher_logits: Tensor, world: World) -> dict[str, float]:
    """Return agreement (per cent) and KL(teacher || student) in nats as means over classes, of all workers' shares.

    What is missing of the classes is disagreed on, at a divergence of ln K: that of an answer that knows nothing.

    Args:
        logits: the student's, of this worker's share of the images, float32 (N, K).
        teacher_logits: the teacher's, likewise.
        world: whose workers hold the other shares.
    """
    num_classes = teacher_logits.shape[1]
    labels = teacher_logits.argmax(1)
    credit = class_credit(labels, num_classes, world)
    divergence = F.kl_div(logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="none", log_target=True)
    sums = torch.stack([credit.sum(), credit[logits.argmax(1) == labels].sum(), (credit * divergence.sum(1)).sum()])
    shown, agreed, kl = world.sum(sums).tolist()
    return {"agreement": min(100.0, 100 * agreed), "kl": kl + max(0.0, 1 - shown) * math.log(num_classes)}


class BlindPool:
    """A uniform sample of all held-out images that there were, with the teacher's answers; the same on every worker."""

    def __init__(self, spec: DataSpec, seed: int, *, mirrored: bool) -> None:
        """Hold nothing yet; ``mirrored`` says whether a mirrored image shows the same class."""
        self._spec, self._num_classes, self._seed, self._mirrored = spec, spec.num_classes, seed, mirrored
        self._held: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Return how many images are held."""
        return len(self._held["keys"]) if self._held else 0

    def add(self, images: Tensor, step: int, teacher: nn.Module, world: World) -> Tensor:
        """Take the images of a report, (N, C, H, W) in network-input space, some of them as other views.

        Where there are too many then, each image of each report has the same chance to stay. Returns the teacher's
        answers to those that are not stretched, int64.
        """
        generator = Generator().manual_seed(mix(self._seed, _ARRIVAL, step))
        # Banks give their classes in turn: taken as they come, every second image would be of every second class.
        images = images[torch.randperm(len(images), generator=generator).to(images.device)]
        # Stored halved in size; the teacher answers what is stored, so both networks see the same pixels.
        origins = torch.cat([_origins(images[::2]), _origins(images[1::2])])
        halves = images[::2], _stretched(images[1::2], self._spec)
        images = torch.cat([_with_views(half, generator, mirrored=self._mirrored) for half in halves]).half()
        stretched = torch.arange(len(images)) >= len(halves[0])
        answers = compute_logits(teacher, (batch.float() for batch in images.split(_BATCH)), world)
        labels = answers[~stretched.to(answers.device)].argmax(1).cpu()
        keys = torch.rand(len(images), generator=generator, dtype=torch.float64)
        held = dict(zip(_HELD, (images.cpu(), answers.cpu(), keys, stretched, origins), strict=True))
        if self._held:
            held = {name: torch.cat([self._held[name], rows]) for name, rows in held.items()}
        limit = _limit(self._spec, len(images))
        if len(held["keys"]) > limit:
            stays = held["keys"] <= held["keys"].kthvalue(limit).values
            held = {name: rows[stays] for name, rows in held.items()}
        self._held = held
        return labels

    def score(self, student: nn.Module, world: World) -> dict[str, float]:
        """Return agreement and KL of a student, see ``balanced_score``, on the half of the images where each is worse.

        Every worker must call it.
        """
        share = slice(world.rank, None, world.size)
        batches = (batch.to(world.device).float() for batch in self._held["images"][share].split(_BATCH))
        logits = compute_logits(student, batches, world)
        answers = self._held["teacher_logits"][share].to(world.device)
        stretched = self._held["stretched"]
        halves = [rows[share].to(world.device) for rows in (stretched, ~stretched) if rows.any()]
        scores = [balanced_score(logits[rows], answers[rows], world) for rows in halves]
        return {"agreement": min(one["agreement"] for one in scores), "kl": max(one["kl"] for one in scores)}

    @property
    def as_made(self) -> Tensor:
        """Return the images that are not stretched, float32 (N, C, H, W), some of them as other views."""
        return self._held["images"][~self._held["stretched"]].float()

    @property
    def coverage(self) -> float:
        """Return the per cent of the classes that images as they were made show, those of few images in part."""
        return 100 * self._credit.sum().item()

    @property
    def effective_images(self) -> float:
        """Return how many images of equal weight tell as much: (sum of credits)^2 / sum of squares (Kish 1965).

        An image that came in several reports, as of a pool, is one: its credits are added up before they are squared.
        """
        credit = self._credit
        _, image = self._held["origins"][~self._held["stretched"]].unique(return_inverse=True)
        of_images = torch.zeros_like(credit).index_add(0, image, credit)
        return float(credit.sum().square() / of_images.square().sum())

    @property
    def _credit(self) -> Tensor:
        labels = self._held["teacher_logits"][~self._held["stretched"]].argmax(1)
        return class_credit(labels, self._num_classes, World.alone())

    def state_dict(self) -> dict[str, Tensor]:
        """Return, row by row, images in half precision, the teacher's logits, who stays, the half, and where from."""
        return dict(self._held)

    def load_state_dict(self, state: Mapping[str, Tensor] | Sequence[Sequence[Tensor]]) -> None:
        """Restore what ``state_dict`` returned, or what earlier versions saved: without origins, or pairs alone.

        Raises:
            KeyError, TypeError, ValueError: if it is neither.
        """
        if not state:
            self._held = {}
        elif isinstance(state, Mapping):
            own = {"origins": torch.arange(len(state["keys"])), **state}
            self._held = {name: own[name] for name in _HELD}
        else:
            images, answers = (torch.cat(rows) for rows in zip(*state, strict=True))
            generator = Generator().manual_seed(mix(self._seed, _ARRIVAL))
            keys = torch.rand(len(images), generator=generator, dtype=torch.float64)
            stretched = torch.zeros(len(images), dtype=torch.bool)
            origins = torch.arange(len(images))
            self._held = dict(zip(_HELD, (images, answers, keys, stretched, origins), strict=True))


def _limit(spec: DataSpec, images: int) -> int:
    """Return how many images to hold, of so many a report: to score them must not take longer than training."""
    wanted = max(_REPORTS * images, _PER_CLASS * spec.num_classes)
    fitting = _MOST_BYTES // (2 * spec.channels * spec.size**2)
    return max(images, min(wanted, _MOST_IMAGES, fitting))


def pool_bytes(spec: DataSpec, images: int, reports: int) -> int:
    """Return the bytes of a pool after so many reports of so many images: in half precision, with logits and keys."""
    held = min(_limit(spec, images), reports * images)
    return held * (2 * spec.channels * spec.size**2 + 4 * spec.num_classes + 8 + 1 + 8)


def _origins(images: Tensor) -> Tensor:
    """Return a number for each image, int64 (N,), equal where images are."""
    digests = (hashlib.blake2b(image.numpy().tobytes(), digest_size=8).digest() for image in images.cpu())
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])


def _stretched(images: Tensor, spec: DataSpec) -> Tensor:
    """Return each image stretched to pixels from 0 to 1, as real ones have, in network-input space again."""
    unit = spec.denormalise(images.float())
    low, high = unit.amin((1, 2, 3), keepdim=True), unit.amax((1, 2, 3), keepdim=True)
    return spec.normalise((unit - low) / (high - low).clamp(min=1e-6)).to(images.dtype)


def _with_views(images: Tensor, generator: Generator, *, mirrored: bool) -> Tensor:
    """Return every fourth image shifted (and mirrored, one in two of them), and the next ones cut with each other.

    Cut means the left half of one beside the right half of another, as in CutMix (Yun et al. 2019, arXiv 1905.04899),
    and the teacher is asked what it sees. No generator has made these, so no student has learnt them by heart.
    """
    images, width = images.clone(), images.shape[-1]
    images[::4] = _shifted(images[::4], generator)
    if mirrored:
        images[::8] = images[::8].flip(-1)
    cut = images[1::4].clone()
    images[1::4, ..., width // 2 :] = cut[torch.randperm(len(cut), generator=generator)][..., width // 2 :]
    return images


def _shifted(images: Tensor, generator: Generator) -> Tensor:
    """Move each image by up to ``_SHIFT`` pixels; its edge fills what moves in, for generated images have no black."""
    height, width = images.shape[-2:]
    corners = torch.randint(0, 2 * _SHIFT + 1, (len(images), 2), generator=generator).to(images.device)
    padded = F.pad(images, (_SHIFT,) * 4, mode="replicate")
    y = corners[:, :1] + torch.arange(height, device=images.device)
    x = corners[:, 1:] + torch.arange(width, device=images.device)
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[rows, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
