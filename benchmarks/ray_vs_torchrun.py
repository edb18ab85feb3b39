"""What Ray costs once a run is going: the same run by two workers of torchrun and by two of Ray Train.

    python benchmarks/ray_vs_torchrun.py --rounds 3

Rounds alternate, so that a busy neighbour meets both. Images per second are taken between the second report and the
last, from the run's own metrics.jsonl, so starting up does not count, while reports and checkpoints do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WORKERS = 2


def torchrun() -> list[str]:
    """Return the command that starts the workers of torchrun."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]


def throughput(metrics: Path) -> float:
    """Return images per second from the second report to the last; the file's own rates count from the start."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    first, last = rows[1], rows[-1]
    # A rate is steps x batch / seconds; the batch is the same in both and returns at the end.
    seconds_per_batch = last["step"] / last["images_per_second"] - first["step"] / first["images_per_second"]
    return float((last["step"] - first["step"]) / seconds_per_batch)


def measure(launcher: str, arguments: list[str], folder: Path) -> float:
    """Make the run in an empty store and return its images per second."""
    store = folder / "runs"
    command = ["-m", "raykd", "train", *arguments, "--out", str(store)]
    if launcher == "ray":
        cluster = folder / "two.yaml"
        cluster.write_text(f"workers: {WORKERS}\nthreads: 1\n", encoding="utf-8")
        command = [sys.executable, *command, "--cluster", str(cluster)]
    else:
        command = [*torchrun(), *command]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (metrics,) = store.glob("*/metrics.jsonl")
    return throughput(metrics)


def main() -> None:
    """Alternate the launchers and print every round, the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="supervised_digits_lenet5", help="one without a run as its teacher")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    schedule = [f"schedule.steps={options.steps}", f"schedule.report_every={options.steps // 6}"]
    rates: dict[str, list[float]] = {"torchrun": [], "ray": []}
    for number in range(options.rounds):
        for launcher in sorted(rates, reverse=number % 2 == 0):
            with tempfile.TemporaryDirectory() as folder:
                rate = measure(launcher, [options.recipe, *schedule], Path(folder))
            rates[launcher].append(rate)
            print(f"round {number + 1}  {launcher:<9}{rate:9.0f} images/s", flush=True)
    medians = {launcher: statistics.median(values) for launcher, values in rates.items()}
    print(f"median  torchrun {medians['torchrun']:.0f}, ray {medians['ray']:.0f}")
    print(f"ray / torchrun  {medians['ray'] / medians['torchrun']:.3f}")


if __name__ == "__main__":
    main()
