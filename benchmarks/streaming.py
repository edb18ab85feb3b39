"""Images read from Parquet as they are needed, against all of them in memory: pace and memory.

    python benchmarks/streaming.py [--data cifar10] [--buffer 5000] [--batch 256] [--epochs 2] [--rounds 3]

Each way and round is a process of its own that takes all batches of some epochs of a train split and does nothing with
them, so that all there is to see is reading, decoding and shuffling; the ways alternate. Seconds are of the wall and of
the processor, first loading included; memory is the process's peak above what it had before it opened the data.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from raykd.data.datasets import Images, data_spec
from raykd.data.ledger import OpenedData
from raykd.data.streamed import StreamedImages
from raykd.data.streams import TrainStream
from raykd.distributed.world import World

MIB = 1024  # kibibytes


def read(data: str, buffer: int | None, batch: int, epochs: int) -> dict[str, float]:
    """Take all batches; return seconds, images and MiB."""
    root = Path(os.environ["RAYKD_DATA"])
    spec, world, opened = data_spec(data, data_root=root), World.alone(), OpenedData(root)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    images: Images | StreamedImages
    if buffer is None:
        images = opened.open("ood", data, "train", spec)
    else:
        images = opened.stream(
            "ood", data, "train", spec, buffer=buffer, rows=None, seed=0, global_batch=batch, share=world.slice(batch)
        )
    count = images.count if isinstance(images, StreamedImages) else len(images.labels)
    stream = TrainStream(images, spec, world, batch, 0)
    steps = epochs * count // batch
    for step in range(steps):
        stream.batch(step)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "images": steps * batch,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / MIB,
    }


def main() -> None:
    """Measure, alternating, and print medians; or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--buffer", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=("memory", "streamed"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not os.environ.get("RAYKD_DATA"):
        sys.exit("RAYKD_DATA is not set: it names the folder with the set of --data")
    if options.way:
        buffer = options.buffer if options.way == "streamed" else None
        print(json.dumps(read(options.data, buffer, options.batch, options.epochs)))
        return
    found: dict[str, list[dict[str, float]]] = {"memory": [], "streamed": []}
    for _ in range(options.rounds):
        for way, results in found.items():
            told = subprocess.run([sys.executable, *sys.argv, "--way", way], capture_output=True, text=True, check=True)
            results.append(json.loads(told.stdout))
    for way, results in found.items():
        wall, cpu, images, memory = (
            statistics.median(r[k] for r in results) for k in ("wall", "cpu", "images", "memory")
        )
        print(f"{way}: {images / wall:,.0f} images/s, {1e6 * cpu / images:.0f} CPU-us an image, {memory:,.0f} MiB")


if __name__ == "__main__":
    main()
