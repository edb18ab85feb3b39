"""The ledger that proves what a run has opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from raykd.data import parquet
from raykd.data.datasets import Images, find_split, load_images, train_header
from raykd.data.stored import StoredImages, stored_images
from raykd.data.streamed import StreamedImages
from raykd.errors import CorruptError, UsageError, unknown
from raykd.spec import DataSpec

Role = Literal["train", "synthetic", "ood", "calibration", "test", "teacher"]
"""``teacher`` is what the teacher itself learned from, as far as a run of raykd tells."""
_OF_SOURCES: tuple[Role, ...] = ("train", "synthetic", "ood", "calibration", "teacher")


class OpenedData:
    """A run's ledger: opens data sets and records each with its role, so that a run can prove to be data-free."""

    def __init__(self, data_root: Path | None) -> None:
        """Open nothing yet; ``data_root`` is the folder of the Parquet sets."""
        self._data_root = data_root
        self._opened: dict[str, list[str]] = {role: [] for role in get_args(Role)}

    def open(self, role: Role, name: str, split: str, spec: DataSpec, rows: Tensor | None = None) -> Images:
        """Load a split, or some rows of it (see ``load_images``), in a role.

        A synthetic set opened to train on counts as ``synthetic``: it holds no image of the data.

        Raises:
            UsageError: if the role is unknown, a synthetic set is to be the test, or as ``load_images``.
        """
        self._record(role, name, split)
        return load_images(name, split, spec, self._data_root, rows)

    def open_test(self, name: str, spec: DataSpec, buffer: int | None) -> Images | StoredImages:
        """Load the test split, or, where it has more images than ``buffer``, let them be read whenever they are wanted.

        Raises:
            UsageError, CorruptError: as ``open``.
        """
        files = find_split(name, "test", self._data_root)
        if buffer is None or not files or parquet.read_header(files[0]).count <= buffer:
            return self.open("test", name, "test", spec)
        return self.open_stored("test", name, "test", spec)

    def open_stored(self, role: Role, name: str, split: str, spec: DataSpec) -> Images | StoredImages:
        """Open a split in a role, whose images are read whenever they are wanted; an embedded set is loaded.

        Raises:
            UsageError, CorruptError: as ``open``.
        """
        self._record(role, name, split)
        return stored_images(name, split, spec, self._data_root)

    def stream(self, role: Role, name: str, split: str, spec: DataSpec, **options: Any) -> StreamedImages | Images:
        """Open a split in a role, to be read as needed; ``options`` are further arguments of ``StreamedImages``.

        An embedded set is loaded: it is small.

        Raises:
            UsageError: as ``open``, or if the buffer is too small.
        """
        self._record(role, name, split)
        files = find_split(name, split, self._data_root)
        if not files:
            return load_images(name, split, spec, self._data_root, options["rows"])
        return StreamedImages(name, files, spec, **options)

    def _record(self, role: Role, name: str, split: str) -> None:
        if role not in self._opened:
            raise unknown("data role", role, self._opened)
        if role in ("train", "ood", "test") and self._is_synthetic(name):
            if role == "test":
                raise UsageError(
                    f"data set {name!r} is synthetic: what a student learns from it cannot be measured on it; "
                    "give the real set as data.name and this one as data.train, or set data.test=false"
                )
            role = "synthetic"
            header = train_header(name, self._data_root)
            self.inherit(header.data_opened if header is not None else {})
        # Recorded before it is read: a reading that fails half-way has seen images too.
        self.note(role, f"{name}/{split}")

    def note(self, role: Role, entry: str) -> None:
        """Record images that another run opened, of which this one uses a result."""
        if entry not in self._opened[role]:
            self._opened[role].append(entry)

    def inherit(self, found: Mapping[str, Any], *, of_teacher: bool = False) -> None:
        """Record what was opened, by role, for a result that this run uses; its test split stays its own.

        All that the run of the teacher has opened is what the teacher learned from, and recorded as that.
        """
        for role in _OF_SOURCES:
            entries = found.get(role)
            for entry in entries if isinstance(entries, list | tuple) else ():
                self.note("teacher" if of_teacher else role, str(entry))

    def _is_synthetic(self, name: str) -> bool:
        try:
            header = train_header(name, self._data_root)
        except CorruptError:
            return False  # what is wrong with it shows when it is loaded
        return header is not None and header.synthetic

    def by_role(self) -> dict[str, list[str]]:
        """Return ``name/split`` of all opened splits by role; an unused role has []."""
        return {role: list(entries) for role, entries in self._opened.items()}
