"""Make a page of the results of `run.py`: ``python benchmarks/gpu/report.py [DIR] [--out docs/results/gpu.md]``.

Without a folder it is the page of before: how to measure, and that nothing was.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu.parts import read  # noqa: E402
from gpu.plan import STEPS  # noqa: E402

HOW = """# On a GPU

A folder of at most 60 MiB is all that a machine with a GPU needs, for as many minutes as there are, without a network:

<!-- runs: not: needs RAYKD_DATA, and a machine with a GPU for its last but one line -->
```sh
make gpu-kit                                # build/gpu-kit: wheels, test split, teacher, steps; its size is checked
python build/gpu-kit/run.py --device cpu --minutes 3 --out rehearsed    # everything small, its figures mean nothing
python run.py --minutes 15 --out results    # there, in the kit; the same command goes on
make gpu-report RESULTS=results             # this page
```

That machine is taken to have Linux on x86-64, Python 3.12, torch 2.7 or newer with torchvision, pyarrow, click, rich,
safetensors and a C compiler.
"""
NOTHING = """
**Nothing was measured yet**: no line of raykd has run on a GPU. What was done without one is a
rehearsal of every step on a CPU.
"""
WAYS = (
    ("published", ("published", "obvious")),
    ("published, tf32 or split", ("published tf32", "split")),
    ("eager", ("eager",)),
    ("compiled", ("compiled",)),
    ("graphs", ("graphs",)),
    ("compiled tf32", ("compiled tf32",)),
    ("compiled bf16", ("compiled bf16",)),
    ("graphs bf16", ("graphs bf16",)),
)
"""Columns of the table of speeds, and the ways that stand in each."""
THEIRS = {name for _, names in WAYS[:2] for name in names}
PEAKS = {"fp32": "peak_fp32", "tf32": "peak_tf32", "bf16": "peak_bf16"}

MOST_ERRORS = 8  # that a page names

Found = dict[str, dict[str, Any]]
"""The results by step."""


def page(folder: Path | None) -> str:
    """Return the page, as Markdown."""
    found = {name: {} if folder is None else read(folder / f"{name}.json") for name in STEPS}
    if not any(found.values()):
        return "\n".join([HOW, of_steps(found), NOTHING])
    sections = [of_machine(found), of_steps(found), of_methods(found), of_speed(found)]
    sections += [of_cifar(found), of_imagenet(found), of_workers(found), of_errors(found)]
    return "\n\n".join([HOW.rstrip(), *filter(None, sections)]) + "\n"


def parts_of(found: Found, step: str) -> dict[str, dict[str, Any]]:
    """Return the parts of a step that found something."""
    parts = found.get(step, {}).get("parts", {})
    return {name: part for name, part in parts.items() if "error" not in part}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table; nothing without rows."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]) if body else ""


def of_machine(found: Found) -> str:
    """Say what was measured on."""
    parts = parts_of(found, "machine")
    lines = []
    if any(result.get("small") for result in found.values()):
        lines.append("**A rehearsal on a CPU**: shapes are small, and no figure below means anything.\n")
    about = parts.get("versions")
    if about:
        environment, packages = about["environment"], about["packages"]
        name = environment.get("gpu") or environment.get("cpu")
        versions = ", ".join(f"{package} {version}" for package, version in packages.items())
        lines.append(f"{name}, Python {about['python']}, CUDA {about['cuda']}, {versions}.")
    peaks = [f"{key} {parts[name]['flop_per_second'] / 1e12:.1f}" for key, name in PEAKS.items() if name in parts]
    if peaks:
        lines.append(f"Products of large matrices, TFLOP/s: {', '.join(peaks)}.")
    if "copy" in parts:
        lines.append(f"Copies within its memory: {parts['copy']['bytes_per_second'] / 1e9:.0f} GB/s.")
    return "\n".join(lines)


def of_steps(found: Found) -> str:
    """Say which steps were run, and how far."""

    def row(name: str) -> list[str]:
        shows, result = STEPS[name].shows, found[name]
        if not result:
            return [f"`{name}`", shows, "not run"]
        parts = result.get("parts", {})
        errors = sum("error" in part for part in parts.values())
        seconds = sum(part.get("part_seconds", 0) for part in parts.values())
        left = len(result.get("left_out", []))
        counts = [f"{len(parts) - errors} parts", *([f"{errors} failed"] if errors else [])]
        counts += [f"{left} not reached"] if left else []
        return [f"`{name}`", shows, f"{result.get('state', '?')}: {', '.join(counts)}, {seconds:.0f} s"]

    return table(["step", "shows", "state"], [row(name) for name in STEPS])


def of_methods(found: Found) -> str:
    """Tell of correctness: curves, resumed runs, waits."""
    curves = parts_of(found, "curves")
    lines = []
    if curves:
        agree = [name for name, part in curves.items() if part["agrees"]]
        worst = max(part["early"] for part in curves.values()), max(part["late"] for part in curves.values())
        lines.append(
            f"**{len(agree)} of {len(curves)} curves agree with the CPU's** (float64, draws of the CPU; allowed: "
            f"{next(iter(curves.values()))['tolerance']}); largest deviation {worst[0]:.1e}, later {worst[1]:.1e}."
        )
        lines += [
            f"`{name}` differs: {'; '.join(part['differs']) or 'it was made for another recipe'}."
            for name, part in curves.items()
            if not part["agrees"]
        ]
    resumed, waits = parts_of(found, "resume"), parts_of(found, "syncs")
    rows = [
        [name, said(resumed.get(name), "resumed"), said(resumed.get(name), "repeated"), waited(waits.get(name))]
        for name in sorted({*resumed, *waits})
    ]
    lines.append("\n" + table(["method", "stopped and resumed", "run again", "waits for the device in a step"], rows))
    return "\n".join(lines) if curves or rows else ""


def said(part: dict[str, Any] | None, key: str) -> str:
    """Return whether two runs were equal, or by how much they were not."""
    if part is None:
        return ""
    one = part[key]
    return "equal" if one["equal"] else f"losses {one['losses']:.0e} apart, weights {one['weights']:.0e}"


def waited(part: dict[str, Any] | None) -> str:
    """Return how often a step waited, and mostly where."""
    if part is None:
        return ""
    most = sorted(part["where"].items(), key=lambda item: -item[1])[:2]
    return f"{part['waits']}" + (f" ({', '.join(f'{name} {count}' for name, count in most)})" if most else "")


def of_speed(found: Found) -> str:
    """Tell of speeds: milliseconds of a step, and how many times faster than the published one."""
    parts, peaks = parts_of(found, "speed"), parts_of(found, "machine")
    cases: dict[str, Found] = {}
    for name, part in parts.items():
        case, _, way = name.rpartition("/")
        cases.setdefault(case, {})[way] = part
    rows = [[case, *(cell(ways, names) for _, names in WAYS), share(ways, peaks)] for case, ways in cases.items()]
    head = ["ms of a step (times faster)", *(title for title, _ in WAYS), "of peak"]
    return table(head, rows)


def cell(ways: Found, names: Sequence[str]) -> str:
    """Return the milliseconds of a way, and its ratio to the first."""
    part = next((ways[name] for name in names if name in ways), None)
    if part is None:
        return ""
    base = ways.get("published") or ways.get("obvious")
    ratio = f" ({base['seconds'] / part['seconds']:.1f}x)" if base and base is not part else ""
    return f"{1000 * part['seconds']:.3g}{ratio}"


def share(ways: Found, peaks: Found) -> str:
    """Return the largest share of the measured peak that a way of ours reaches, by the operations of the eager one."""
    flop = ways.get("eager", {}).get("flop")
    shares = {
        name: flop / part["seconds"] / peaks[PEAKS[part["precision"]]]["flop_per_second"]
        for name, part in ways.items()
        if flop and name not in THEIRS and PEAKS[part["precision"]] in peaks
    }
    best = max(shares, key=shares.__getitem__, default=None)
    return "" if best is None else f"{shares[best]:.0%} ({best})"


def of_cifar(found: Found) -> str:
    """Tell of CIFAR-10: accuracy by the minute."""
    rows = []
    for name in ("cifar_5", "cifar_10"):
        part = parts_of(found, name).get("train")
        if part is None:
            continue
        curve = [row for row in part["by_report"] if "accuracy/top1" in row]
        by_minute = ", ".join(f"{row['minute']:.1f}: {row['accuracy/top1']:.1f}" for row in curve)
        blind = (part.get("blind") or {}).get("accuracy/top1")
        top1 = "" if blind is None else f"**{blind:.2f}**"
        rows.append([f"`{part['command']}`", part["compile"], f"{part['minutes']:.1f}", top1, by_minute])
    return table(["CIFAR-10 without its images", "compile", "minutes", "blind top-1", "top-1 by the minute"], rows)


def of_imagenet(found: Found) -> str:
    """Tell of ImageNet's shapes."""
    rows = []
    for name, part in parts_of(found, "imagenet").items():
        plan = part["against_plan"]
        seconds, peak = plan["seconds per step"], plan["peak memory, GiB"]
        rows.append(
            [
                name,
                f"{part['images_per_second']:.0f}",
                f"{seconds['measured']:.3g} ({seconds['foretold']:.3g}, {seconds['error_percent']:+.0f} %)",
                f"{peak['measured']:.1f} ({peak['foretold']:.1f}, {peak['error_percent']:+.0f} %)",
                f"{part['hours']:.1f}",
            ]
        )
    head = [
        "random weights",
        "images/s",
        "s of a step (foretold)",
        "GiB (foretold)",
        "hours of the whole recipe, one GPU",
    ]
    return table(head, rows)


