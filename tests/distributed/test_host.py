"""Host settings: reported truthfully, refused where they would change the arithmetic."""

import ctypes
import json
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raykd.distributed import host
from raykd.distributed.host import cores_of_a_worker

SETTINGS: Any = getattr(torch.backends.mkldnn, "matmul", None)  # newer than the oldest torch


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Undo what can be undone, so that other tests run as if none of this had."""
    threads = torch.get_num_threads()
    precision = getattr(SETTINGS, "fp32_precision", None)
    yield
    torch.set_num_threads(threads)
    if precision is not None:
        SETTINGS.fp32_precision = precision


@pytest.fixture
def no_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the allocator of the test process as it is: that setting cannot be undone."""
    monkeypatch.setattr(host, "keep_freed_memory", lambda: False)


def child(code: str) -> str:
    """Run ``code`` in its own process and return the last line it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()[-1]


def test_report_is_json_and_true() -> None:
    report = json.loads(
        child(
            "import json, torch; from dataclasses import asdict\n"
            "from raykd.distributed.host import prepare_host\n"
            "first = prepare_host(threads=1)\n"
            "assert prepare_host() == first, 'not idempotent'\n"
            "assert torch.get_num_threads() == 1\n"
            "x = torch.randn(64, 64, dtype=torch.float64)\n"
            "assert torch.allclose((x.float() @ x.float()).double(), x @ x, atol=1e-3)\n"
            "print(json.dumps(asdict(first)))"
        )
    )
    assert report["threads"] == 1
    assert report["allocator"] == ("resident" if platform.libc_ver()[0] == "glibc" else "default")
    assert (report["matmul"] == "onednn") == ((report["matmul_error"] or 1.0) < 1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_freed_memory_stays() -> None:
    code = (
        "import resource, torch\n"
        "{prepare}\n"
        "for _ in range(4): torch.ones(2**24)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(16): torch.ones(2**24)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    prepare = "from raykd.distributed.host import prepare_host; prepare_host()"
    # A small block may settle in the freed space, so that the heap grows by a tensor once or twice, and
    # the system may take pages back at any time: bounds in tensors, not in pages, and three tries.
    plain = int(child(code.format(prepare="pass")))
    assert any(int(child(code.format(prepare=prepare))) < plain / 4 for _ in range(3))


def test_importing_changes_nothing() -> None:
    unchanged = child(
        "import torch\n"
        "matmul = getattr(torch.backends.mkldnn, 'matmul', None)\n"
        "def state(): return torch.get_num_threads(), getattr(matmul, 'fp32_precision', None)\n"
        "before = state(); import raykd.distributed.host; print(before == state())"
    )
    assert unchanged == "True"


@pytest.mark.usefixtures("no_mallopt")
def test_inexact_products_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(fp32_precision="none")
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", stand_in, raising=False)
    monkeypatch.setattr(host, "product_error", lambda: 4e-3)
    report = host.prepare_host()
    assert (report.matmul, report.matmul_error) == ("default", 4e-3)
    assert stand_in.fp32_precision == "none"


@pytest.mark.usefixtures("no_mallopt")
def test_the_probe_sees_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    rng_state = torch.get_rng_state()
    assert host.product_error() < 1e-5
    assert torch.equal(torch.get_rng_state(), rng_state), "the probe must not draw from the run"
    matmul = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype is torch.float64:
            return matmul(a, b)
        return matmul(a.bfloat16(), b.bfloat16()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert host.product_error() > 1e-3


@pytest.mark.usefixtures("no_mallopt")
def test_torch_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "mkldnn", object())
    assert asdict(host.prepare_host())["matmul_error"] is None


@pytest.mark.parametrize("libc", [("", ""), ("libc", "10.1")])
def test_other_c_libraries_keep_their_allocator(libc: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("called into another libc"))
    assert not host.keep_freed_memory()


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "some-c++"
    compiler.touch(mode=0o755)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler))
    assert host.compile_obstacle() is None
    (tmp_path / "Python.h").unlink()
    assert "headers" in (host.compile_obstacle() or "")
    monkeypatch.delenv("CXX")
    monkeypatch.setitem(os.environ, "PATH", "")
    assert "on PATH" in (host.compile_obstacle() or "")


def of_products() -> object:
    products = torch.backends.cuda.matmul
    return products.fp32_precision if hasattr(products, "fp32_precision") else products.allow_tf32


@pytest.mark.parametrize(
    ("precision", "device", "is_tf32"), [("tf32", "cuda", True), ("tf32", "cpu", False), ("fp32", "cuda", False)]
)
@pytest.mark.parametrize("busy", [False, True], ids=["", "where a CPU's products were set too"])
def test_products_in_tf32_are_a_gpus_and_only_for_the_run(
    precision: str, device: str, is_tf32: bool, busy: bool
) -> None:
    """torch refuses its older switch to a process that has used the newer one for a CPU's products."""
    before = of_products()
    if busy and hasattr(SETTINGS, "fp32_precision"):
        SETTINGS.fp32_precision = "bf16"
    with host.float32_products(precision, torch.device(device)):
        assert (of_products() in (True, "tf32")) == is_tf32
    assert of_products() == before


@pytest.mark.parametrize(("workers", "share"), [("", 6), ("1", 6), ("4", 1), ("0", 6), ("none", 6), ("99", 1)])
def test_a_worker_has_its_share_of_the_cores_that_there_are(
    monkeypatch: pytest.MonkeyPatch, workers: str, share: int
) -> None:
    """macOS does not tell which cores a process may use."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", workers)
    assert cores_of_a_worker() == share
