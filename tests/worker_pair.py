"""Two workers in processes of their own, joined over gloo as torchrun would join them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ports import free_port

ROOT = Path(__file__).parents[1]


def run_two_workers(program: str, *arguments: object, seconds: float = 120, **environment: str) -> None:
    """Run a module as both workers; fail if one does, or takes longer (their group's own timeout is 10 minutes)."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", program, *map(str, arguments)],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank), **environment},
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    try:
        assert [worker.wait(seconds) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()


def outcome(action: Callable[[], Any]) -> dict[str, Any]:
    """Return what an action returns, or the error it raises, as plain data."""
    try:
        return {"result": action()}
    except Exception as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "exit_code": getattr(error, "exit_code", None),
            "cause": type(error.__cause__).__name__ if error.__cause__ else None,
        }
