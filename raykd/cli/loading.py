"""A word to who waits at a terminal while libraries are loaded, which takes long on a busy machine."""

import sys
import threading
import time
from types import FrameType

_IMPORTING = "<frozen importlib._bootstrap>"
_GLANCE, _WATCHED = 0.25, 60.0  # seconds: between looks, and how long imports may begin
_LINE = "raykd: loading libraries, which takes long the first time and on a busy machine\n"


def tell_of_loading(after: float = 3.0) -> None:
    """Say once on stderr, if that is a terminal, that the main thread has been importing for ``after`` seconds.

    Whoever reads stderr from a file or a pipe waits for nothing, and finds there what commands say.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        threading.Thread(target=_watch, args=(after,), daemon=True).start()


def _watch(after: float) -> None:
    began = time.monotonic()
    since: float | None = None  # when it began to import what it is importing
    while since is not None or time.monotonic() - began < _WATCHED:
        since = (since or time.monotonic()) if _is_importing() else None
        if since is not None and time.monotonic() - since >= after:
            sys.stderr.write(_LINE)
            return
        time.sleep(_GLANCE)


def _is_importing() -> bool:
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False
