"""Launcher files, which start clusters: of ``ray up``, of KubeRay or of Slurm; and the commands that take them."""

import codecs
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from raykd.cluster.config import cluster_file, load_cluster
from raykd.cluster.slurm import read_options
from raykd.config.yaml_file import load_yaml, read_text
from raykd.errors import RunFailed, SetupError, UsageError, printable

_TRACEBACK = "Traceback (most recent call last)"
_BETWEEN = ("The above exception was", "During handling of the above")
_CHUNK = 2**16
_INSTALL_HINTS = {
    "ray": "pip install 'raykd[ray]'",
    "kubectl": "install kubectl, and point it at your cluster",
    "sbatch": "run this on a login node of the Slurm cluster",
    "squeue": "run this on a login node of the Slurm cluster",
    "scancel": "run this on a login node of the Slurm cluster",
}
# What Ray imports to speak with a provider, and the package it comes in.
_PROVIDERS = {"aws": ("boto3", "boto3"), "gcp": ("googleapiclient", "google-api-python-client")}


@dataclass(frozen=True)
class Launcher:
    """A launcher file.

    Attributes:
        kind: the tool that takes it.
        path: of the file.
        name: of the cluster, in that tool.
        content: of the YAML file, or the #SBATCH options of a script.
        cluster_file: the cluster file that names it.
    """

    kind: Literal["ray", "kuberay", "slurm"]
    path: Path
    name: str
    content: dict[str, Any]
    cluster_file: Path

    @property
    def provider(self) -> str:
        """Return the provider of a ``ray up`` file's machines, as in ``aws``."""
        provider = self.content.get("provider")
        return str(provider.get("type")) if isinstance(provider, dict) else ""

    def commands(self, verb: str) -> list[list[str]]:
        """Return the commands, each a list of words, that start (``up``), end (``down``) or ask (``status``)."""
        file = str(self.path)
        commands: dict[str, dict[str, list[list[str]]]] = {
            "ray": {
                "up": [["ray", "up", "--yes", file]],
                "down": [["ray", "down", "--yes", file]],
                "status": [["ray", "exec", file, "RAY_AUTH_MODE=token ray status"]],
            },
            "kuberay": {
                "up": [["kubectl", "apply", "-f", file]],
                "down": [["kubectl", "delete", "-f", file]],
                "status": [["kubectl", "get", "-f", file]],
            },
            "slurm": {
                "up": [["sbatch", f"--export=ALL,RAYKD_CLUSTER={self.cluster_file.resolve()}", file]],
                "down": [["scancel", "--me", f"--name={self.name}"]],
                "status": [["squeue", "--me", f"--name={self.name}"]],
            },
        }
        commands_of_verb = commands[self.kind][verb]
        if self.provider == "local" and verb == "down":
            # `ray down` only warns where it could not stop Ray, and these machines do not end.
            return [["ray", "exec", file, "ray stop"], *commands_of_verb]
        if self.content.get("kind") == "RayJob" and verb != "status":
            # What runs in the pods reads the cluster file of here, and not one of the image.
            delete, create = self._config_map()
            return [delete, create, *commands_of_verb] if verb == "up" else [*commands_of_verb, delete]
        return commands_of_verb

    @property
    def instead_of_jobs(self) -> str | None:
        """Return how to run a command on a cluster that starts for it alone; None where the cluster takes jobs."""
        if self.kind == "slurm":
            return f"`{shlex.join(*self.commands('up'))} train ...`"
        if self.content.get("kind") == "RayJob":
            return f"write it into the entrypoint of {self.path}, then `raykd cluster up {self.cluster_file}`"
        return None

    def _config_map(self) -> tuple[list[str], list[str]]:
        namespace = self.content["metadata"].get("namespace")
        namespace_option = [f"--namespace={namespace}"] if namespace else []
        return (
            ["kubectl", "delete", "configmap", self.name, "--ignore-not-found", *namespace_option],
            ["kubectl", "create", "configmap", self.name, f"--from-file={self.cluster_file}", *namespace_option],
        )


