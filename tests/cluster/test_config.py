"""Cluster files: what is found by which name, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cluster.config import Cluster, choose_cluster, cluster_names, load_cluster
from raykd.config.runtime import Runtime
from raykd.errors import UsageError


def write(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", cluster_names())
def test_every_named_cluster_loads(name: str) -> None:
    assert load_cluster(name).name == name


def test_the_local_cluster_is_two_workers_on_this_machine() -> None:
    local = load_cluster("local")
    assert (local.address, local.worker_range, local.gpus_per_worker) == ("local", (2, 2), 0)


def test_a_file_by_path_has_its_defaults_and_its_name(tmp_path: Path) -> None:
    cluster = load_cluster(write(tmp_path, "workers: [2, 8]\nprecision: bf16\nthreads: 3\n"))
    assert cluster == Cluster(name="mine", workers=(2, 8), precision="bf16", threads=3)
    assert cluster.worker_range == (2, 8)
    assert cluster.runtime == Runtime(precision="bf16", threads=3)
    assert (cluster.storage, cluster.data_root, cluster.max_failures) == ("runs", None, 3)


def test_memory_and_price_are_known_where_they_are_stated(tmp_path: Path) -> None:
    assert load_cluster(write(tmp_path, "workers: 2\n")).price_per_hour is None
    stated = load_cluster(write(tmp_path, "memory_per_worker_gib: 70\nprice_per_hour: 2.5\n"))
    assert (stated.memory_per_worker_gib, stated.price_per_hour) == (70, 2.5)


def test_the_users_own_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clusters").mkdir()
    write(tmp_path / "clusters", "workers: 7\n", "local")
    write(tmp_path / "clusters", "workers: 1\n", "lab")
    monkeypatch.chdir(tmp_path)
    assert load_cluster("local").workers == 7
    assert {"lab", "local", "gpu_node"} <= set(cluster_names())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("worker: 2", "'worker' is not a field here; did you mean 'workers'"),
        ("name: other", "called like its file"),
        ("workers: -1", "from 0"),
        ("workers: [4, 2]", "1 <= min <= max"),
        ("workers: [0, 2]", "1 <= min <= max"),
        ("address: ray://head:10001", "cannot train"),
        ("address: head", "HOST:PORT"),
        ("address: 'head:'", "HOST:PORT"),
        ("cpus_per_worker: 0", "greater than 0"),
        ("max_failures: -1", "greater than or equal to 0"),
        ("precision: fp8", "fp8"),
        ("memory_per_worker_gib: 0", "greater than 0"),
        ("price_per_hour: -1", "greater than or equal to 0"),
        ("storage: ftp://host/runs", "give a path, or s3://BUCKET/FOLDER"),
        ("storage: s3a://key:hush@bucket/runs", "got 's3a://...@bucket/runs'; 's3a://...@bucket/runs' is no store"),
        ("storage: s3://bucket/runs?secret_key=hush", "got 's3://bucket/runs?...'; option 'secret_key' of a s3://"),
        ("dashboard: http://127.0.0.1:99999", "got 'http://127.0.0.1:99999'; a dashboard is http://HOST:PORT"),
        ("storage: s3://key:hush@bucket/runs", "got 's3://...@bucket/runs'; an address such as s3://BUCKET/FOLDER"),
        ("data_root: gs://bucket/data?region=x", "option 'region' of a gs:// address is not known"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match="mine.yaml") as caught:
        load_cluster(write(tmp_path, text))
    assert complaint in str(caught.value)
    assert "hush" not in str(caught.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'local'"):
        load_cluster("locl")
    with pytest.raises(UsageError, match=r"no cluster file 'none/such.yaml'"):
        load_cluster("none/such.yaml")


def test_neither_configuration_nor_a_local_run_needs_ray() -> None:
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from raykd.cluster.config import load_cluster\n"
        "import raykd.runners.train\n"
        "load_cluster('local')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_precision_that_is_asked_for_is_the_clusters() -> None:
    assert choose_cluster(None, workers=0).precision == "fp32"
    chosen = choose_cluster("local", workers=0, precision="bf16")
    assert chosen == load_cluster("local").model_copy(update={"precision": "bf16"})
    assert chosen.runtime.precision == "bf16"


def test_trackers_that_are_asked_for_come_beside_the_clusters(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("trackers: [mlflow]\n")
    assert choose_cluster(str(file), workers=0).trackers == ("mlflow",)
    assert choose_cluster(str(file), workers=0, trackers=("wandb", "mlflow")).trackers == ("mlflow", "wandb")
    file.write_text("trackers: [mlfow]\n")
    with pytest.raises(UsageError, match="mlflow"):
        load_cluster(str(file))
