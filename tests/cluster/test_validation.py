"""Cluster files and launcher files: ours are right, and what is wrong is named with its file, its key and a remedy."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.cluster.config import cluster_names, load_cluster
from raykd.cluster.launcher import read_launcher
from raykd.cluster.package import job_problems
from raykd.cluster.validation import validate

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ["aws", "gcp", "gpu_cluster", "gpu_node", "kuberay", "kuberay_job", "local", "slurm", "ssh"]


def test_there_is_a_file_for_every_kind_of_cluster() -> None:
    assert set(SHIPPED) <= set(cluster_names())


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_is_right(name: str) -> None:
    assert validate(name) == []


@pytest.mark.parametrize(("storage", "is_right"), [("runs", False), ("/shared/runs", True), ("s3://bucket/runs", True)])
@pytest.mark.parametrize("command", ["submit", "up"])
def test_a_file_is_right_where_jobs_can_be_sent_by_it(
    tmp_path: Path, storage: str, is_right: bool, command: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"address: auto\nstorage: {storage}\n")
    if command == "up":
        file = Path(copied(tmp_path, "ssh", lambda raw, _: raw.update(storage=storage)))
    refusals = list(job_problems(load_cluster(str(file))))
    assert validate(str(file)) == refusals
    assert (refusals == []) == is_right


def test_what_takes_no_jobs_may_keep_its_runs_beside_itself(tmp_path: Path) -> None:
    assert validate(copied(tmp_path, "slurm", lambda raw, _: raw.update(storage="runs"))) == []


def copied(folder: Path, name: str, change: Callable[[dict[str, Any], Any], Any]) -> str:
    """A copy of a shipped cluster whose file, or launcher file (parsed, or the text of a script), is changed."""
    shutil.copytree(ROOT / "clusters", folder / "clusters")
    path = folder / "clusters" / f"{name}.yaml"
    raw = yaml.safe_load(path.read_text())
    launcher = path.parent / raw["launcher"]
    script = launcher.suffix == ".sh"
    content = launcher.read_text() if script else yaml.safe_load(launcher.read_text())
    changed = change(raw, content)
    content = changed if isinstance(changed, str) else content
    path.write_text(yaml.safe_dump(raw))
    launcher.write_text(content if script else yaml.safe_dump(json.loads(json.dumps(content))))
    return str(path)


def first_pod(manifest: Any) -> Any:
    return manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]


def head_pod(spec: Any) -> Any:
    return spec["headGroupSpec"]["template"]["spec"]


BROKEN: dict[str, tuple[str, Callable[[dict[str, Any], Any], Any], str]] = {
    "a key that a cluster file has not": (
        "ssh", lambda raw, _: raw.update(worker=3), "ssh.yaml: 'worker' is not a field here; did you mean 'workers'?",
    ),
    "a launcher that is not there": (
        "ssh", lambda raw, _: raw.update(launcher="launchers/shh.yaml"), "ssh.yaml: launcher: there is no .*shh.yaml",
    ),
    "a launcher of no kind": (
        "ssh", lambda _, ray: ray.__delitem__("cluster_name"), "ssh.yaml: neither 'cluster_name' .* nor 'apiV",
    ),
    "a cluster that would not use its launcher": (
        "aws", lambda raw, _: raw.update(address="local"), "address: 'local' starts a Ray of its own.*set it to auto",
    ),
    "no token on the workers": (
        "ssh",
        lambda _, ray: ray.update(worker_start_ray_commands=["ray start --address=$RAY_HEAD_IP:6379 --num-gpus=4"]),
        "launchers/ssh.yaml: worker_start_ray_commands: .*want of a token; write `export RAY_AUTH_MODE=token`",
    ),
    "a token that reaches no node": (
        "gcp", lambda _, ray: ray.__delitem__("file_mounts"), "gcp.yaml: file_mounts: .*get-auth-token --gen",
    ),
    "a dashboard for everybody": (
        "aws",
        lambda _, ray: ray.update(
            head_start_ray_commands=["RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0"]
        ),
        "launchers/aws.yaml: head_start_ray_commands: --dashboard-host=0.0.0.0 opens.*leave it at 127.0.0.1",
    ),
    "fewer machines than workers": (
        "aws", lambda raw, _: raw.update(workers=[1, 9]), "max_workers: there is room for 8 workers .* wants 9",
    ),
    "fewer machines than it is to grow to": (
        "gcp", lambda raw, _: raw.update(grows_to=9), "max_workers: there is room for 8 workers .* wants 9",
    ),
    "machines that nobody would ask for": (
        "aws", lambda raw, _: raw.pop("grows_to"), "max_workers: .*raykd goes by those that are there; .*grows_to: 8",
    ),
    "pods that nobody would ask for": (
        "kuberay", lambda raw, _: raw.pop("grows_to"), "spec.enableInTreeAutoscaling: .*write `grows_to: 4`",
    ),
    "fewer GPUs over SSH than workers": (
        "ssh", lambda _, ray: ray["provider"].update(worker_ips=["10.0.0.2"]), "there is room for 4 workers .* wants 8",
    ),
    "a manifest of another kind": (
        "kuberay", lambda _, k8s: k8s.update(kind="RayService"), "kind: got 'RayService'; .*RayCluster and RayJob",
    ),
    "a pod that Kubernetes does not take": (
        "kuberay_job",
        lambda _, k8s: head_pod(k8s["spec"]["rayClusterSpec"])["containers"][0].update(imag="x"),
        "rayjob.yaml: spec.rayClusterSpec.headGroupSpec.template.spec.containers.0: .*'imag' was unexpected",
    ),
    "a memory that is no quantity's place": (
        "kuberay", lambda _, k8s: first_pod(k8s)["containers"][0].update(resources="32Gi"), "containers.0.resources",
    ),
    "a cluster of pods without a token": (
        "kuberay", lambda _, k8s: k8s["spec"].__delitem__("authOptions"), "spec.authOptions: .*set `authOptions: ",
    ),
    "another Ray": (
        "kuberay", lambda _, k8s: k8s["spec"].update(rayVersion="2.9.0"), "spec.rayVersion: got '2.9.0', and Ray is 2",
    ),
    "fewer pods than workers": (
        "kuberay", lambda raw, _: raw.update(gpus_per_worker=2), "spec.workerGroupSpecs: there is room for 0 workers",
    ),
    "a script that bash does not take": (
        "slurm", lambda _, script: script.replace("fi\n", "\n", 1), "slurm.sh: as a whole: bash does not take it: line",
    ),
    "a node that is shared": (
        "slurm", lambda _, script: script.replace("#SBATCH --exclusive\n", ""), "#SBATCH --exclusive: is not given",
    ),
    "fewer nodes than workers": (
        "slurm", lambda _, script: script.replace("--nodes=4", "--nodes=2"), "#SBATCH --nodes: there is room for 8",
    ),
    "fewer GPUs of a kind than workers": (
        "slurm", lambda _, script: script.replace("--gpus-per-node=4", "--gres=gpu:a100:2"), "is room for 8 workers",
    ),
    "fewer GPUs in a list of several things than workers": (
        "slurm",
        lambda _, script: script.replace("--gpus-per-node=4", "--gres=gpu:a100:2,nvme:9"),
        "there is room for 8 workers",
    ),
    "fewer GPUs in all than workers": (
        "slurm", lambda _, script: script.replace("--gpus-per-node=4", "-G a100:8"), "there is room for 8 workers",
    ),
    "a quote without an end": (
        "slurm", lambda _, script: script.replace("=raykd", "='raykd"), "slurm.sh: #SBATCH --job-name='raykd: .*quot",
    ),
    "a script with a cluster file of its own": (
        "slurm",
        lambda _, script: script.replace("${RAYKD_CLUSTER:-slurm}", "slurm"),
        'as a whole: raykd would not read .*/clusters/slurm.yaml; write `--cluster "\\$RAYKD_CLUSTER"`',
    ),
    "a job with a cluster file of its own": (
        "kuberay_job",
        lambda _, k8s: k8s["spec"].update(entrypoint="python -m raykd train dafl_mnist --cluster kuberay_job"),
        "spec.entrypoint: raykd would not read .*write `--cluster FOLDER/kuberay_job.yaml`",
    ),
    "a manifest of no name": ("kuberay", lambda _, k8s: k8s.update(metadata=5), "metadata: got 5; write `metadata: {n"),
    "metadata that are none": (
        "kuberay",
        lambda _, k8s: k8s["spec"]["headGroupSpec"]["template"].update(metadata=5),
        "spec.headGroupSpec.template.metadata: 5 is not",
    ),
    "a pod of nothing": (
        "kuberay",
        lambda _, k8s: k8s["spec"]["headGroupSpec"].update(template={"spec": None}),
        "spec.headGroupSpec.template.spec: 'containers' is a required property",
    ),
    "a kind that is a list": ("kuberay", lambda _, k8s: k8s.update(kind=[]), "kind: got \\[\\]; .*RayCluster and"),
    "more pods than the most": (
        "kuberay",
        lambda _, k8s: k8s["spec"]["workerGroupSpecs"][0].update(replicas=5),
        "spec.workerGroupSpecs.0.replicas: got 5 with minReplicas 0 and maxReplicas 4",
    ),
    "a limit without an end": (
        "kuberay",
        lambda _, k8s: first_pod(k8s)["containers"][0]["resources"]["limits"].update(cpu=".inf"),
        "spec.workerGroupSpecs: a limit is no number",
    ),
    "a limit that is no number": (
        "kuberay",
        lambda _, k8s: first_pod(k8s)["containers"][0]["resources"]["limits"].update(cpu="many"),
        "spec.workerGroupSpecs: a limit is no number of CPUs or GPUs .*write 8 or 500m",
    ),
    "a script without a token": (
        "slurm", lambda _, script: script.replace("RAY_AUTH_MODE=token", ""), "as a whole: .*write `export RAY_A",
    ),
    "a node type that is not there": (
        "gcp",
        lambda _, ray: ray.update(head_node_type="haed"),
        "gcp.yaml: head_node_type: got 'haed'; it is one of available_node_types: gpu_spot, head",
    ),
    "a number of machines that is none": (
        "aws", lambda _, ray: ray.update(max_workers="many"), "launchers/aws.yaml: max_workers: got 'many'; .*integer",
    ),
    "machines with less than no GPU": (
        "aws",
        lambda _, ray: ray["available_node_types"]["gpu_spot"]["resources"].update(GPU=-1),
        "available_node_types.gpu_spot.resources.GPU: got -1; .*greater than or equal to 0",
    ),
    "machines of no provider": (
        "ssh", lambda _, ray: ray.__delitem__("provider"), "launchers/ssh.yaml: 'provider' is required",
    ),
    "commands that are one text": (
        "ssh",
        lambda _, ray: ray.update(head_start_ray_commands="ray start --head"),
        "launchers/ssh.yaml: head_start_ray_commands: got 'ray start --head'; .*valid list",
    ),
    "a manifest of an old API": (
        "kuberay",
        lambda _, k8s: k8s.update(apiVersion="ray.io/v1alpha1"),
        "raycluster.yaml: apiVersion: got 'ray.io/v1alpha1'; Input should be 'ray.io/v1'",
    ),
    "a number of pods that is none": (
        "kuberay",
        lambda _, k8s: k8s["spec"]["workerGroupSpecs"][0].update(maxReplicas="four"),
        "raycluster.yaml: spec.workerGroupSpecs.0.maxReplicas: got 'four'; .*integer",
    ),
    "groups of workers that are no list": (
        "kuberay",
        lambda _, k8s: k8s["spec"].update(workerGroupSpecs={"gpu": k8s["spec"]["workerGroupSpecs"][0]}),
        "raycluster.yaml: spec.workerGroupSpecs: got {.{199}\\.\\.\\.; Input should be a valid list",
    ),
    "a job of no cluster": (
        "kuberay_job",
        lambda _, k8s: k8s["spec"].update(rayClusterSpec=None),
        "rayjob.yaml: 'spec.rayClusterSpec' is required",
    ),
    "a name that Kubernetes does not take": (
        "kuberay", lambda _, k8s: k8s["metadata"].update(name="-o"), "metadata.name: got '-o'; .*match pattern",
    ),
    "two Rays on a node": (
        "slurm",
        lambda _, script: script.replace("--ntasks-per-node=1", "--ntasks-per-node=4"),
        "#SBATCH --ntasks-per-node: got '4'; .*set it to 1",
    ),
    "nodes that are no number": (
        "slurm",
        lambda _, script: script.replace("--nodes=4", "--nodes=all"),
        "#SBATCH --nodes: got 'all'; write it as in 4 or 2-4",
    ),
    "GPUs that are no number": (
        "slurm",
        lambda _, script: script.replace("--gpus-per-node=4", "--gpus-per-node=a100"),
        "#SBATCH --gpus-per-node: got 'a100'; write it as in 4 or a100:4",
    ),
    "an option after the first command": (
        "slurm",
        lambda _, script: script.replace("#SBATCH --nodes=4\n", "") + "#SBATCH --nodes=4\n",
        "#SBATCH --nodes: is not given",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_named_with_file_key_and_remedy(tmp_path: Path, case: str) -> None:
    name, change, says = BROKEN[case]
    problems = validate(copied(tmp_path, name, change))
    assert len(problems) == 1, problems
    assert re.search(says, problems[0]), problems[0]


def pods(manifest: Any) -> Any:
    return manifest["spec"]["workerGroupSpecs"][0]


NEWER: dict[str, tuple[str, Callable[[dict[str, Any], Any], Any]]] = {
    "a key of ray up": ("aws", lambda _, ray: ray.update(placement={"strategy": "spread"})),
    "a key of a provider's machines": (
        "aws", lambda _, ray: ray["available_node_types"]["gpu_spot"].update(lifetime={"hours": 4}),
    ),
    "a resource of a machine": (
        "aws", lambda _, ray: ray["available_node_types"]["gpu_spot"]["resources"].update(TPU="v7:8"),
    ),
    "a key of KubeRay's cluster": ("kuberay", lambda _, k8s: k8s["spec"].update(networkPolicy={"mode": "deny"})),
    "a key of KubeRay's workers": ("kuberay", lambda _, k8s: pods(k8s).update(upgradeStrategy={"type": "none"})),
    "a key of KubeRay's tokens": ("kuberay", lambda _, k8s: k8s["spec"]["authOptions"].update(rotate="24h")),
    "a way of KubeRay to submit": (
        "kuberay_job", lambda _, k8s: k8s["spec"].update(submissionMode="EventMode", retention={"days": 3}),
    ),
    "a pod without a limit of pods": (
        "kuberay", lambda _, k8s: [pods(k8s).pop(key) for key in ("replicas", "minReplicas", "maxReplicas")],
    ),
    "GPUs of another maker": (
        "kuberay", lambda _, k8s: first_pod(k8s)["containers"][0]["resources"].update(limits={"amd.com/gpu": 1}),
    ),
    "a container beside that of Ray": (
        "kuberay",
        lambda _, k8s: first_pod(k8s)["containers"].append(
            {"name": "logs", "image": "logs", "resources": {"limits": {"cpu": "100m"}}}
        ),
    ),
    "an option of sbatch": (
        "slurm", lambda _, script: script.replace("--requeue", "--consolidate\n#SBATCH --gpus-per-tsk=4"),
    ),
    "a time that sbatch may read": ("slurm", lambda _, script: script.replace("24:00:00", "24 hours")),
    "GPUs by an option that is not read": (
        "slurm", lambda _, script: script.replace("--gpus-per-node=4", "--tres-per-task=gres/gpu:4"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NEWER)
def test_what_newer_tools_may_know_is_left_to_them(tmp_path: Path, case: str) -> None:
    assert validate(copied(tmp_path, *NEWER[case])) == []


ODD: tuple[Any, ...] = (None, [], {}, "x", -1, 10**400, [None], {"a": None}, {1: 2}, [[[[[[[[[[[[]]]]]]]]]]]])


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@pytest.mark.parametrize(("name", "every"), [("ssh", 1), ("aws", 2), ("kuberay", 4)])
def test_whatever_stands_in_a_file_is_answered_in_lines(tmp_path: Path, name: str, every: int) -> None:
    file = copied(tmp_path, name, lambda raw, content: None)
    launcher = read_launcher(file).path
    told = 0
    for number, place in enumerate(places(yaml.safe_load(launcher.read_text()))[1::every]):
        content = yaml.safe_load(launcher.read_text())
        node = content
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = ODD[number % len(ODD)]
        (changed := launcher.with_stem("changed")).write_text(yaml.safe_dump(content))
        raw = yaml.safe_load(Path(file).read_text())
        odd = Path(file).with_stem("odd")
        odd.write_text(yaml.safe_dump({**raw, "launcher": f"launchers/{changed.name}"}))
        problems = validate(str(odd))
        told += len(problems)
        assert all(re.fullmatch(r"\S+: .{1,600}", problem) for problem in problems), problems
    assert told > 5


def test_a_file_that_is_nested_deeply_is_answered_in_lines(tmp_path: Path) -> None:
    file = copied(tmp_path, "kuberay", lambda _, k8s: k8s["spec"].update(rayVersion="DEEP"))
    launcher = read_launcher(file).path
    text = launcher.read_text()
    for depth in (100, 10_000):
        launcher.write_text(text.replace("DEEP", "[" * depth + "]" * depth))
        (problem,) = validate(file)
        assert re.search("rayVersion: got .*valid string|nested too deeply", problem), problem
