"""What it saves a student to know its teacher's answers beforehand.

    python benchmarks/cached_logits.py [--teacher lenet5 resnet34] [--steps 40] [--rounds 5]

One thread takes steps of distillation with the data on random images of the sets' shapes: asking the teacher in every
step, and with the logits that were computed once. Both ways do the same arithmetic in the student and end with equal
weights, which is checked; steps are timed in CPU seconds, in rounds that alternate, and the medians are divided. What
computing them once costs is told in steps.
"""

import argparse
import time
from statistics import median

import torch

from raykd.config.optim import Sgd
from raykd.data.datasets import DATASETS, Images
from raykd.data.streams import TrainStream, evaluation_batches
from raykd.distributed.world import World
from raykd.methods.base import Method, MethodContext
from raykd.methods.kd import Kd, KdConfig
from raykd.models import build_model
from raykd.models.logits import compute_logits
from raykd.models.teacher import Teacher

PAIRS = (
    ("mnist", "lenet5", "lenet5_half", 256),
    ("mnist", "hinton1200", "hinton800", 256),
    ("cifar10", "cifar_resnet56", "cifar_resnet20", 64),
    ("cifar10", "resnet34", "wrn_16_1", 32),
)
IMAGES = 512


def made(data: str, teacher: str, student: str, batch: int, cached: bool) -> tuple[Method, TrainStream, float]:
    """Build one way, and tell the CPU seconds that computing the logits of one image took."""
    spec, world = DATASETS[data], World.alone()
    torch.manual_seed(0)
    sizes = {"num_classes": spec.num_classes, "channels": spec.channels, "size": spec.size}
    networks = [build_model(name, **sizes).to(memory_format=torch.channels_last) for name in (teacher, student)]
    asked = Teacher(networks[0], channels=spec.channels, size=spec.size)
    context = MethodContext(
        spec=spec,
        world=world,
        networks={"student": networks[1], "teacher": asked},
        student_optim=Sgd(name="sgd", lr=0.01),
        steps=1000,
        global_batch=batch,
        seed=0,
        compiler=lambda network: network,
    )
    pixels = torch.randint(0, 256, (IMAGES, spec.channels, spec.size, spec.size), dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, spec.num_classes, (IMAGES,)))
    logits, began = None, time.process_time()
    if cached:
        logits = compute_logits(asked, (b.images for b in evaluation_batches(images, spec, world, 256)), world)
    seconds = (time.process_time() - began) / IMAGES
    stream = TrainStream(images, spec, world, batch, 0, teacher_logits=logits)
    return Kd(KdConfig(name="kd"), context), stream, seconds


def main() -> None:
    """Print a table of the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    teachers = [teacher for _, teacher, _, _ in PAIRS]
    parser.add_argument("--teacher", choices=teachers, nargs="+", default=teachers, help="default: all")
    parser.add_argument("--steps", type=int, default=40, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| teacher -> student, batch | live, ms | cached, ms | ratio | computing them once, for each batch |")
    print("|---|---|---|---|---|")
    for data, teacher, student, batch in PAIRS:
        if teacher not in options.teacher:
            continue
        steps = options.steps if data == "mnist" else max(2, options.steps // 10)
        ways = {cached: made(data, teacher, student, batch, cached) for cached in (False, True)}
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(options.rounds + 1):
            for cached, (method, stream, _) in ways.items():
                began = time.process_time()
                for _ in range(steps):
                    method.step({"train": stream.batch(method.steps_done)})
                if number:  # the first round warms up
                    times[cached].append((time.process_time() - began) / steps)
        live, known = median(times[False]), median(times[True])
        for one, other in zip(*(way[0].student.state_dict().values() for way in ways.values()), strict=True):
            assert torch.equal(one, other), "both ways must learn the same"
        share = ways[True][2] * batch / live  # computing an epoch's logits, in live steps for each batch
        print(
            f"| {teacher} -> {student}, {batch} | {1e3 * live:.1f} | {1e3 * known:.1f} | {live / known:.2f} | "
            f"{share:.2f} of a live step |"
        )


if __name__ == "__main__":
    main()
