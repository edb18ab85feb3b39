"""An export by the command line: what it prints, and each mistake in one line with its exit code."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from raykd.models import build_model
from raykd.tasks import export_formats
from tests.cli.conftest import Raykd, WriteRecipe
from tests.disks import make_read_only, mounted, resize
from tests.planning.untrained_bank import save_run, save_teacher


@pytest.fixture
def run(raykd: Raykd, tiny: WriteRecipe) -> str:
    """The directory of a finished run."""
    done = raykd("train", tiny(), "--json")
    return str(json.loads(done.stdout)["directory"])


def test_it_says_what_was_written_and_how_it_was_checked(raykd: Raykd, run: str) -> None:
    done = raykd("export", run, "--out", "made", "--int8")
    assert done.exit_code == 0, done.stderr
    for words in ("onnx, opset 18", "digits/test, 359 images", "359 of 359", "student.int8.onnx", "largest difference"):
        assert words in done.stdout
    assert "synthetic images of tiny-" in done.stdout, "what it was calibrated on"
    assert "python made/predict.py IMAGE" in done.stdout
    done = raykd("export", run, "--out", "it's mine", "--format", "torch-export")
    (line,) = [line for line in done.stdout.splitlines() if "predict.py" in line]
    assert shlex.split(line)[-3:] == ["python", "it's mine/predict.py", "IMAGE"]
    Path("empty").mkdir()
    done = raykd("export", run, "--format", "state-dict", "--out", "empty", "--json")
    assert done.exit_code == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["format"], found["folder"], found["model"]["file"]) == ("state-dict", "empty", "student.pt")
    assert sorted(path.name for path in Path("empty").iterdir()) == [
        "README.md", "labels.json", "network.py", "predict.py", "student.pt",
    ]  # fmt: skip


def test_a_network_that_no_picture_fits_is_tried_on_an_array(raykd: Raykd, tiny: WriteRecipe) -> None:
    save_file(build_model("lenet5", num_classes=5, channels=2, size=32).state_dict(), "two.safetensors")
    data = {"name": "made", "num_classes": 5, "channels": 2, "size": 32, "test": False}
    made = raykd("train", tiny(data=data, teacher={"model": "lenet5", "weights": "two.safetensors"}), "--json")
    done = raykd("export", json.loads(made.stdout)["directory"], "--out", "made", "--format", "torch-export")
    assert "python made/predict.py ARRAY.npy" in done.stdout, done.stderr
    assert "classifies an array in a file" in Path("made/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "tflite", "--out", "made"], 2, "'tflite' is not one of 'onnx', 'torch-export', 'safetensors'"),
        ([], 2, "Missing option '--out'"),
        (["--out", "full"], 2, "full is not empty"),
        (["--out", "tiny.yaml"], 2, "tiny.yaml is a file or a link"),
        (["--out", "dangling"], 2, "dangling is a file or a link"),
        (["--out", "."], 2, "the working directory cannot be replaced"),
        (["--out", "tiny.yaml/made"], 4, "tiny.yaml is a file, and a folder belongs there"),
        (["--out", "/proc/made"], 3, "could not write the export into /proc"),
        (["--format", "safetensors", "--int8", "--out", "made"], 2, "the format is safetensors: give onnx"),
    ],
)
def test_a_place_or_a_format_that_will_not_do_is_refused(
    raykd: Raykd, run: str, arguments: list[str], code: int, message: str
) -> None:
    Path("full").mkdir()
    Path("full/mine").touch()
    Path("dangling").symlink_to("nowhere")
    before = {path: path.stat(follow_symlinks=False).st_mtime_ns for path in Path().rglob("[!.]*")}
    done = raykd("export", run, *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert {path: path.stat(follow_symlinks=False).st_mtime_ns for path in Path().rglob("[!.]*")} == before


def test_a_run_without_a_finished_student_is_refused(raykd: Raykd, run: str, tmp_path: Path) -> None:
    save_teacher(tmp_path)
    method = {"name": "lsgdfd", "statistics": "global", "generator_optim": {"name": "adam", "lr": 1e-3}}
    batch = {"steps": 4, "report_every": 2, "global_batch": 20}
    bank = save_run(tmp_path, "bank-run", student=None, student_optim=None, method=method, schedule=batch)
    torn = Path(shutil.copytree(run, tmp_path / "torn"))
    (torn / "student.safetensors").write_bytes(b"torn")
    Path(run, "student.safetensors").unlink()
    for directory, code, message in (
        ("nowhere", 2, "nowhere does not exist"),
        (str(tmp_path), 2, "is not a run directory"),
        (str(bank), 2, "trained no student"),
        (run, 2, "has no finished student: it is at step 4 of 4"),
        (str(torn), 4, "student.safetensors is damaged"),
    ):
        done = raykd("export", directory, "--out", "made")
        assert (done.exit_code, done.stdout) == (code, ""), done.stderr
        assert message in done.stderr
        assert not Path("made").exists()


@pytest.mark.parametrize("package", export_formats.ONNX_PACKAGES)
def test_a_package_that_is_not_installed_is_named_with_what_installs_it(
    raykd: Raykd, run: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    done = raykd("export", run, "--out", "made")
    assert (done.exit_code, done.stdout) == (3, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"exporting to ONNX needs {package}" in line and "pip install 'raykd[export]'" in line
    assert raykd("export", run, "--out", "made", "--format", "torch-export").exit_code == 0


def test_a_disk_that_is_full_or_read_only_is_left_as_it_was(raykd: Raykd, run: str, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        for blocks, *options in (
            (2, "--format", "state-dict"),
            (8, "--format", "state-dict"),
            (14, "--format", "safetensors"),
            (14, "--format", "torch-export"),
            (8, "--format", "onnx"),
            (24, "--format", "onnx", "--int8"),
            (42, "--format", "onnx", "--int8"),
        ):
            resize(disk, blocks)
            done = raykd("export", run, "--out", str(disk / "made"), *options)
            assert (done.exit_code, done.stdout) == (3, ""), f"{options} of {blocks} blocks: {done.stderr}"
            assert "No space left on device" in done.stderr.splitlines()[-1]
            assert list(disk.iterdir()) == []
        make_read_only(disk)
        done = raykd("export", run, "--out", str(disk / "made"), "--format", "state-dict")
        assert done.exit_code == 3
        assert "Read-only file system" in done.stderr.splitlines()[-1]
