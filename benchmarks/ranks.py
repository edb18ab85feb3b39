"""What a worker's step costs among 1 to 512 workers, without the others: where coordination would eat the gain.

    python benchmarks/ranks.py [--workers 1,8,64,512] [--phase student ...] [--images 16] [--json]

Rank 0 of so many workers takes the steps of `raykd plan` on networks small enough that what grows with the number of
workers is seen: a CIFAR ResNet-20 with random weights and 1,000 outputs on images of 8 pixels. Each worker has equally
many images at any number (`--images`), so its processor seconds would stay equal; but a bank's 1,000 generators are
shared, so there they fall. Bytes and collectives are counted; the network's time is reckoned from them.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from thousand import prepare

from raykd.cluster.config import Cluster
from raykd.planning.on_cluster import plan_on
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe

CLASSES, CLASS_IMAGES = 1000, 4
GBIT_PER_S, LATENCY_US = 100.0, 20.0
COLUMNS = (
    "workers",
    "CPU s a step",
    "sent KiB",
    "collectives",
    "network s",
    "a report CPU s",
    "its collectives",
    "MiB",
)


def recipes(folder: Path) -> dict[str, Path]:
    """Write a recipe for each phase; return their files."""
    bank = prepare(folder, CLASSES, steps=1000, wave=2)
    shared = {key: value for key, value in yaml.safe_load(bank.read_text()).items() if key in ("data", "teacher")}
    shared["data"] |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    optimizer = {"name": "sgd", "lr": 0.1}
    student = {"student": {"model": "wrn_10_1"}, "student_optim": optimizer}
    schedule = {"steps": 1000, "report_every": 500}
    phases: dict[str, dict[str, Any]] = {
        "student": {**shared, **student, "bank": {"recipe": str(bank)}, "method": {"name": "bank_kd"}},
        "pool": {
            **shared,
            **student,
            "method": {
                "name": "pool_inversion",
                "generator_maps": [16, 16, 8],
                "inner_steps": 2,
                "warmup_calls": 0,
                "student_steps": 10,
                "max_images": 100_000,
            },
        },
        "jobs": {
            **shared,
            "method": {
                "name": "pixel_inversion",
                "images": 16 * CLASSES,
                "pixel_optim": {"name": "adam", "lr": 0.25},
            },
        },
    }
    files = {"bank": bank}
    for name, content in phases.items():
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump({**content, "schedule": schedule | {"global_batch": 2}}))
    return files


def measure(recipe: Path, phase: str, workers: int, images: int) -> dict[str, float]:
    """Plan one number of workers, and return its figures by column."""
    # A job is one worker's, whatever their number; a bank's members are dealt.
    batch = {"bank": CLASSES * CLASS_IMAGES, "jobs": images}.get(phase, images * workers)
    cluster = Cluster(
        name="simulated",
        address="auto",
        workers=workers,
        threads=1,
        bank="exchange",
        network_gbit_per_s=GBIT_PER_S,
        network_latency_us=LATENCY_US,
    )
    experiment = resolve(load_recipe(str(recipe), [f"schedule.global_batch={batch}"]))
    run = plan_on(experiment, cluster, store=recipe.parent / "runs", data_root=None, alone=True).runs[-1]
    assert run.peak_bytes is not None, "it was planned"
    values = (
        workers,
        run.cpu_seconds_per_step,
        (run.traffic_bytes_in_all or 0) / 1024,
        run.collectives_per_step or 0,
        run.network_seconds_per_step or 0,
        run.seconds_per_report,
        run.collectives_per_report or 0,
        run.peak_bytes / 2**20,
    )
    return {name: float(value or 0) for name, value in zip(COLUMNS, values, strict=True)}


def markdown(tables: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Lay the tables out as one."""
    lines = [f"| phase | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for phase, rows in tables.items():
        lines += [f"| {phase} | {' | '.join(f'{row[name]:.4g}' for name in COLUMNS)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", default="1,8,64,512")
    parser.add_argument("--phase", nargs="+", choices=("bank", "student", "pool", "jobs"))
    parser.add_argument("--images", type=int, default=16, help="of a worker in a step")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.workers.split(",")]
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        files = recipes(Path(name))
        tables = {
            phase: [measure(files[phase], phase, count, arguments.images) for count in counts]
            for phase in arguments.phase or files
        }
    print(json.dumps(tables) if arguments.json else markdown(tables))


if __name__ == "__main__":
    main()
