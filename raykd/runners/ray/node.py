"""A node of Ray on the loopback device, as a process that ends, with all on it, once its standard input does.

python -m raykd.runners.ray.node OPTIONS OF RAY START, in a process group of its own
"""

import os
import signal
import sys
import threading


def _end_with_input() -> None:
    """Wait for the end of the process that holds the other end of the pipe, and kill this one's group."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    if os.getpgrp() != os.getpid():
        sys.exit("a node of Ray kills its process group in the end: start it as the first of a group of its own")
    threading.Thread(target=_end_with_input, daemon=True).start()  # before Ray is imported, which takes seconds
    from raykd.runners.ray.internals import start_on_loopback

    start_on_loopback(sys.argv[1:])
