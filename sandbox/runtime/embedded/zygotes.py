"""What kernels come from: an image's stage, and the zygotes that follow one another on it.

    spawned ─ ready: forks ─ whole: has all libraries ─ … ─ retired: forks no more ─ dismissed with its last kernel

The first one of an image forks as soon as it is ready, so that nobody waits for libraries that few programs want. An
heir takes over from one whose address layout has been shared for long enough, and not before it is whole. One that dies
is replaced by its heir, or by the launcher, who prepares the image anew.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from sandbox.guest import process, variables
from sandbox.runtime.embedded import jail, linux, mounts
from sandbox.runtime.embedded.footing import Share

_ROOM = mounts.Sizes(workspace=1 << 20, files=64, temporary=64 << 20, shared_memory=1 << 20)
"""What a zygote can write to, which is next to nothing."""


class Crowded(Exception):
    """A zygote has more than one thread, so what it forked would hold locks that nobody lets go of."""


@dataclass(slots=True, eq=False)
class Zygote:
    """One image's zygote, as the launcher sees it."""

    pid: int
    link: socket.socket
    ready: bool = False
    waiting: list[str] = field(default_factory=list)
    """Sandboxes that want a fork once it is ready."""
    born: float = field(default_factory=time.monotonic)
    asked: int = 0
    """Forks that it has not answered."""
    living: int = 0
    """Kernels of its that have not ended."""

    def check(self) -> None:
        """Raises `Crowded`, and `FileNotFoundError` when it is dead."""
        tasks = os.listdir(f"/proc/{self.pid}/task")
        if len(tasks) != 1:
            names = {Path(f"/proc/{self.pid}/task/{task}/comm").read_text().strip() for task in tasks}
            raise Crowded(f"the zygote has {len(tasks)} threads ({', '.join(sorted(names))})")

    def ask(self, request: dict[str, Any], fds: Sequence[int]) -> None:
        """Ask for a fork. Raises `ConnectionError` when it is dead, which is noticed where its link is read."""
        socket.send_fds(self.link, [json.dumps(request).encode()], fds)
        self.asked += 1

    def collapse(self) -> None:
        """Have its memory in large pages, which a fork copies the fewer tables for."""
        with contextlib.suppress(OSError):  # it may be dead already; its link will say so
            linux.collapse_memory(self.pid)


@dataclass(slots=True)
class Image:
    """One image: what its sandboxes show, and what their kernels come from."""

    request: dict[str, Any]
    """What it was prepared for, should it have to be prepared again."""
    stage: str
    layers: tuple[mounts.Layer, ...]
    zygote: Zygote | None = None
    """None: each kernel is an interpreter that is executed for it."""
    heir: Zygote | None = None
    """It takes over once it is whole."""
    retired: Zygote | None = None
    """It forks no more, and stays until the last of its kernels has ended."""

    @property
    def zygotes(self) -> tuple[Zygote, ...]:
        """All that there are now."""
        return tuple(each for each in (self.zygote, self.heir, self.retired) if each is not None)

    @property
    def wants_heir(self) -> bool:
        """Whether the zygote is old. Never a third at a time: that the one before it has ended is waited for."""
        longest: float = self.request["zygote_age_s"]
        if self.zygote is None or self.heir is not None or self.retired is not None or not longest:
            return False
        return time.monotonic() - self.zygote.born >= longest

    def inherit(self) -> None:
        """The heir takes over, and the zygote retires."""
        self.retired, self.zygote, self.heir = self.zygote, self.heir, None

    def released(self) -> Zygote | None:
        """The retired one, if nobody's kernel is from it any more; the image has let go of it then."""
        zygote = self.retired
        if zygote is None or zygote.asked or zygote.living:
            return None
        self.retired = None
        return zygote

    def lost(self, zygote: Zygote) -> bool:
        """One of them died. Whether there is still one that forks."""
        if self.heir is zygote:
            self.heir = None
            if self.zygote is not None:
                self.zygote.born = time.monotonic()  # not again at once
        elif self.retired is zygote:
            self.retired = None
        elif self.zygote is zygote:
            self.zygote, self.heir = self.heir, None
        return self.zygote is not None


def spawn(image: Image, user_namespace: int, share: Share) -> Zygote:
    """Another zygote for the image, in namespaces of its own below that user namespace. Raises `OSError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _become(image, user_namespace, share, theirs)
    theirs.close()
    return Zygote(pid, ours)


def _become(image: Image, user_namespace: int, share: Share, link: socket.socket) -> NoReturn:
    request = image.request
    try:
        process.reset_signals()
        process.close_all_but({link.fileno(), user_namespace})
        os.chdir(image.stage)
        wanted = [name for name in jail.NAMESPACES if name != "pid"]
        jail.enter_namespaces(user_namespace, wanted, single=share.single)
        mounts.build([*image.layers, *mounts.ZYGOTE_LAYERS], _ROOM, mounts.Ids(0, 0, 0), proc=False)
        os.close(user_namespace)
        os.set_inheritable(link.fileno(), True)
        module = ["-m", "sandbox.runtime.embedded.zygote"]
        ways = ["shared" if request["shared"] else "alone", "single" if share.single else "many"]
        arguments = [str(link.fileno()), mounts.PRELOAD, *ways]
        environment = variables.ZYGOTE | {"PYTHONPATH": mounts.CODE}
        os.execve(request["python"], [request["python"], *module, *arguments], environment)
    except BaseException as error:
        os.write(2, f"zygote: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(71)
