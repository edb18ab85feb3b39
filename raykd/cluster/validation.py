"""Check a cluster file and the launcher file it names, offline: syntax, schema, tokens, and whether the sums work out.

A problem is one line: the file, the key, what is wrong, what to do.
"""

import copy
import math
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import ValidationError

from raykd.cluster import slurm
from raykd.cluster.config import Cluster, load_cluster
from raykd.cluster.kuberay import ClusterSpec, RayCluster, RayJob, quantity
from raykd.cluster.launcher import Launcher, read_launcher
from raykd.config.yaml_file import read_text
from raykd.errors import SetupError, UsageError

_TOKEN = "RAY_AUTH_MODE=token"
_START = "start_ray_commands"


def validate(source: str) -> list[str]:
    """Return the problems of a cluster, by its name or file, and of its launcher file; none where all is well.

    Raises:
        SetupError: where a check needs a package that is not here.
    """
    try:
        cluster = load_cluster(source)
        if cluster.launcher is None:
            return []
        launcher = read_launcher(source)
    except UsageError as error:
        return [str(error)]
    checks = {"ray": _ray, "kuberay": _kuberay, "slurm": _slurm}
    found = [f"{launcher.path}: {problem}" for problem in checks[launcher.kind](launcher, cluster)]
    if cluster.address == "local":
        found.append(
            f"cluster {cluster.name!r}: address: 'local' starts a Ray of its own and leaves {launcher.path} alone; "
            "set it to auto"
        )
    return found


def _ray(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
    try:
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError as error:
        raise SetupError(f"checking a file of `ray up` needs Ray ({error}): pip install 'raykd[ray]'") from None
    content = launcher.content
    try:
        validate_config(prepare_config(copy.deepcopy(content)))
    except Exception as error:  # of jsonschema, of Ray's own sums, of a provider: all mean the file
        place = ".".join(str(part) for part in getattr(error, "absolute_path", ())) or "as a whole"
        told = (str(getattr(error, "message", error)).splitlines() or [type(error).__name__])[0]
        yield f"{place}: Ray does not take it: {told}; see `ray up`'s reference for the key"
        return
    for role in ("head", "worker"):
        commands = [line for line in content.get(f"{role}_{_START}") or () if "ray start" in line]
        if not commands:
            yield f"{role}_{_START}: none runs `ray start`; give it, with `export {_TOKEN}` before it"
        elif _TOKEN not in commands[-1]:
            yield (
                f"{role}_{_START}: Ray would run what anybody sends it, for want of a token; write `export {_TOKEN}` "
                "before `ray start`"
            )
        if any(re.search(r"--dashboard-host[= ]0\.0\.0\.0", line) for line in commands):
            yield (
                f"{role}_{_START}: --dashboard-host=0.0.0.0 opens the dashboard to the network; leave it at 127.0.0.1 "
                "and forward it: `ray dashboard FILE`"
            )
    if not any("auth_token" in str(path) for path in content.get("file_mounts") or {}):
        yield (
            "file_mounts: no token reaches the nodes; run `ray get-auth-token --generate` and mount "
            "~/.ray/auth_token: ~/.ray/auth_token"
        )
    room = _room_of_nodes(content, cluster)
    yield from _too_few(cluster, room, "max_workers")
    if content["provider"]["type"] != "local":
        yield from _unwanted(cluster, room, "max_workers")


def _room_of_nodes(content: dict[str, Any], cluster: Cluster) -> float:
    """Return for how many workers the nodes beside the head have room, infinite where they do not say."""
    nodes: float = content.get("max_workers", 0)
    provider = content.get("provider") or {}
    if provider.get("type") == "local":
        started = " ".join(content.get(f"worker_{_START}") or ())
        told = {name: re.search(rf"--num-{name}s[= ](\d+)", started) for name in ("cpu", "gpu")}
        each = _places({name.upper(): float(match[1]) for name, match in told.items() if match}, cluster)
        return min(nodes, len(provider.get("worker_ips") or ())) * each
    room, left = 0.0, nodes
    for name, kind in (content.get("available_node_types") or {}).items():
        if name != content.get("head_node_type"):
            count = min(left, kind.get("max_workers", nodes))
            room, left = room + count * _places(kind.get("resources") or {}, cluster), left - count
    return room


def _kuberay(launcher: Launcher, cluster: Cluster) -> Iterator[str]:
    kind = launcher.content.get("kind")
    models: dict[Any, type[RayCluster] | type[RayJob]] = {"RayCluster": RayCluster, "RayJob": RayJob}
    if not isinstance(kind, str) or kind not in models:
        yield f"kind: got {kind!r}; raykd's launchers are RayCluster and RayJob"
        return
    try:
        manifest = models[kind].model_validate(launcher.content)
    except ValidationError as error:
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            remedy = (
                "remove it, or mend its spelling" if item["type"] == "extra_forbidden" else "see KubeRay's reference"
            )
            yield f"{place}: {item['msg']}; {remedy}"
        return
    place, spec = manifest.cluster
    for name, fault in _names(manifest.metadata):
        yield f"metadata.{name}: {fault}"
    if spec.authOptions is None or spec.authOptions.mode != "token":
        yield f"{place}.authOptions: Ray would run what any pod sends it; set `authOptions: {{mode: token}}`"
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
    if isinstance(manifest, RayJob) and f"/{launcher.cluster_file.name}" not in manifest.spec.entrypoint:
        yield (
            f"spec.entrypoint: raykd would not read {launcher.cluster_file}, which a pod finds where it mounts the "
            f"ConfigMap {launcher.name!r}; write `--cluster FOLDER/{launcher.cluster_file.name}`"
        )
    faults = [f"{place}.{where}.{problem}" for where, template in spec.templates() for problem in _pod(template)]
    yield from faults
    if faults:
        return
    try:
        room = _room_of_pods(spec, cluster)
    except ValueError as error:
        yield f"{place}.workerGroupSpecs: a limit is no number of CPUs or GPUs ({error}); write 8 or 500m"
    else:
        yield from _too_few(cluster, room, f"{place}.workerGroupSpecs")
        if spec.enableInTreeAutoscaling:
            yield from _unwanted(cluster, room, f"{place}.enableInTreeAutoscaling")


def _names(metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", str(metadata.get("name", ""))):
        yield "name", f"got {metadata.get('name')!r}; small letters, digits and '-', 63 at most"


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
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}, **_without_nulls(template)}
    if isinstance(pod["metadata"], dict):
        pod["metadata"] = {"name": "pod", **pod["metadata"]}
    try:
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(str(part) for part in error.path) or "spec"
        yield f"{place}: {error.message.splitlines()[0][:200]}; see `kubectl explain pod.spec`"
        return
    spec = pod["spec"]
    volumes = [volume["name"] for volume in spec.get("volumes", ())]
    for kind in ("initContainers", "containers"):
        for container in spec.get(kind, ()):
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield (
                        f"spec.{kind}: {container['name']} mounts {mount['name']!r}, and the pod has volumes "
                        f"{volumes}; add it to 'volumes', or mend the name"
                    )


