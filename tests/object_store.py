"""Real servers of S3 and of Google Cloud Storage in the test process, which can be stopped and keep what they have."""

import logging
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.fs as pafs

from tests.ports import free_port

if TYPE_CHECKING:
    from gcp_storage_emulator.server import Server as GoogleServer
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

PORT, GOOGLE_PORT = free_port(), free_port()
URL = f"http://127.0.0.1:{PORT}"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "of-the-tests",
    "AWS_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": URL,
    "STORAGE_EMULATOR_HOST": f"127.0.0.1:{GOOGLE_PORT}",
}
"""Set for the whole session, since Ray's workers inherit it."""
_NUMBERS = count()


class Server:
    """S3 on a port of loopback."""

    scheme = "s3"

    def __init__(self) -> None:
        self._server: ThreadedMotoServer | None = None
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.start()

    def start(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", PORT, verbose=False)
        self._server.start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.stop()

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{next(_NUMBERS)}"
        self.filesystem.create_dir(name)
        return name

    @property
    def filesystem(self) -> pafs.FileSystem:
        return pafs.S3FileSystem(region="us-east-1", endpoint_override=URL, allow_bucket_creation=True)

    def files(self, address: str) -> set[str]:
        """Return the paths of all files below an address."""
        base = address.removeprefix(f"{self.scheme}://")
        found = self.filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
        return {one.path.removeprefix(base + "/") for one in found if one.type == pafs.FileType.File}


class Google(Server):
    """Google Cloud Storage on a port of loopback, with its files on disk."""

    scheme = "gs"

    def __init__(self, folder: Path) -> None:
        self._google: GoogleServer | None = None
        self._folder = str(folder)
        self.start()

    def start(self) -> None:
        from gcp_storage_emulator.server import create_server

        self._google = create_server("127.0.0.1", GOOGLE_PORT, data_dir=self._folder)
        self._google.start()

    def stop(self) -> None:
        assert self._google is not None
        self._google.stop()

    @property
    def filesystem(self) -> pafs.FileSystem:
        endpoint = f"127.0.0.1:{GOOGLE_PORT}"
        return pafs.GcsFileSystem(anonymous=True, scheme="http", endpoint_override=endpoint, project_id="tests")
