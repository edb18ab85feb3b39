"""Check a cluster file and the launcher file it names, offline, for what raykd alone knows.

That is: tokens, one version of Ray, room for the workers, growth, and that raykd reads the cluster file it was given.
Of the fields of other tools only those are read that this takes. Pods are checked by Kubernetes' schemas, scripts by
bash; the rest is left to `ray up`, to `kubectl apply --dry-run=server` and to `sbatch --test-only`.
A problem is one line: the file, the key, what is wrong, what to do.
"""

import math
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from raykd.cluster import slurm
from raykd.cluster.config import Cluster, load_cluster
from raykd.cluster.kuberay import RayCluster, RayJob
from raykd.cluster.launcher import Launcher, read_launcher
from raykd.cluster.ray_up import RayUp
from raykd.config.yaml_file import read_text
from raykd.errors import SetupError, UsageError

_TOKEN = "RAY_AUTH_MODE=token"


def validate(source: str) -> list[str]:
    """Return the problems of a cluster, by its name or file, and of its launcher file; none where all is well.

    Raises:
        SetupError: where a check needs a package that is not here.
    """
    checks = {"ray": _ray, "kuberay": _kuberay, "slurm": _slurm}
    try:
        cluster = load_cluster(source)
        if cluster.launcher is None:
            return []
        launcher = read_launcher(source)
        found = [f"{launcher.path}: {problem}" for problem in checks[launcher.kind](launcher, cluster)]
    except UsageError as error:
        return [str(error)]
    if cluster.address == "local":
        found.append(
            f"cluster {cluster.name!r}: address: 'local' starts a Ray of its own and leaves {launcher.path} alone; "
            "set it to auto"
        )
    return found


def _ray(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
    file = RayUp.read(launcher.content, str(launcher.path))
    starts = {
        "head_start_ray_commands": file.head_start_ray_commands,
        "worker_start_ray_commands": file.worker_start_ray_commands,
    }
    for key, lines in starts.items():
        commands = [line for line in lines if "ray start" in line]
        if not commands:
            yield f"{key}: none runs `ray start`; give it, with `export {_TOKEN}` before it"
        elif _TOKEN not in commands[-1]:
            yield (
                f"{key}: Ray would run what anybody sends it, for want of a token; write `export {_TOKEN}` before "
                "`ray start`"
            )
        if any(re.search(r"--dashboard-host[= ]0\.0\.0\.0", line) for line in commands):
            yield (
                f"{key}: --dashboard-host=0.0.0.0 opens the dashboard to the network; leave it at 127.0.0.1 and "
                "forward it: `ray dashboard FILE`"
            )
    if not any("auth_token" in path for path in file.file_mounts):
        yield (
            "file_mounts: no token reaches the nodes; run `ray get-auth-token --generate` and mount "
            "~/.ray/auth_token: ~/.ray/auth_token"
        )
    types = file.available_node_types
    if types and file.head_node_type not in types:
        yield f"head_node_type: got {file.head_node_type!r}; it is one of available_node_types: {', '.join(types)}"
        return
    room = _room_of_nodes(file, cluster)
    yield from _too_few(cluster, room, "max_workers")
    if file.provider.type != "local":
        yield from _unwanted(cluster, room, "max_workers")


def _room_of_nodes(file: RayUp, cluster: Cluster) -> float:
    """Return for how many workers the nodes beside the head have room, infinite where they do not say."""
    if file.provider.type == "local":
        started = " ".join(file.worker_start_ray_commands)
        told = {name: re.search(rf"--num-{name}s[= ](\d{{1,9}})", started) for name in ("cpu", "gpu")}
        each = {name.upper(): float(match[1]) for name, match in told.items() if match}
        there = len(file.provider.worker_ips)
        return _room(there if file.max_workers is None else min(file.max_workers, there), each, cluster)
    room, left = 0.0, file.max_workers or 0
    for name, kind in file.available_node_types.items():
        if name != file.head_node_type:
            count = left if kind.max_workers is None else min(left, kind.max_workers)
            room, left = room + _room(count, kind.resources.model_dump(exclude_none=True), cluster), left - count
    return room


def _kuberay(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
    kind = launcher.content.get("kind")
    spec, place = None, "spec"
    if kind == "RayCluster":
        spec = RayCluster.read(launcher.content, str(launcher.path)).spec
    elif kind == "RayJob":
        job = RayJob.read(launcher.content, str(launcher.path)).spec
        spec, place = job.rayClusterSpec, "spec.rayClusterSpec"
        if f"/{launcher.cluster_file.name}" not in job.entrypoint:
            yield (
                f"spec.entrypoint: raykd would not read {launcher.cluster_file}, which a pod finds where it mounts the "
                f"ConfigMap {launcher.name!r}; write `--cluster FOLDER/{launcher.cluster_file.name}`"
            )
    if spec is None:
        yield f"kind: got {kind!r}; raykd's launchers are RayCluster and RayJob"
        return
    if (mode := spec.authOptions.mode) != "token":
        yield (
            f"{place}.authOptions: got mode {mode!r}, so Ray would run what any pod sends it; set "
            "`authOptions: {mode: token}`"
        )
    if (theirs := _other_ray(spec.rayVersion)) is not None:
        yield f"{place}.rayVersion: {theirs}"
    for number, group in enumerate(spec.workerGroupSpecs):
        least, most = group.minReplicas, group.maxReplicas
        wanted = least if group.replicas is None else group.replicas
        if not least <= wanted <= most:
            yield (
                f"{place}.workerGroupSpecs.{number}.replicas: got {wanted} with minReplicas {least} and maxReplicas "
                f"{most}; it is from the one to the other"
            )
    faults = [f"{place}.{where}.{fault}" for where, template in spec.templates() for fault in _pod(template)]
    yield from faults
    if faults:
        return
    try:
        room = sum(_room(one.maxReplicas * one.numOfHosts, one.resources(), cluster) for one in spec.workerGroupSpecs)
    except ValueError as error:
        yield f"{place}.workerGroupSpecs: a limit is no number of CPUs or GPUs ({error}); write 8 or 500m"
    else:
        yield from _too_few(cluster, room, f"{place}.workerGroupSpecs")
        if spec.enableInTreeAutoscaling:
            yield from _unwanted(cluster, room, f"{place}.enableInTreeAutoscaling")


def _other_ray(wanted: str | None) -> str | None:
    try:
        ours = version("ray")
    except PackageNotFoundError:
        return None
    if wanted is not None and wanted.split(".")[:2] == ours.split(".")[:2]:
        return None
    return f"got {wanted!r}, and Ray is {ours} here; a job needs one version everywhere"


def _pod(template: dict[str, Any]) -> Iterator[str]:
    """Check a template as the pod that is made of it."""
    try:
        import kubernetes_validate
    except ImportError as error:
        raise SetupError(
            f"checking pods needs Kubernetes' schemas ({error}): pip install 'raykd[kubernetes]'"
        ) from None
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}}
    pod |= {key: template[key] for key in ("metadata", "spec") if key in template}
    if isinstance(pod["metadata"], dict):
        pod["metadata"] = {"name": "pod", **pod["metadata"]}
    try:
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(str(part) for part in error.path) or "spec"
        yield f"{place}: {error.message.splitlines()[0][:200]}; see `kubectl explain pod.spec`"


