"""How the two phases of a bank scale with workers, and what the exchange of images costs the student's.

    python benchmarks/scaling.py [--workers 1 2] [--rounds 3] [--steps 20] [--figure FILE] [--json]

Every worker is a process with one thread (gloo). Weak scaling: each works at as much as the one worker does, 5 members
x 20 images in the bank phase and 128 images in the student phase, so the ideal rate grows with the workers. All cases
take turns, round by round. Networks are those of the digits recipes: LeNet-5 with BatchNorm, LS-GDFD generators of
width 32 at 32 pixels, half a LeNet-5 as the student; ``--heavy`` takes a ResNet-20, width 64 and WRN-16-1.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from class_skew import TimedWorld

from raykd.config.optim import Adam
from raykd.config.runtime import Runtime
from raykd.distributed.host import prepare_host
from raykd.distributed.world import World
from raykd.generators import GeneratorBank, GeneratorConfig
from raykd.generators.waves import Wave
from raykd.methods import METHODS
from raykd.methods.bank_kd import BankKdConfig
from raykd.methods.base import Method, MethodContext
from raykd.methods.lsgdfd import LsgdfdConfig
from raykd.models import build_model
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from raykd.spec import DataSpec

CASES = ("bank", "copy", "exchange")
MEMBERS, IMAGES, BATCH, CLASSES = 5, 20, 128, 20
OPTIM = Adam.model_validate({"name": "adam", "lr": 1e-3})


def build(case: str, heavy: bool, world: World) -> Method:
    """Return the method of a case with random networks."""
    channels = 3 if heavy else 1
    spec = DataSpec("made", CLASSES, channels, 32, (0.5,) * channels, (0.5,) * channels)
    sizes = {"num_classes": CLASSES, "channels": channels, "size": 32}
    generator = GeneratorConfig(latent_dim=64, width=64 if heavy else 32)
    torch.manual_seed(0)
    teacher = Teacher(build_model("cifar_resnet20" if heavy else "lenet5_bn", **sizes), channels=channels, size=32)
    bank = GeneratorBank(range(CLASSES), generator, channels=channels, size=32)
    bank.initialise(0)
    if case == "exchange":
        share = GeneratorBank(
            Wave(0, bank.classes).share(world.rank, world.size), generator, channels=channels, size=32
        )
        for label in share.classes:
            share.load_member(label, bank.member_state(label))
        bank = share
    statistics = [(torch.zeros(CLASSES, width), torch.ones(CLASSES, width)) for width in MomentTeacher(teacher).widths]
    context = MethodContext(
        spec=spec,
        world=world,
        networks={
            "student": build_model("wrn_16_1" if heavy else "lenet5_half", **sizes),
            "teacher": teacher,
            "bank": bank.eval().requires_grad_(False),
        },
        student_optim=OPTIM,
        steps=10_000,
        global_batch=CLASSES * IMAGES if case == "bank" else BATCH * world.size,
        seed=0,
        compiler=lambda network: network,
        runtime=Runtime(wave=MEMBERS),
        statistics=statistics,
    )
    if case == "bank":
        config: Any = LsgdfdConfig(
            name="lsgdfd", statistics="class", generator=generator, settle_passes=0, generator_optim=OPTIM
        )
        return METHODS["lsgdfd"](config, context)
    return METHODS["bank_kd"](BankKdConfig(name="bank_kd"), context)


def work(case: str, heavy: bool, steps: int) -> None:
    """Be one worker: a few steps to warm up, then those that are timed; rank 0 prints the result."""
    prepare_host(1)
    alone = World.current()
    world = TimedWorld(alone.rank, alone.size, alone.device, alone.precision)
    method = build(case, heavy, world)
    for _ in range(3):
        method.step({})
    world.gather_objects(None)  # all set out together
    world.seconds.clear()
    started, images = time.perf_counter(), 0
    for _ in range(steps):
        images += method.images_per_step
        method.step({})
    seconds = max(world.gather_objects(time.perf_counter() - started))
    waited = max(world.gather_objects(sum(world.seconds)))
    if world.rank == 0:
        print(json.dumps({"images_per_second": images / seconds, "exchange": waited / seconds}), flush=True)


def measure(case: str, heavy: bool, workers: int, steps: int) -> dict[str, float]:
    """Start the workers of one measurement and return what rank 0 printed."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable, __file__, "--work", case, "--steps", str(steps), *["--heavy"] * heavy]
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(workers)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"a worker of {case} failed")
    result: dict[str, float] = json.loads(outputs[0].splitlines()[-1])
    return result


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the rates over the workers, beside the ideal."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(CASES), figsize=(10, 3.2), sharey=True)
    for axis, case in zip(axes, CASES, strict=True):
        mine = [row for row in rows if row["case"] == case]
        counts, base = [row["workers"] for row in mine], mine[0]["images_per_second"]
        axis.plot(counts, counts, "--", color="grey", label="ideal")
        axis.plot(counts, [row["images_per_second"] / base for row in mine], "o-", label="measured")
        axis.set(title=case, xlabel="workers", xticks=counts)
    axes[0].set_ylabel("images per second, relative")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--heavy", action="store_true", help="ResNet-20 and WRN-16-1 instead of LeNets")
    parser.add_argument("--figure", type=Path, help="draw to this file")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.heavy, arguments.steps)
        return
    places = [(case, workers) for case in CASES for workers in arguments.workers]
    found: dict[tuple[str, int], list[dict[str, float]]] = {place: [] for place in places}
    for _ in range(arguments.rounds):
        for case, workers in places:
            found[case, workers].append(measure(case, arguments.heavy, workers, arguments.steps))
    rows = []
    for (case, workers), results in found.items():
        rate = median(result["images_per_second"] for result in results)
        alone = median(result["images_per_second"] for result in found[case, arguments.workers[0]])
        rows.append(
            {
                "case": case,
                "workers": workers,
                "images_per_second": rate,
                "efficiency": rate / alone / (workers / arguments.workers[0]),
                "exchange": median(result["exchange"] for result in results),
            }
        )
    if arguments.figure:
        draw(rows, arguments.figure)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print("| phase | workers | images/s | weak efficiency | exchange, of the step |\n|---|---|---|---|---|")
    for row in rows:
        share = f"{row['exchange']:.1%}" if row["case"] == "exchange" else ""
        print(
            f"| {row['case']} | {row['workers']} | {row['images_per_second']:.0f} | {row['efficiency']:.2f} | {share} |"
        )


if __name__ == "__main__":
    main()
