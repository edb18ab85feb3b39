"""Check a cluster file and the launcher file it names, offline, for what raykd alone knows.

That is: tokens, one version of Ray, room for the workers, growth, that raykd reads the cluster file it was given, and
that jobs can be sent, as `raykd submit` asks.
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
from raykd.cluster.package import job_problems
from raykd.cluster.ray_up import RayUp
from raykd.config.yaml_file import read_text
from raykd.errors import SetupError, UsageError

_TOKEN = "RAY_AUTH_MODE=token"


def validate(source: str) -> list[str]:
    """Return the problems of a cluster, by its name or file, and of its launcher file; none where all is well.

    Raises:
        SetupError: where a check needs a package that is not here.
    """
    checks = {"ray": _check_ray_up, "kuberay": _check_kuberay, "slurm": _check_slurm}
    try:
        cluster = load_cluster(source)
        if cluster.launcher is None:
            return [] if cluster.address == "local" else list(job_problems(cluster))
        launcher = read_launcher(source)
        problems = [f"{launcher.path}: {problem}" for problem in checks[launcher.kind](launcher, cluster)]
    except UsageError as error:
        return [str(error)]
    if cluster.address == "local":
        problems.append(
            f"cluster {cluster.name!r}: address: 'local' starts a Ray of its own and leaves {launcher.path} alone; "
            "set it to auto"
        )
    elif cluster.dashboard or launcher.instead_of_jobs is None:
        problems += job_problems(cluster)
    return problems


def _check_ray_up(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
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
    room = _count_room_beside_head(file, cluster)
    yield from _check_room(cluster, room, "max_workers")
    if file.provider.type != "local":
        yield from _check_growth(cluster, room, "max_workers")


def _count_room_beside_head(file: RayUp, cluster: Cluster) -> float:
    """Count the workers that the nodes beside the head have room for; infinite where the file gives no resources."""
    if file.provider.type == "local":
        start_commands = " ".join(file.worker_start_ray_commands)
        matches = {name: re.search(rf"--num-{name}s[= ](\d{{1,9}})", start_commands) for name in ("cpu", "gpu")}
        each = {name.upper(): float(match[1]) for name, match in matches.items() if match}
        machines = len(file.provider.worker_ips)
        return _count_room(machines if file.max_workers is None else min(file.max_workers, machines), each, cluster)
    room, left = 0.0, file.max_workers or 0
    for name, kind in file.available_node_types.items():
        if name != file.head_node_type:
            count = left if kind.max_workers is None else min(left, kind.max_workers)
            room, left = room + _count_room(count, kind.resources.model_dump(exclude_none=True), cluster), left - count
    return room


def _check_kuberay(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
    kind = launcher.content.get("kind")
    spec, spec_key = None, "spec"
    if kind == "RayCluster":
        spec = RayCluster.read(launcher.content, str(launcher.path)).spec
    elif kind == "RayJob":
        job = RayJob.read(launcher.content, str(launcher.path)).spec
        spec, spec_key = job.rayClusterSpec, "spec.rayClusterSpec"
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
            f"{spec_key}.authOptions: got mode {mode!r}, so Ray would run what any pod sends it; set "
            "`authOptions: {mode: token}`"
        )
    if (problem := _ray_version_problem(spec.rayVersion)) is not None:
        yield f"{spec_key}.rayVersion: {problem}"
    for number, group in enumerate(spec.workerGroupSpecs):
        least, most = group.minReplicas, group.maxReplicas
        replicas = least if group.replicas is None else group.replicas
        if not least <= replicas <= most:
            yield (
                f"{spec_key}.workerGroupSpecs.{number}.replicas: got {replicas} with minReplicas {least} and "
                f"maxReplicas {most}; it is from the one to the other"
            )
    problems = [
        f"{spec_key}.{template_key}.{problem}"
        for template_key, template in spec.templates()
        for problem in _check_pod(template)
    ]
    yield from problems
    if problems:
        return
    try:
        room = sum(
            _count_room(group.maxReplicas * group.numOfHosts, group.resources(), cluster)
            for group in spec.workerGroupSpecs
        )
    except ValueError as error:
        yield f"{spec_key}.workerGroupSpecs: a limit is no number of CPUs or GPUs ({error}); write 8 or 500m"
    else:
        yield from _check_room(cluster, room, f"{spec_key}.workerGroupSpecs")
        if spec.enableInTreeAutoscaling:
            yield from _check_growth(cluster, room, f"{spec_key}.enableInTreeAutoscaling")


def _ray_version_problem(their_version: str | None) -> str | None:
    try:
        our_version = version("ray")
    except PackageNotFoundError:
        return None
    if their_version is not None and their_version.split(".")[:2] == our_version.split(".")[:2]:
        return None
    return f"got {their_version!r}, and Ray is {our_version} here; a job needs one version everywhere"


def _check_pod(template: dict[str, Any]) -> Iterator[str]:
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
        key = ".".join(str(part) for part in error.path) or "spec"
        yield f"{key}: {error.message.splitlines()[0][:200]}; see `kubectl explain pod.spec`"


def _check_slurm(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
    syntax_check = subprocess.run(["bash", "-n", str(launcher.path)], capture_output=True, text=True, check=False)
    if syntax_check.returncode:
        line = syntax_check.stderr.strip().splitlines()[0].removeprefix(f"{launcher.path}: ")
        yield f"as a whole: bash does not take it: {line}; mend the script"
        return
    options = launcher.content
    problems = list(slurm.problems(options))
    for option, problem in problems:
        yield f"#SBATCH {option}: {problem}"
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
    if not problems:
        room = _count_room(slurm.count_nodes(options), slurm.node_resources(options), cluster)
        yield from _check_room(cluster, room, "#SBATCH --nodes")


def _count_room(nodes: float, each: dict[str, float], cluster: Cluster) -> float:
    """Count the workers that nodes have room for by the resources of ``each``; infinite where it gives none."""
    needs = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    limits = [math.floor(each[name] / needs[name]) for name in needs if needs[name] and name in each]
    workers = min(limits, default=math.inf)
    return nodes * workers if nodes and workers else 0  # infinity times 0 is no number


def _check_room(cluster: Cluster, room: float, key: str) -> Iterator[str]:
    needed = max(cluster.worker_range[1], cluster.grows_to or 0)
    if room < needed:
        yield (
            f"{key}: there is room for {room:.0f} workers of {cluster.cpus_per_worker:g} CPUs and "
            f"{cluster.gpus_per_worker:g} GPUs, and cluster {cluster.name!r} wants {needed}; raise it, or lower "
            "'workers' or 'grows_to'"
        )


def _check_growth(cluster: Cluster, room: float, key: str) -> Iterator[str]:
    if cluster.grows_to is None:
        workers = "NUMBER" if room == math.inf else f"{room:.0f}"
        yield (
            f"{key}: machines are added when they are asked for, and raykd goes by those that are there; write "
            f"`grows_to: {workers}` into cluster {cluster.name!r}"
        )
