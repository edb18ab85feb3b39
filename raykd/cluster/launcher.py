"""Launcher files, which start clusters: of ``ray up``, of KubeRay or of Slurm; and the commands that take them."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raykd.cluster.config import Cluster
from raykd.errors import RunFailed, SetupError, UsageError
from raykd.yaml_file import load_yaml

_NEEDS = {
    "ray": "pip install 'raykd[ray]'",
    "kubectl": "install kubectl, and point it at your cluster",
    "sbatch": "run this on a login node of the Slurm cluster",
    "squeue": "run this on a login node of the Slurm cluster",
    "scancel": "run this on a login node of the Slurm cluster",
}


@dataclass(frozen=True)
class Launcher:
    """A launcher file: what it is for, what it calls its cluster, and its content (of a script, its directives)."""

    kind: Literal["ray", "kuberay", "slurm"]
    path: Path
    name: str
    content: dict[str, Any]

    def command(self, verb: str) -> list[str]:
        """Return the command, as a list of words, that starts (``up``), ends (``down``) or asks (``status``)."""
        file = str(self.path)
        commands: dict[str, dict[str, list[str]]] = {
            "ray": {
                "up": ["ray", "up", "--yes", file],
                "down": ["ray", "down", "--yes", file],
                "status": ["ray", "exec", file, "RAY_AUTH_MODE=token ray status"],
            },
            "kuberay": {
                "up": ["kubectl", "apply", "-f", file],
                "down": ["kubectl", "delete", "-f", file],
                "status": ["kubectl", "get", "-f", file],
            },
            "slurm": {
                "up": ["sbatch", file],
                "down": ["scancel", "--me", f"--name={self.name}"],
                "status": ["squeue", "--me", f"--name={self.name}"],
            },
        }
        return commands[self.kind][verb]


def read_launcher(cluster: Cluster) -> Launcher:
    """Read the launcher file that a cluster names.

    Raises:
        UsageError: if it names none, or one of no known kind.
    """
    if cluster.launcher is None:
        starts = "Ray starts with each run there" if cluster.address == "local" else "it is to be running already"
        raise UsageError(f"cluster {cluster.name!r} names no 'launcher' file: {starts}")
    path = Path(cluster.launcher)
    if path.suffix not in (".yaml", ".yml"):
        directives = _directives(path.read_text(encoding="utf-8"))
        return Launcher("slurm", path, str(directives.get("job-name", path.name)), directives)
    content = load_yaml(path)
    if "cluster_name" in content:
        return Launcher("ray", path, str(content["cluster_name"]), content)
    if "apiVersion" in content:
        metadata = content.get("metadata")
        return Launcher("kuberay", path, str(metadata.get("name") if isinstance(metadata, dict) else ""), content)
    raise UsageError(
        f"{path}: neither 'cluster_name' (a file for `ray up`) nor 'apiVersion' (a manifest of KubeRay) is in it"
    )


def perform(launcher: Launcher, verb: str, say: Callable[[str], None]) -> None:
    """Say the command, and do it.

    Raises:
        SetupError: if its program is not here.
        RunFailed: if it fails; it has told why.
    """
    command = launcher.command(verb)
    say(f"+ {shlex.join(command)}")
    if shutil.which(command[0]) is None:
        raise SetupError(f"{command[0]!r} is not on the PATH: {_NEEDS[command[0]]}")
    code = subprocess.run(command, check=False).returncode
    if code:
        raise RunFailed(f"`{shlex.join(command)}` ended with exit code {code}")


def _directives(script: str) -> dict[str, Any]:
    """Return the options that a batch script gives to Slurm by their long names, without a value: True."""
    found: dict[str, Any] = {}
    for line in script.splitlines():
        match = re.match(r"#SBATCH\s+--([a-z-]+)(?:[= ]\s*(\S+))?", line)
        if match:
            found[match[1]] = match[2] or True
    return found