def _without_nulls(node: Any) -> Any:
    """Return a part of a manifest without nulls: for Kubernetes a key without a value is none, and an item is empty."""
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    if isinstance(node, list):
        return [{} if item is None else _without_nulls(item) for item in node]
    return node


def _room_of_pods(spec: ClusterSpec, cluster: Cluster) -> float:
    room = 0.0
    for group in spec.workerGroupSpecs:
        limits: dict[str, Any] = {}
        for container in (group.template.get("spec") or {}).get("containers") or ():
            limits |= (container.get("resources") or {}).get("limits") or {}
        told = {"CPU": limits.get("cpu"), "GPU": limits.get("nvidia.com/gpu", 0 if limits else None)}
        each = _places({name: quantity(amount) for name, amount in told.items() if amount is not None}, cluster)
        room += group.maxReplicas * group.numOfHosts * each
    return room


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
        room = slurm.nodes(options) * _places(slurm.resources(options), cluster)
        yield from _too_few(cluster, room, "#SBATCH --nodes")


def _places(resources: dict[str, Any], cluster: Cluster) -> float:
    """Return for how many workers a node has room, by what it says of itself."""
    needs = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    limits = [math.floor(resources[name] / needs[name]) for name in needs if needs[name] and name in resources]
    return min(limits, default=math.inf)


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
        yield (
            f"{key}: machines are added when they are asked for, and raykd goes by those that are there; write "
            f"`grows_to: {room:.0f}` into cluster {cluster.name!r}"
        )
