"""What it costs a student if every worker's batch holds the worker's own classes only.

    python benchmarks/class_skew.py [--steps 300] [--seeds 3] [--workers 2]

Some workers on the CPU distil a LeNet-5 with BatchNorm on digits, each holding the images of its share of the classes:
once every worker learns on a mixture of all classes, so that images travel (what the method does), and once on images
of its own classes. Global batch, images per class and step, latents and gradient averaging are the same in both. The
test accuracy is that of the state which the engine would evaluate: BatchNorm's buffers averaged over the workers.

Real images stand in for the bank's (a latent picks one of its class), so that nothing depends on how well a bank has
been trained. The exchange is timed from each worker's call to its return: waiting for the other worker counts.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from raykd.config.optim import Adam
from raykd.data.datasets import DATASETS, Images, load_images
from raykd.data.streams import TrainStream
from raykd.distributed.updater import Updater
from raykd.distributed.world import World
from raykd.engine.evaluator import Evaluator
from raykd.engine.state import averaged_weights
from raykd.methods.bank_kd import BankKd, BankKdConfig
from raykd.methods.base import MethodContext
from raykd.models import build_model
from raykd.models.teacher import Teacher

BATCH = 120
SPEC = DATASETS["digits"]
Result = tuple[nn.Module, float]
OPTIMIZER = Adam.model_validate({"name": "adam", "lr": 2e-3, "schedule": {"name": "cosine"}})


@dataclass(frozen=True)
class TimedWorld(World):
    """A world that adds up the seconds spent in ``exchange``."""

    seconds: list[float] = field(default_factory=list)

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Exchange, and note how long it took."""
        started = time.perf_counter()
        received = super().exchange(rows, send, receive)
        self.seconds.append(time.perf_counter() - started)
        return received


class Album(nn.Module):
    """Stands in for a frozen bank: a latent, standard normal, picks one of its class's real images."""

    latent_dim = 1
    conditions = 0

    def __init__(self, images: Images, classes: Sequence[int]) -> None:
        """Keep the images of ``classes``, normalised."""
        super().__init__()
        self.classes = tuple(classes)
        pixels = SPEC.normalise(images.pixels.float() / 255)
        self._of = {label: pixels[images.labels == label] for label in self.classes}

    def mixed(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return images (N, C, H, W) for latents (N, 1) and their labels (N,)."""
        places = torch.special.ndtr(z[:, 0].double()).tolist()
        of = [self._of[label] for label in labels.tolist()]
        pairs = zip(places, of, strict=True)
        return torch.stack([images[min(int(place * len(images)), len(images) - 1)] for place, images in pairs])


class OwnClasses(BankKd):
    """The same rows in another order: every worker's part of the batch is of its own classes."""

    def labels(self, step: int) -> Tensor:
        """Return the step's classes, sorted by worker."""
        labels = super().labels(step)
        return labels[(labels % self.world.size).argsort(stable=True)]


def taught(world: World, images: Images, steps: int) -> Teacher:
    """Return a LeNet-5 without BatchNorm that has learnt the digits."""
    torch.manual_seed(1)
    network = build_model("lenet5", num_classes=SPEC.num_classes, channels=SPEC.channels, size=SPEC.size)
    updater = Updater(network.parameters(), OPTIMIZER, world, steps)
    stream = TrainStream(images, SPEC, world, BATCH, 0, ("crop",))
    for step in range(steps):
        batch = stream.batch(step)
        updater.minimise(nn.functional.cross_entropy(network(batch.images), batch.labels))
    return Teacher(network, channels=SPEC.channels, size=SPEC.size)


def distilled(method: type[BankKd], world: TimedWorld, bank: Album, teacher: Teacher, seed: int, steps: int) -> Result:
    """Return the student after its steps, and the wall seconds of one."""
    torch.manual_seed(seed)
    student = build_model("lenet5_bn", num_classes=SPEC.num_classes, channels=SPEC.channels, size=SPEC.size)
    networks: dict[str, nn.Module] = {"student": student, "teacher": teacher, "bank": bank}
    context = MethodContext(SPEC, world, networks, OPTIMIZER, steps, BATCH, seed, lambda network: network)
    made = method(BankKdConfig(name="bank_kd"), context)
    world.seconds.clear()
    started = time.perf_counter()
    for _ in range(steps):
        made.step({})
    return student, (time.perf_counter() - started) / steps


def work(steps: int, seeds: int) -> None:
    """Run as one of the workers; rank 0 prints."""
    torch.set_num_threads(1)
    here = World.current()
    world = TimedWorld(here.rank, here.size, here.device)
    train, test = (load_images(SPEC.name, split, SPEC, None) for split in ("train", "test"))
    teacher = taught(world, train, steps)
    evaluator = Evaluator(test, SPEC, world, teacher)
    bank = Album(train, range(world.rank, SPEC.num_classes, world.size))
    figures = evaluator.score_teacher()
    assert figures is not None, "there are a teacher and a test split"
    lines = [f"teacher {figures.top1:.2f} % right; students, {steps} steps:"]
    for seed in range(seeds):
        for name, method in (("all classes", BankKd), ("own classes", OwnClasses)):
            student, seconds = distilled(method, world, bank, teacher, seed, steps)
            student.load_state_dict(averaged_weights(student, world))
            top1 = evaluator.score(student)["accuracy/top1"]
            travel = sum(world.seconds) / steps
            lines.append(
                f"seed {seed}  each worker learns on {name}: {top1:6.2f} % right, {1e3 * seconds:6.2f} ms per step, "
                f"of which exchange {1e3 * travel:5.2f} ms ({travel / seconds:.1%})"
            )
    if world.rank == 0:
        print("\n".join(lines))


def main() -> None:
    """Start the workers, which are this script again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, choices=(2, 5, 10), default=2, help="divisors of the ten classes")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.steps, options.seeds)
        return
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.workers}"]
    script = [__file__, "--worker", f"--steps={options.steps}", f"--seeds={options.seeds}"]
    on_cpu = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    sys.exit(subprocess.call([sys.executable, *launcher, *script], env=on_cpu))


if __name__ == "__main__":
    main()