def of_workers(found: Found) -> str:
    """Tell of workers."""
    parts, lines = parts_of(found, "workers"), []
    if one := parts.get("a group of one"):
        lines.append(
            f"One worker over {one['backend']}: {', '.join(one['collectives'])}, and a run of {one['step']} steps."
        )
    if two := parts.get("two workers, then one"):
        verdict = "agree" if two["agrees"] else "**do not agree**"
        lines.append(
            f"{two['workers']} processes on one device until step {two['stopped_at']}, then one: the losses {verdict} "
            f"with one worker's ({max(two['off']):.0e} off)."
        )
    return " ".join(lines)


def of_errors(found: Found) -> str:
    """Name what failed."""
    lines = [
        f"* `{step}`, {name}: {part['error']}"
        for step, result in found.items()
        for name, part in result.get("parts", {}).items()
        if "error" in part
    ]
    lines += [f"* `{step}`: {' '.join(result['output'][-2:])}" for step, result in found.items() if failed(result)]
    more = [f"* and {len(lines) - MOST_ERRORS} more, in the results"] if len(lines) > MOST_ERRORS else []
    return "\n".join(["Failed:", "", *lines[:MOST_ERRORS], *more]) if lines else ""


def failed(result: dict[str, Any]) -> bool:
    """Tell whether a step as a whole failed, and left what it said last."""
    return result.get("state") == "failed" and bool(result.get("output"))


def main() -> None:
    """Parse, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="?", type=Path, metavar="DIR", help="that run.py wrote")
    parser.add_argument("--out", type=Path, help="of the page; default: stdout")
    arguments = parser.parse_args()
    if arguments.results is not None and not arguments.results.is_dir():
        sys.exit(f"{arguments.results} is no folder: give the one that `run.py --out` wrote")
    text = page(arguments.results)
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text)
        print(arguments.out)


if __name__ == "__main__":
    main()
