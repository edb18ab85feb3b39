"""Options of Slurm's batch scripts, as ``sbatch`` reads them, and what they ask for on each node."""

import re
import shlex
from collections.abc import Iterator

_SHORT = {"N": "nodes", "c": "cpus-per-task", "J": "job-name", "G": "gpus"}
_NUMBER = (r"\d{1,9}", "8")
_GPUS = (r"([\w.-]+:)?\d{1,9}(,([\w.-]+:)?\d{1,9})*", "4 or a100:4")
_READ_OPTIONS = {
    "nodes": (r"[1-9]\d{0,8}([-:,]\d{1,9})*", "4 or 2-4"),
    "cpus-per-task": _NUMBER,
    "gpus": _GPUS,
    "gpus-per-node": _GPUS,
    "gpus-per-task": _GPUS,
}
"""Options that raykd reads, with the values that it understands; all others are sbatch's to check."""


def read_options(script: str) -> dict[str, str]:
    """Return the options of a script by their long names; without a value: an empty text.

    Raises:
        ValueError: for a quote that does not end.
    """
    options: dict[str, str] = {}
    for line in script.splitlines():
        if line.strip() and not line.startswith("#"):
            break  # as for Slurm, which takes none after the first command
        if not line.startswith("#SBATCH"):
            continue
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError as error:
            raise ValueError(f"{line}: {error}; end the quote") from None
        name = ""
        for word in words:
            if word.startswith("--"):
                name, _, options[name] = word[2:].partition("=")
            elif word.startswith("-"):
                name = _SHORT.get(word[1:2], word[1:2])
                options[name] = word[2:]
            else:
                options[name] = f"{options.get(name, '')} {word}".strip()
    return options


def problems(options: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each option whose value raykd cannot read, with what is wrong and what to do."""
    for name, (values, example) in _READ_OPTIONS.items():
        if name in options and not re.fullmatch(values, options[name]):
            yield f"--{name}", f"got {options[name]!r}; write it as in {example}"
    if "nodes" not in options:
        yield "--nodes", "is not given, so there is room for one node's workers; write `#SBATCH --nodes=...`"
    if (tasks := options.get("ntasks-per-node", "1")) != "1":
        yield "--ntasks-per-node", f"got {tasks!r}; Ray is started once on a node: set it to 1"


def count_nodes(options: dict[str, str]) -> int:
    """Return the largest number of nodes that the options allow."""
    return max(int(number) for number in re.findall(r"(?<![:\d])\d+", options["nodes"]))


def node_resources(options: dict[str, str]) -> dict[str, float]:
    """Return the CPUs and GPUs of a node, as far as the options give them; one task runs on each node."""
    amounts: dict[str, float] = {}
    if "cpus-per-task" in options:
        amounts["CPU"] = int(options["cpus-per-task"])
    gres = [item for item in options.get("gres", "").split(",") if item.split(":")[0] == "gpu"]
    if each := options.get("gpus-per-node") or options.get("gpus-per-task"):
        amounts["GPU"] = sum(map(_count, each.split(",")))
    elif total := options.get("gpus"):
        amounts["GPU"] = sum(map(_count, total.split(","))) // count_nodes(options)
    elif gres:
        amounts["GPU"] = sum(map(_count, gres))
    return amounts


def _count(item: str) -> int:
    """Return the number at the end of an item, as in 4, a100:4 or gpu:a100:4; without: one."""
    number = re.fullmatch(r"(?:.*:)?(\d{1,9})", item)
    return int(number[1]) if number else 1