def _slurm(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
    told = subprocess.run(["bash", "-n", str(launcher.path)], capture_output=True, text=True, check=False)
    if told.returncode:
        line = told.stderr.strip().splitlines()[0].removeprefix(f"{launcher.path}: ")
        yield f"as a whole: bash does not take it: {line}; mend the script"
        return
    options = launcher.content
    wrong = list(slurm.faults(options))
    for option, fault in wrong:
        yield f"#SBATCH {option}: {fault}"
    text = read_text(launcher.path)
    if "symmetric-run" in text and "exclusive" not in options:
        yield (
            "#SBATCH --exclusive: is not given, and `ray symmetric-run` ends with `ray stop`, which ends the Ray of "
            "everybody on the node; write `#SBATCH --exclusive`"
        )
    if _TOKEN not in text:
        yield f"as a whole: Ray would run what any user of the nodes sends it; write `export {_TOKEN}` and a token"
    if "RAYKD_CLUSTER" not in text:
        yield f'as a whole: raykd would not read {launcher.cluster_file}; write `--cluster "$RAYKD_CLUSTER"`'
    if not wrong:
        room = _room(slurm.nodes(options), slurm.resources(options), cluster)
        yield from _too_few(cluster, room, "#SBATCH --nodes")


def _room(nodes: float, each: dict[str, float], cluster: Cluster) -> float:
    """Return for how many workers nodes have room by what each says of itself, infinite where it says nothing."""
    needs = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    limits = [math.floor(each[name] / needs[name]) for name in needs if needs[name] and name in each]
    workers = min(limits, default=math.inf)
    return nodes * workers if nodes and workers else 0  # infinity times 0 is no number


def _too_few(cluster: Cluster, room: float, key: str) -> Iterator[str]:
    most = max(cluster.worker_range[1], cluster.grows_to or 0)
    if room < most:
        yield (
            f"{key}: there is room for {room:.0f} workers of {cluster.cpus_per_worker:g} CPUs and "
            f"{cluster.gpus_per_worker:g} GPUs, and cluster {cluster.name!r} wants {most}; raise it, or lower "
            "'workers' or 'grows_to'"
        )


def _unwanted(cluster: Cluster, room: float, key: str) -> Iterator[str]:
    if cluster.grows_to is None:
        workers = "NUMBER" if room == math.inf else f"{room:.0f}"
        yield (
            f"{key}: machines are added when they are asked for, and raykd goes by those that are there; write "
            f"`grows_to: {workers}` into cluster {cluster.name!r}"
        )
