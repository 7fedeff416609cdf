"""How a kernel begins: as a fork, whose parent tells whoever asked for it which process it is.

Standard library only: a launcher does this, too.
"""

import os
from collections.abc import Callable
from typing import Any, NoReturn

Request = dict[str, Any]
"""What a kernel is asked for with: `fork`, the asker's name for it, and whatever its containment needs to know."""
Prepare = Callable[[Request, list[int]], None]
"""Runs in the parent right before the fork."""
Become = Callable[[Request, list[int]], NoReturn]
"""Runs in the fork: contains it and is a kernel from then on."""

_WORDS = 500


def bear(request: Request, fds: list[int], prepare: Prepare, become: Become) -> dict[str, Any]:
    """Fork; in the parent, the answer to the request: `{"fork": …, "pid": …}`, or why there is none as `failed`."""
    answer: dict[str, Any] = {"fork": request["fork"]}
    try:
        prepare(request, fds)
        pid = os.fork()
    except OSError as error:  # the sandbox may have ended meanwhile
        return answer | {"failed": f"{type(error).__name__}: {error}"}
    if pid == 0:
        live(lambda: become(request, fds))
    return answer | {"pid": pid}


def live(be: Callable[[], NoReturn]) -> NoReturn:
    """Be a kernel, and end when that fails."""
    try:
        be()
    except BaseException as error:
        # 2 is the launcher's log until the kernel has pipes of its own.
        told = " ".join(f"{type(error).__name__}: {error}"[:_WORDS].split())
        os.write(2, f"kernel failed to start: {told}\n".encode())
        os._exit(70)
