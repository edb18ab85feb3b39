"""A thousand generators for real, on small images: memory over the waves, a stop, and another number of workers.

    python benchmarks/thousand.py [--folder DIR] [--classes 1000] [--steps 40] [--wave 50]

A ResNet-20 with random weights and 1000 outputs teaches 1000 generators of 8 pixels on two workers of Ray Train, is
stopped half-way, and three workers go on. Prints the workers' memory by wave, then checks the finished bank: every
class once, every member with all its steps.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from raykd.artifacts.bank import open_bank
from raykd.artifacts.class_statistics import save_statistics
from raykd.models import build_model
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from raykd.store.checkpoint import latest_checkpoint, read_checkpoint, save_weights
from raykd.store.run_directory import RunDirectory

SIZE, IMAGES = 8, 4


def prepare(folder: Path, classes: int, steps: int, wave: int) -> Path:
    """Write teacher, statistics, recipe and clusters; return the recipe's path."""
    import hashlib

    torch.manual_seed(0)
    network = build_model("cifar_resnet20", num_classes=classes, channels=3, size=SIZE)
    weights, statistics = folder / "teacher.safetensors", folder / "statistics.safetensors"
    save_weights(network.state_dict(), weights)
    teacher = MomentTeacher(Teacher(network, channels=3, size=SIZE))
    moments = [
        (mean + 0.3 * variance.sqrt() * torch.randn(classes, len(mean)), variance.expand(classes, -1))
        for mean, variance in teacher.running()
    ]
    about = {
        "teacher_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "data": "made-up", "split": "train", "per_class": 2, "mean": (0.5,) * 3, "std": (0.5,) * 3,
    }  # fmt: skip
    save_statistics(statistics, moments, teacher.layers, about)
    recipe = {
        "data": {"name": "made-up", "num_classes": classes, "channels": 3, "size": SIZE, "test": False},
        "teacher": {"model": "cifar_resnet20", "weights": str(weights)},
        "calibration": {"file": str(statistics)},
        "method": {
            "name": "lsgdfd", "statistics": "class", "generator": {"latent_dim": 32, "width": 32},
            "generator_optim": {"name": "adam", "lr": 5e-3},
        },
        "schedule": {"steps": steps, "report_every": 10 * steps, "global_batch": classes * IMAGES},
    }  # fmt: skip
    path = folder / "thousand.yaml"
    path.write_text(yaml.safe_dump(recipe))
    for workers in (2, 3):
        cluster = {"workers": workers, "cpus_per_worker": 0.5, "threads": 1, "wave": wave, "storage": str(folder)}
        (folder / f"workers{workers}.yaml").write_text(yaml.safe_dump(cluster))
    return path


def resident() -> int:
    """Return the largest resident memory of a Ray Train worker, in MiB."""
    sizes = [0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if "RayTrainWorker" in (status.parent / "cmdline").read_text():
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                sizes.append(int(lines["VmRSS"].split()[0]) // 1024)
        except (OSError, KeyError):
            continue
    return max(sizes)


def train(recipe: Path, workers: int, until: int | None) -> None:
    """Train, printing a line per wave; interrupt after ``until`` waves."""
    folder = recipe.parent
    command = [sys.executable, "-m", "raykd", "train", str(recipe), "--cluster", str(folder / f"workers{workers}.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen, started = rows(folder), time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        new = rows(folder)[len(seen) :]
        for row in new:
            print(
                f"{workers} workers, wave {row['wave']:.0f}: step {row['step']}, "
                f"{row['images_per_second']:.0f} images/s, {resident()} MiB each, {time.monotonic() - started:.0f} s",
                flush=True,
            )
        seen += new
        if until is not None and len(seen) >= until:
            time.sleep(1)  # into the next wave
            process.send_signal(signal.SIGINT)
            until = None
    print(f"exit code {process.returncode}", flush=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the reports so far."""
    found = next(iter(folder.glob("thousand-*/metrics.jsonl")), None)
    return [json.loads(line) for line in found.read_text().splitlines()] if found else []


def main() -> None:
    """Run the two parts and check what they made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--wave", type=int, default=50)
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="thousand-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = prepare(folder, arguments.classes, arguments.steps, arguments.wave)
    train(recipe, 2, until=arguments.classes // (4 * arguments.wave))
    train(recipe, 3, until=None)
    run = next(folder.glob("thousand-*/"))
    files = open_bank(RunDirectory(run))
    checkpoint = latest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    progress = read_checkpoint(checkpoint).state["method"]["progress"]
    whole = files.classes == tuple(range(arguments.classes)) and set(progress.values()) == {arguments.steps}
    size = sum(path.stat().st_size for path in files.folder.iterdir()) / 2**20
    print(
        f"{len(files.classes)} members, {files.numbers:,} parameters, {size:.0f} MiB on disk; all steps done: {whole}"
    )
    if not whole:
        sys.exit("the bank is not whole")


if __name__ == "__main__":
    main()
