"""A command of bash in a process group of its own, with an empty directory for the files that it wants to give."""

import contextlib
import os
import signal
import subprocess
import tempfile
from typing import Any

HOME = "/mnt/data"
OUTPUTS = f"{HOME}/outputs"


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Run `command`; its exit status as shells say it, and where its files are."""
    os.makedirs(OUTPUTS, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="", dir=OUTPUTS)
    try:
        status = _status(asked["command"], directory)
    finally:
        for unused in (directory, OUTPUTS):
            with contextlib.suppress(OSError):  # there is something in it
                os.rmdir(unused)
    return {"return_code": status, "directory": os.path.relpath(directory, HOME)}


def _status(command: str, directory: str) -> int:
    process = subprocess.Popen(
        ["/bin/bash", "-c", command],
        cwd=HOME,
        env={**os.environ, "OUTPUT_DIR": directory},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return status if status >= 0 else 128 - status
