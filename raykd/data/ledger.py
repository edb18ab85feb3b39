"""The ledger that proves what a run has opened."""

from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from raykd.data.datasets import Images, find_split, load_images, train_header
from raykd.data.streamed import StreamedImages
from raykd.errors import CorruptError, UsageError, unknown
from raykd.spec import DataSpec

Role = Literal["train", "synthetic", "ood", "calibration", "test"]


class OpenedData:
    """A run's ledger: opens data sets and remembers in which role. So data-free can be proven."""

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
        self._write_down(role, name, split)
        return load_images(name, split, spec, self._data_root, rows)

    def stream(self, role: Role, name: str, split: str, spec: DataSpec, **how: Any) -> StreamedImages | Images:
        """Open a split in a role, to be read as it is needed; ``how`` is what ``StreamedImages`` wants besides.

        An embedded set is loaded: it is small.

        Raises:
            UsageError: as ``open``, or if the buffer is too small.
        """
        self._write_down(role, name, split)
        files = find_split(name, split, self._data_root)
        if not files:
            return load_images(name, split, spec, self._data_root, how["rows"])
        return StreamedImages(name, files, spec, **how)

    def _write_down(self, role: Role, name: str, split: str) -> None:
        if role not in self._opened:
            raise unknown("data role", role, self._opened)
        if role in ("train", "ood", "test") and self._is_synthetic(name):
            if role == "test":
                raise UsageError(
                    f"data set {name!r} is synthetic: what a student learns from it cannot be measured on it; "
                    "give the real set as data.name and this one as data.train, or set data.test=false"
                )
            role = "synthetic"
        # Written down before it is read: a reading that fails half-way has seen images too.
        self.note(role, f"{name}/{split}")

    def note(self, role: Role, entry: str) -> None:
        """Remember images that were opened before, by whoever made what this run uses of them."""
        if entry not in self._opened[role]:
            self._opened[role].append(entry)

    def _is_synthetic(self, name: str) -> bool:
        try:
            header = train_header(name, self._data_root)
        except CorruptError:
            return False  # what is wrong with it shows when it is loaded
        return header is not None and header.synthetic

    def by_role(self) -> dict[str, list[str]]:
        """Return ``name/split`` of everything opened; an unused role is there with []."""
        return {role: list(entries) for role, entries in self._opened.items()}