def read_launcher(source: str) -> Launcher:
    """Read the launcher file that a cluster, by its name or file, names.

    Raises:
        UsageError: if it names none, or one that is not there or of no known kind.
    """
    file = cluster_file(source)
    cluster = load_cluster(source)
    if cluster.launcher is None:
        starts = "Ray starts with each run there" if cluster.address == "local" else "it is to be running already"
        raise UsageError(f"cluster {cluster.name!r} names no 'launcher' file: {starts}")
    path = file.parent / cluster.launcher
    if not path.is_file():
        raise UsageError(f"{file}: launcher: there is no {path}; name a file beside this one, or leave it out")
    if path.suffix not in (".yaml", ".yml"):
        text = read_text(path)
        try:
            options = read_options(text)
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None
        return Launcher("slurm", path, options.get("job-name") or path.name, dict(options), file)
    content = load_yaml(path, foreign=True)
    if "cluster_name" in content:
        return Launcher("ray", path, str(content["cluster_name"]), content, file)
    if "apiVersion" in content:
        metadata = content.get("metadata")
        if not isinstance(metadata, dict):
            raise UsageError(f"{path}: metadata: got {metadata!r}; write `metadata: {{name: ...}}`")
        return Launcher("kuberay", path, str(metadata.get("name")), content, file)
    raise UsageError(
        f"{path}: neither 'cluster_name' (a file for `ray up`) nor 'apiVersion' (a manifest of KubeRay) is in it"
    )


def perform(launcher: Launcher, verb: str, write_line: Callable[[str], None]) -> None:
    """Write each command with ``write_line``, and run it.

    Raises:
        SetupError: if its program, or a package that it needs, is not installed.
        RunFailed: if it fails; its own output says why.
    """
    if launcher.kind == "ray" and launcher.provider in _PROVIDERS:
        module, package = _PROVIDERS[launcher.provider]
        if find_spec(module) is None:
            raise SetupError(
                f"Ray reaches {launcher.provider!r} by {package}, which is not here: pip install {package}"
            )
    for command in launcher.commands(verb):
        write_line(f"+ {shlex.join(command)}")
        if shutil.which(command[0]) is None:
            raise SetupError(f"{command[0]!r} is not on the PATH: {_INSTALL_HINTS[command[0]]}")
        code, reasons = _run(command)
        reason = reasons.pop() if code and reasons else ""
        sys.stderr.writelines(f"{line}\n" for line in reasons)  # of tracebacks that the tool outlived
        if code:
            raise RunFailed(f"`{shlex.join(command)}` ended with exit code {code}{reason and f': {reason}'}")


def _run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run a command whose output is shown as it comes; return its exit code and the last lines of its tracebacks."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    filtered = _FilteredErrors()
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None, "as asked for"
        while chunk := os.read(process.stderr.fileno(), _CHUNK):  # not by line: a question has no end of line
            filtered.write(decoder.decode(chunk))
        filtered.write(decoder.decode(b"", final=True))
        filtered.close()
        return process.wait(), filtered.reasons


class _FilteredErrors:
    """What a tool writes to stderr, passed on but for tracebacks.

    Ray's tools answer a user's mistake by a traceback, of which nothing but the last line says anything.

    Attributes:
        reasons: the exception at the end of each traceback; of those that caused one another, the last.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._held = ""  # the beginning of a line that may belong to a traceback
        self._is_open = False  # the beginning of this line was passed on
        self._is_hidden = self._is_chained = False

    def write(self, text: str) -> None:
        """Pass on what belongs to no traceback, at once."""
        text, self._held = self._held + text, ""
        for line in re.findall(r".*\n|.+", text):
            if self._is_open or not self._may_be_hidden(line):
                sys.stderr.write(printable(line))
                self._is_open = not line.endswith("\n")
            elif line.endswith("\n"):
                self._hide(line)
            else:
                self._held = line
        sys.stderr.flush()

    def close(self) -> None:
        """Pass on what was held, if it is no traceback's."""
        if self._held:
            self.write("\n")

    def _may_be_hidden(self, line: str) -> bool:
        starts = (_TRACEBACK, *(_BETWEEN if self.reasons else ()))
        is_gap = bool(self.reasons) and not line.strip()
        return self._is_hidden or is_gap or any(line.startswith(one) or one.startswith(line) for one in starts)

    def _hide(self, line: str) -> None:
        if line.startswith(_TRACEBACK):
            self._is_hidden = True
        elif not self._is_hidden:
            self._is_chained = self._is_chained or line.startswith(_BETWEEN)
        elif line.strip() and not line[0].isspace():  # the exception; one that it was caused by stands before it
            if self._is_chained:
                self.reasons.pop()
            self.reasons.append(printable(line.strip()))
            self._is_hidden = self._is_chained = False
