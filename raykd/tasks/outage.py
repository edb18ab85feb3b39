"""Outages of an object store, made by a proxy that stands between a command and the store's endpoint."""

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult, parse_qsl, urlsplit

from raykd.store.remote import S3_ENDPOINTS, is_remote

_CHUNK = 2**16
_CONNECT_SECONDS = 5.0


class Proxy:
    """Carries TCP connections to a server from a port of loopback, unless they are cut."""

    def __init__(self, host: str, port: int) -> None:
        """Listen on a free port until it is closed."""
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.answered_at = 0.0
        """When the server last answered, in seconds since 1970; 0 if it has not since it was cut off."""
        self._is_cut = False
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            self._is_cut = True
            for end in self._ends:
                _shut(end)

    def restore(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._is_cut, self.answered_at = False, 0.0

    def close(self) -> None:
        """End all connections, and take no more."""
        self.cut()
        _shut(self._listener)  # which wakes who waits for a connection
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._server, _CONNECT_SECONDS) as server:
            server.settimeout(None)
            with self._lock:
                if self._is_cut:
                    return
                self._ends |= {client, server}
            try:
                self._carry_both_ways(client, server)
            finally:
                with self._lock:
                    self._ends -= {client, server}

    def _carry_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for source in select.select([client, server], [], [])[0]:
                content = source.recv(_CHUNK)
                if not content or self._is_cut:
                    return
                (client if source is server else server).sendall(content)
                if source is server:
                    self.answered_at = time.time()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        end.shutdown(socket.SHUT_RDWR)


def why_no_outage(location: str) -> str | None:
    """Return why a store cannot be cut off; None if it can."""
    if not is_remote(location):
        return "the store is a folder of this machine, which does not go away"
    if _endpoint_of(location) is None:
        return f"the store is not reached by an http:// address in {' or '.join(S3_ENDPOINTS)}, which can be cut off"
    return None


@contextmanager
def behind_proxy(location: str) -> Iterator[Proxy | None]:
    """Within: this process, and those that it starts, reach a store through the proxy; None if there can be none."""
    endpoint = _endpoint_of(location)
    if endpoint is None:
        yield None
        return
    variable, url = endpoint
    given, proxy = os.environ[variable], Proxy(url.hostname or "", url.port or 80)
    os.environ[variable] = url._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
    try:
        yield proxy
    finally:
        os.environ[variable] = given
        proxy.close()


def _endpoint_of(location: str) -> tuple[str, SplitResult] | None:
    """Return the variable of the environment that names a store's endpoint, and the endpoint, if it is plain HTTP."""
    address = urlsplit(location)
    variable = next((name for name in S3_ENDPOINTS if os.environ.get(name)), None)
    if address.scheme != "s3" or variable is None or "endpoint_override" in dict(parse_qsl(address.query)):
        return None
    url = urlsplit(os.environ[variable])
    return (variable, url) if url.scheme == "http" and url.hostname else None
