"""What a job takes along, and what it leaves behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykd.cluster import package as packages
from raykd.cluster.package import collect, job_problems, remote_content
from raykd.errors import UsageError
from tests.cluster.test_submission import CLUSTER


def written(folder: Path, *names: str, size: int = 1) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def taken(folder: Path, data_root: Path | None = None) -> list[str]:
    return sorted(map(str, collect(folder, data_root).files))


def test_what_nobody_wants_stays_behind(tmp_path: Path) -> None:
    wanted = ["mine.yaml", "code/model.py", "code/runs.py", "code/logits/of.py"]
    written(
        tmp_path,
        *wanted,
        ".git/HEAD",
        ".venv/bin/python",
        "code/__pycache__/model.pyc",
        ".mypy_cache/x",
        "a.egg-info/x",
    )
    written(tmp_path, ".env", ".env.local", ".aws/credentials", ".netrc", "data/mnist/train.parquet", ".raykd/old.yaml")
    written(tmp_path / "runs", "logits/a.parquet", "synthetic/b/train.parquet", "searches/c/study.db", ".ray/x")
    written(tmp_path / "runs/kd_digits-00000000-s0", "student.safetensors")
    (tmp_path / "runs/kd_digits-00000000-s0/status.json").write_text('{"state": "finished"}')
    assert taken(tmp_path, tmp_path / "data") == sorted(wanted)


def test_ignore_files_are_honoured_as_git_does(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.bin\n/top.txt\nbuild/\n!keep.bin\n")
    (tmp_path / ".rayignore").write_text("big/\n")
    written(tmp_path, "a.bin", "keep.bin", "top.txt", "sub/top.txt", "build/x", "big/x", "sub/a.bin", "sub/here.txt")
    (tmp_path / "sub/.gitignore").write_text("!a.bin\nhere.txt\n")
    assert taken(tmp_path) == ["keep.bin", "sub/a.bin", "sub/top.txt"]


def test_a_folder_as_large_as_data_is_refused_with_its_largest_parts(tmp_path: Path) -> None:
    written(tmp_path, "small.txt")
    for name, size in (("images/one.bin", 150), ("images/two.bin", 50), ("weights.pt", 100)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size * 2**20)  # 300 MiB that take no room
    with pytest.raises(UsageError) as caught:
        collect(tmp_path, None).check()
    told = str(caught.value)
    assert "300.0 MiB in 4 files, and a job takes along at most 100.0 MiB in 100,000;" in told
    assert "the largest: images/ 200.0 MiB, weights.pt 100.0 MiB, small.txt" in told
    assert ".rayignore" in told
    (tmp_path / ".rayignore").write_text("images/\nweights.pt\n")
    collect(tmp_path, None).check()


def test_what_is_written_can_be_run(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    written(here, "mine.yaml", "code/model.py")
    os.symlink(here / "mine.yaml", here / "linked.yaml")
    there.mkdir()
    place = collect(here, None).write(there, CLUSTER)
    assert (there / "linked.yaml").read_bytes() == b"x"
    assert yaml.safe_load((there / place).read_text()) == {"address": "auto", "workers": 2, "storage": "/shared/runs"}
    told = subprocess.run(
        [sys.executable, "-c", "import raykd.search.space_file as s; print(s.__file__); print(*s.space_files())"],
        cwd=there, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""},
    ).stdout.splitlines()  # fmt: skip
    assert told[0].startswith(str(there)), "the code that travels is the code that runs"
    assert "dafl_digits" in told[1].split()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"address": "local"}, "starts a Ray of its own with each run.*set address to auto"),
        ({"storage": "runs"}, "storage 'runs' .* would lie in the job's own folder"),
        ({"study": "postgresql+psycopg://me:secret@db/raykd"}, "has a password in its address.*set PGPASSWORD"),
        ({"study": "postgresql+psycopg://db/raykd?user=me&PassWord=secret"}, "has a password in its address"),
        ({"study": "postgresql+psycopg://me@db/raykd?sslpassword=secret"}, "has a password in its address"),
    ],
)
def test_what_does_not_fit_a_job_is_refused(changes: dict[str, Any], says: str) -> None:
    cluster = CLUSTER.model_copy(update=changes)
    with pytest.raises(UsageError, match=says) as caught:
        remote_content(cluster)
    assert "secret" not in str(caught.value)
    assert list(job_problems(cluster)) == [str(caught.value)]


def test_the_limit_is_below_rays_own() -> None:
    assert packages.MAX_BYTES < 512 * 2**20


def test_links_are_followed_and_lead_to_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = tmp_path / "here"
    written(tmp_path / "shared", "models/net.py", "one.txt", "data/mnist/train.parquet")
    written(here, "sub/mine.py")
    links = {"models": "../shared/models", "one.txt": "../shared/one.txt", "data": "../shared/data", "sub/up": ".."}
    for name, target in {**links, "loop": ".", "self": "self", "gone": "nowhere"}.items():
        (here / name).symlink_to(target)
    (tmp_path / "shared/models/again").symlink_to(here)
    os.mkfifo(here / "pipe")
    assert taken(here, tmp_path / "shared/data") == ["models/net.py", "one.txt", "sub/mine.py"]
    assert [f"{here / name} is left out: it is a link that leads nowhere" for name in ("gone", "self")] == (
        caplog.messages
    )


def test_a_link_to_more_files_than_a_job_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, *(f"images/{number}.png" for number in range(5)))
    monkeypatch.setattr(packages, "_MAX_FILES", 3)
    with pytest.raises(UsageError, match=r"in more than 3 files, .*the largest: images/"):
        collect(tmp_path, None).check()


def test_a_name_that_cannot_travel_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    with pytest.raises(UsageError, match=r"caf\\udce9.txt': a name that is no UTF-8 cannot travel"):
        collect(tmp_path, None)


def test_files_travel_without_their_times(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    written(here, "old.txt")
    os.utime(here / "old.txt", (1, 1))
    there.mkdir()
    collect(here, None).write(there, CLUSTER)
    assert min(path.stat().st_mtime for path in there.rglob("*") if path.is_file()) > 1e9
