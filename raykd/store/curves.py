"""Curves for TensorBoard: scalars and pictures as events of one file, written at once and whole.

TensorBoard's own writer leaves that to a thread, whose traceback is all that is seen of a disk that takes no more.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from raykd.files import append, make_folder

_VERSION = "brain.Event:2"


class CurveFile:
    """The file of this process in a folder of event files."""

    def __init__(self, folder: Path) -> None:
        """Name it; nothing is made before the first row."""
        self._path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.0"

    def append(self, row: Mapping[str, float], step: int, sheet: bytes | None) -> None:
        """Add a point to the curve of each name, and the sheet of the step's images, a PNG.

        Raises:
            OSError: if the disk does not take it; the points before it are whole.
        """
        now, content = time.time(), io.BytesIO()
        records = RecordWriter(content)
        if not self._path.is_file():
            make_folder(self._path.parent)
            records.write(Event(wall_time=now, file_version=_VERSION).SerializeToString())
        for name, value in row.items():
            point = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            records.write(Event(wall_time=now, step=step, summary=point).SerializeToString())
        if sheet is not None:
            height, width = Image.open(io.BytesIO(sheet)).size[::-1]
            picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=sheet)
            shown = Summary(value=[Summary.Value(tag="samples", image=picture)])
            records.write(Event(wall_time=now, step=step, summary=shown).SerializeToString())
        append(self._path, content.getvalue())
