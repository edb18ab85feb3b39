"""Options of Slurm's batch scripts, as ``sbatch`` reads them, and what they ask for on each node."""

import re
import shlex
from collections.abc import Iterator
from difflib import get_close_matches

_SHORT = {"N": "nodes", "n": "ntasks", "c": "cpus-per-task", "t": "time", "J": "job-name", "G": "gpus"}
# Those of sbatch's manual; a site's plugins may add others.
_KNOWN = """
    account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container
    container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
    dependency distribution error exclude exclusive export export-file extra extra-node-info get-user-env gid gpu-bind
    gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags help hint hold ignore-pbs input job-name
    kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network
    nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node
    ntasks-per-socket open-mode output overcommit oversubscribe parsable partition power prefer priority profile
    propagate qos quiet reboot requeue reservation resv-ports segment signal sockets-per-node spread-job stepmgr
    switches test-only thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid use-min-nodes
    verbose version wait wait-all-nodes wckey wrap
"""
_NUMBER = (r"\d+", "8")
_GPUS = (r"([\w.-]+:)?\d+(,([\w.-]+:)?\d+)*", "4 or a100:4")
_FORMATS = {
    "nodes": (r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*", "4 or 2-4"),
    "time": (r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|(?i:infinite|unlimited)", "24:00:00, 1-12 (days-hours) or minutes"),
    "ntasks-per-node": _NUMBER,
    "cpus-per-task": _NUMBER,
    "gpus": _GPUS,
    "gpus-per-node": _GPUS,
    "gpus-per-task": _GPUS,
}


def read_options(script: str) -> dict[str, str]:
    """Return the options of a script by their long names; without a value: an empty text.

    Raises:
        ValueError: for a quote that does not end.
    """
    found: dict[str, str] = {}
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
                name, _, found[name] = word[2:].partition("=")
            elif word.startswith("-"):
                name = _SHORT.get(word[1:2], word[1:2])
                found[name] = word[2:]
            else:
                found[name] = f"{found.get(name, '')} {word}".strip()
    return found


def faults(options: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each option that is wrong, with what is wrong and what to do."""
    known = _KNOWN.split()
    for name, value in options.items():
        if name in _FORMATS and not re.fullmatch(_FORMATS[name][0], value):
            yield f"--{name}", f"got {value!r}; write it as in {_FORMATS[name][1]}"
        near = get_close_matches(name, known, n=1, cutoff=0.85)
        if len(name) > 1 and name not in known and near:
            yield f"--{name}", f"is no option of sbatch; did you mean '--{near[0]}'?"
    for name in ("nodes", "time"):
        if name not in options:
            yield f"--{name}", f"is not given, so Slurm's default holds; write `#SBATCH --{name}=...`"
    if (tasks := options.get("ntasks-per-node", "1")) != "1" and tasks.isdecimal():
        yield "--ntasks-per-node", f"got {tasks}; Ray is started once on a node: set it to 1"


def nodes(options: dict[str, str]) -> int:
    """Return the largest number of nodes that is asked for."""
    return max(int(number) for number in re.findall(r"(?<![:\d])\d+", options.get("nodes", "1")))


def resources(options: dict[str, str]) -> dict[str, float]:
    """Return the GPUs of a node, and its CPUs where they are told; one task is on each."""
    found: dict[str, float] = {"GPU": 0}
    if "cpus-per-task" in options:
        found["CPU"] = int(options["cpus-per-task"])
    if each := options.get("gpus-per-node") or options.get("gpus-per-task"):
        found["GPU"] = sum(map(_count, each.split(",")))
    elif total := options.get("gpus"):
        found["GPU"] = sum(map(_count, total.split(","))) // nodes(options)
    elif gres := options.get("gres"):
        found["GPU"] = sum(_count(item) for item in gres.split(",") if item.split(":")[0] == "gpu")
    return found


def _count(item: str) -> int:
    """Return the number at the end of an item, as in 4, a100:4 or gpu:a100:4; without: one."""
    number = item.rpartition(":")[2]
    return int(number) if number.isdecimal() else 1
