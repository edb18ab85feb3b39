"""Which images of another domain a teacher is least sure of: ranked once, kept in an index that recipes name.

Fang et al. (NeurIPS 2021, arXiv 2110.15094) take of ImageNet and Places365, at 32 pixels, as many images as
the teacher's own training set has: those of highest prediction entropy H(p) = -sum_c p_c ln p_c, in nats.

Shapes: N images, K classes.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.data import parquet
from raykd.data.datasets import Images, count_images, find_split, load_images, train_spec
from raykd.data.index import write_index
from raykd.data.pixels import fit
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.engine.build import build_spec
from raykd.errors import UsageError
from raykd.models.teacher import Teacher
from raykd.results import Ranking
from raykd.spec import DataSpec
from raykd.store.workspace import Workspace
from raykd.tasks.inspect import Subject, as_file_name, load_subject

logger = logging.getLogger(__name__)

_BATCH = 512
_REPORT_SECONDS = 30.0


def rank(subject: Subject, data: str, images: int | None, out: Path | None, workspace: Workspace) -> Ranking:
    """Rank the train split of a set by the teacher's prediction entropy; write the first ``images`` rows.

    What is held is a batch of images and two numbers for each seen, so the set may be of any size.

    Args:
        subject: the teacher.
        data: name of the set of other images.
        images: how many to keep; None for all, in order.
        out: file; None for one in the current directory, named by teacher and set.
        workspace: where data and runs are.

    Raises:
        UsageError: if the set is not there, is smaller than asked for, or the file exists.
        CorruptError: if weights or data are damaged.
        SetupError: if the file cannot be written.
    """
    spec, world = build_spec(subject.data, workspace), World.current()
    path = out or Path(f"ood-{subject.title}-{as_file_name(data)}.parquet")
    if path.exists():
        raise UsageError(f"{path} exists already; remove it, or write to another file")
    teacher_spec = train_spec(data, spec, workspace.data, labelled=False)
    count = count_images(data, "train", workspace.data)
    if images is not None and not 0 < images <= count:
        raise UsageError(f"images is {images:,}, and {data}/train has {count:,}; ask for 1 to {count:,}")
    network, digest = load_subject(subject, spec, workspace)
    teacher = Teacher(network, channels=spec.channels, size=spec.size).to(world.device)
    entropies, predicted = [], []
    reported = time.monotonic()
    seen = 0
    for pixels, labels in _parts(data, teacher_spec, workspace.data):
        for batch in evaluation_batches(Images(pixels, labels), teacher_spec, world, _BATCH):
            with torch.no_grad():
                log_p = F.log_softmax(teacher(batch.images)[0].float(), dim=1)
            # 0 ln 0 is 0: a probability that underflows has a finite logarithm here.
            entropies.append(-(log_p.exp() * log_p).sum(1).cpu())
            predicted.append(log_p.argmax(1).cpu())
        seen += len(labels)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            logger.info("%s of %s images of %s judged", f"{seen:,}", f"{count:,}", data)
    entropy, classes = torch.cat(entropies), torch.cat(predicted)
    # A stable order: equal entropies keep the order of the split.
    order = entropy.argsort(descending=True, stable=True)[:images]
    metadata: dict[str, Any] = {"data": data, "split": "train", "of": count, "images": len(order)}
    metadata |= {"teacher": subject.title, "teacher_sha256": digest, "classes": spec.num_classes}
    write_index(path, order, entropy[order], classes[order], metadata)
    shares = classes[order].bincount(minlength=spec.num_classes)
    return Ranking(
        file=str(path),
        **metadata,
        entropy_highest=float(entropy[order[0]]),
        entropy_lowest=float(entropy[order[-1]]),
        entropy_of_all=float(entropy.mean()),
        classes_predicted=int((shares > 0).sum()),
        largest_class=int(shares.max()),
    )


def _parts(data: str, teacher_spec: DataSpec, data_root: Path | None) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield (pixels, labels) of the split in order, a few hundred at a time."""
    files = find_split(data, "train", data_root)
    if files:
        return parquet.read(files, lambda images: fit(images, teacher_spec))
    return [load_images(data, "train", teacher_spec, data_root)]
