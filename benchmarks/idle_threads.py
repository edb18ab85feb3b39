"""What passive threads (OMP_WAIT_POLICY=PASSIVE, which raykd sets) cost and save on a machine that others use too.

    python benchmarks/idle_threads.py [--seconds 6] [--rounds 3] [--load 6] [--trials 4]

The same training loop of two threads, torch's own waiting against passive waiting, interleaved, medians over rounds:
alone, beside busy processes, under a quota of one CPU (where this user may make a control group), and as trials that
take more threads than there are cores.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

LOOP = """
import sys, time, torch
from torch import nn
torch.set_num_threads(2)
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(1, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                        nn.Conv2d(32, 64, 5), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10))
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
images, labels = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
def step():
    loss = nn.functional.cross_entropy(network(images), labels)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
step()
print("ready", flush=True); sys.stdin.readline()
steps, started = 0, time.monotonic()
while time.monotonic() - started < float(sys.argv[1]):
    step(); steps += 1
print(steps / (time.monotonic() - started))
"""
WAITING: dict[str, dict[str, str]] = {"torch's own": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}


def main() -> None:
    """Print steps a second under each kind of load, both ways of waiting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=int, default=6, help="busy processes of others")
    parser.add_argument("--trials", type=int, default=4, help="loops at once")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores | steps/s, torch's own waiting | passive | ratio")
    _row("alone", asked)
    with _busy(asked.load):
        _row(f"{asked.load} busy processes beside it", asked)
    with _quota() as joins:
        _row("quota of one CPU", asked, joins=joins) if joins else print("quota of one CPU | not allowed here")
    _row(f"{asked.trials} trials at once, each", asked, loops=asked.trials)


def _row(name: str, asked: argparse.Namespace, *, loops: int = 1, joins: list[Path] | None = None) -> None:
    rates: dict[str, list[float]] = {waiting: [] for waiting in WAITING}
    for _ in range(asked.rounds):
        for waiting, variables in WAITING.items():
            rates[waiting].append(_steps_per_second(loops, asked.seconds, variables, joins or []))
    own, passive = (median(rates[waiting]) for waiting in WAITING)
    print(f"{name} | {own:.1f} | {passive:.1f} | {passive / own:.2f}", flush=True)


def _steps_per_second(loops: int, seconds: float, variables: dict[str, str], joins: list[Path]) -> float:
    """Return the mean rate of so many loops that start together."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", LOOP, str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env={**others, **variables}, **pipes) for _ in range(loops)]  # type: ignore[call-overload]
    for process in running:
        assert process.stdout.readline() == "ready\n"
        for group in joins:
            group.write_text(str(process.pid))
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in running) / loops


@contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def _quota() -> Iterator[list[Path]]:
    """Make a control group with a quota of one CPU; give the files that take a process in, none where it may not be."""
    versions = {"/sys/fs/cgroup/cpu": ("cpu.cfs_quota_us", "100000"), "/sys/fs/cgroup": ("cpu.max", "100000 100000")}
    for root, (file, value) in versions.items():
        group = Path(root, f"raykd-idle-threads-{os.getpid()}")
        try:
            group.mkdir()
            (group / file).write_text(value)
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        try:
            yield [group / "cgroup.procs"]
        finally:
            group.rmdir()
        return
    yield []


if __name__ == "__main__":
    main()
