"""What a submitted job takes along: the working directory without what is ignored, raykd itself, its cluster file."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pathspec

import raykd
from raykd.cluster.config import Cluster
from raykd.config.yaml_file import dump_yaml
from raykd.errors import UsageError
from raykd.files import writing
from raykd.store.remote import is_remote
from raykd.store.run_directory import RunDirectory

logger = logging.getLogger(__name__)

MAX_BYTES = 100 * 2**20
"""More than this is data, which a cluster reads from its own storage."""
FOLDER = ".raykd"
"""Where the job finds its cluster file, inside the working directory."""
_IGNORE_FILES = (".gitignore", ".rayignore")
_ALWAYS_IGNORED = (
    ".git/", ".hg/", ".svn/", ".venv/", "venv/", ".env",
    "__pycache__/", "*.py[cod]", ".*_cache/", "*.egg-info/", FOLDER,
    ".env.*", ".aws/", ".azure/", ".config/gcloud/", ".gnupg/", ".kube/", ".ssh/",
    ".git-credentials", ".netrc", ".pgpass", ".pypirc",
)  # fmt: skip
_DERIVED = ("logits", "searches", "synthetic", "weights", ".ray")
"""Folders of a store, beside its runs, that may be large."""
_LARGEST_LISTED = 5
_MAX_FILES = 100_000  # links may lead anywhere, also to a data set whose files would take hours to count
_PASSWORD = re.compile("passw|secret|token", re.IGNORECASE)  # in the name of a database's option


@dataclass(frozen=True)
class Package:
    """The files of a working directory that go along, by their relative paths, with their bytes."""

    root: Path
    files: dict[PurePosixPath, int]

    @property
    def total(self) -> int:
        """Return the bytes of all files."""
        return sum(self.files.values())

    def check(self) -> None:
        """Refuse a package that is too large to upload.

        Raises:
            UsageError: with the largest folders and files.
        """
        if self.total <= MAX_BYTES and len(self.files) <= _MAX_FILES:
            return
        sums: dict[str, int] = {}
        for path, size in self.files.items():
            top = path.parts[0] + ("/" if len(path.parts) > 1 else "")
            sums[top] = sums.get(top, 0) + size
        count = len(self.files) if len(self.files) <= _MAX_FILES else f"more than {_MAX_FILES:,}"
        largest = sorted(sums.items(), key=lambda one: -one[1])[:_LARGEST_LISTED]
        raise UsageError(
            f"{self.root} has {_mib(self.total)} in {count} files, and a job takes along at most {_mib(MAX_BYTES)} in "
            f"{_MAX_FILES:,}; the largest: {', '.join(f'{name} {_mib(size)}' for name, size in largest)}. List what "
            "is not needed in .gitignore or .rayignore, or give another --working-dir; data belong into data_root"
        )

    def write(self, folder: Path, cluster: Cluster) -> Path:
        """Write the package, raykd and the cluster file into ``folder``; return the cluster file's path in there.

        Raises:
            UsageError: for a file that cannot be read.
            SetupError: if the disk does not take the package.
        """
        with writing(f"the job's package into {folder}"):
            return self._write(folder, cluster)

    def _write(self, folder: Path, cluster: Cluster) -> Path:
        for path in self.files:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self.root / path, target)
            except OSError as error:
                if os.access(self.root / path, os.R_OK):
                    raise
                raise _unreadable(self.root / path, error) from None
        package = Path(raykd.__file__).parent
        unwanted = shutil.ignore_patterns("__pycache__", "*.py[cod]")
        # Without their times: Ray packs a zip, which knows none before 1980, and reproducible builds have such.
        shutil.copytree(package, folder / "raykd", ignore=unwanted, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for name in ("clusters", "search_spaces"):  # as in a wheel, which a checkout is not
            source = package.parent / name
            if source.is_dir() and not (package / name).exists():
                shutil.copytree(source, folder / "raykd" / name, dirs_exist_ok=True, copy_function=shutil.copyfile)
        cluster_path = Path(FOLDER) / f"{cluster.name}.yaml"
        (folder / FOLDER).mkdir()
        (folder / cluster_path).write_text(dump_yaml(remote_content(cluster)))
        return cluster_path


def collect(root: Path, data_root: Path | None) -> Package:
    """Find the files of a working directory, without what version control, .gitignore and .rayignore leave out.

    Runs, with what their store derives of them, and the data root are left out wherever they are. Links are followed,
    as Ray does, except back to a folder that they lie in. Pipes and devices are left out, and links that lead nowhere.

    Raises:
        UsageError: for a folder that cannot be read, or a name that is no text.
    """
    root = root.resolve()
    data = data_root.resolve() if data_root else None
    files: dict[PurePosixPath, int] = {}
    always_ignored = pathspec.GitIgnoreSpec.from_lines(_ALWAYS_IGNORED)
    for path in _walk(root, [(root, always_ignored)], data, (root,)):
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{ascii(str(path))}: a name that is no UTF-8 cannot travel: rename the file") from None
        files[PurePosixPath(path.relative_to(root).as_posix())] = path.stat().st_size
        if len(files) > _MAX_FILES:
            break  # refused by ``Package.check``
    return Package(root, files)


def _walk(
    folder: Path, specs: list[tuple[Path, pathspec.GitIgnoreSpec]], data: Path | None, inside: tuple[Path, ...]
) -> Iterator[Path]:
    """Yield the files of a folder; ``inside`` are the folders, without links, that lead to it."""
    for name in _IGNORE_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            specs = [*specs, (folder, pathspec.GitIgnoreSpec.from_lines(lines))]
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from None
    folders = {path.name for path in entries if path.is_dir()}
    runs = {name for name in folders if RunDirectory(folder / name).has_begun}
    skipped = {*_IGNORE_FILES, *runs, *(_DERIVED if runs else ())}
    for path in entries:
        is_folder = path.name in folders
        if path.name in skipped or _ignored(path, is_folder, specs):
            continue
        if is_folder:
            real = path.resolve()
            if real != data and real not in inside:
                yield from _walk(path, specs, data, (*inside, real))
        elif path.is_file():
            yield path
        elif path.is_symlink():
            logger.warning("%s is left out: it is a link that leads nowhere", path)


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be read ({error.strerror}), and a job takes along what is in its working directory: make it "
        "readable, or list it in .gitignore or .rayignore"
    )


def _ignored(path: Path, is_folder: bool, specs: list[tuple[Path, pathspec.GitIgnoreSpec]]) -> bool:
    """Tell whether a path is ignored: the deepest ignore file with a matching pattern decides."""
    for base, spec in reversed(specs):
        verdict = spec.check_file(path.relative_to(base).as_posix() + ("/" if is_folder else "")).include
        if verdict is not None:
            return bool(verdict)
    return False


def remote_content(cluster: Cluster) -> dict[str, Any]:
    """Return a cluster file as the job sees it, from inside the cluster.

    Raises:
        UsageError: if the cluster takes no jobs, see ``job_problems``.
    """
    for problem in job_problems(cluster):
        raise UsageError(problem)
    content = cluster.model_dump(mode="json", exclude_defaults=True, exclude={"name", "launcher", "dashboard"})
    return {**content, "address": "auto"}


def job_problems(cluster: Cluster) -> Iterator[str]:
    """Yield why no job can be sent to a cluster: its folder would hold the runs, or a password would travel."""
    if cluster.address == "local":
        yield (
            f"cluster {cluster.name!r} starts a Ray of its own with each run, and a job goes to one that is running: "
            f"set address to auto, or run `raykd train ... --cluster {cluster.name}`"
        )
    if not is_remote(cluster.storage) and not Path(cluster.storage).is_absolute():
        yield (
            f"storage {cluster.storage!r} of cluster {cluster.name!r} would lie in the job's own folder, which Ray "
            "removes: give an absolute path that every node sees, or the address of an object store"
        )
    if _has_password(cluster.study or ""):
        yield (
            f"the study of cluster {cluster.name!r} has a password in its address, which would be stored with the job: "
            "leave it out, and set PGPASSWORD (or a ~/.pgpass) on the cluster"
        )


def _has_password(url: str) -> bool:
    """Tell whether a database's URL has a password, before its host or among its options."""
    user, at, _ = url.partition("@")
    options = [name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)]
    return bool(at and ":" in user.partition("://")[2]) or any(_PASSWORD.search(name) for name in options)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
