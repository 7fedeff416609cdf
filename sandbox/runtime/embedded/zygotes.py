"""What kernels come from: an image's stage, and the zygotes that follow one another on it.

    spawned ─ ready: forks ─ retired: forks no more ─ dismissed with its last kernel

Where many sandboxes are to come, the first zygote of an image imports little and forks soon, so that after a start
nobody waits for libraries that few programs want; its heir has them all. Later heirs take over from one whose address
layout has been shared for long enough. No zygote grows while it forks: what a library does when it is imported would
happen half inside of a sandbox, whose pid namespace the children of its zygote are born into. One that dies is
replaced by its heir, or by the launcher, who prepares the image anew.
"""

import contextlib
import json
import math
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sandbox.guest import process, variables
from sandbox.runtime.embedded import jail, linux, mounts
from sandbox.runtime.embedded.footing import Share

if TYPE_CHECKING:
    from sandbox.guest.preload import Extent

_ROOM = mounts.Sizes(workspace=1 << 20, files=64, temporary=64 << 20, shared_memory=1 << 20)
"""What a zygote can write to, which is next to nothing."""
_RETRY_S = 60.0
"""After an heir's death."""
_YIELDING = 5
"""The niceness of an heir until it is ready: those who are served meanwhile come first."""


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

    def begin(self) -> None:
        """It is ready, and no longer behind others."""
        self.ready = True
        with contextlib.suppress(OSError):  # it may be dead already; its link will say so
            if os.getpriority(os.PRIO_PROCESS, self.pid) == _YIELDING:
                os.setpriority(os.PRIO_PROCESS, self.pid, 0)

    def compact(self) -> None:
        """Its memory in huge pages: a child of ours sees to it, because that takes longer than others may wait."""
        if os.fork() == 0:
            try:
                process.die_with_parent(signal.SIGKILL)
                process.close_all_but(set())
                linux.collapse_memory(self.pid)
            finally:
                os._exit(0)


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
    """It takes over once it is ready."""
    retired: Zygote | None = None
    """It forks no more, and stays until the last of its kernels has ended."""
    heir_at: float = 0.0
    """From when on another one is wanted, by the monotonic clock."""

    @property
    def zygotes(self) -> tuple[Zygote, ...]:
        """All that there are now."""
        return tuple(each for each in (self.zygote, self.heir, self.retired) if each is not None)

    @property
    def begins_small(self) -> bool:
        """Whether the first zygote has little, and its heir all."""
        return bool(self.request["shared"])

    @property
    def wants_heir(self) -> bool:
        """Never a third at a time: that the one before it has ended is waited for."""
        if self.zygote is None or not self.zygote.ready or self.heir is not None or self.retired is not None:
            return False
        return not self.is_settled

    @property
    def is_settled(self) -> bool:
        """Whether no other zygote is to follow the one that there is for a while."""
        return time.monotonic() < self.heir_at

    def settle(self) -> None:
        """The zygote is one that will do for as long as it may."""
        longest: float = self.request["zygote_age_s"]
        self.heir_at = time.monotonic() + longest if longest else math.inf

    def inherit(self) -> None:
        """The heir takes over, and the zygote retires."""
        self.retired, self.zygote, self.heir = self.zygote, self.heir, None
        self.settle()

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
            self.heir, self.heir_at = None, time.monotonic() + _RETRY_S
        elif self.retired is zygote:
            self.retired = None
        elif self.zygote is zygote:
            self.zygote, self.heir = self.heir, None
            self.settle()
        return self.zygote is not None


def spawn(image: Image, user_namespace: int, share: Share, *, heir: bool = False) -> Zygote:
    """Another zygote for the image, in namespaces of its own below that user namespace. Raises `OSError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _become(image, user_namespace, share, theirs, "all" if heir and image.begins_small else "little")
    theirs.close()
    if heir and os.geteuid() == 0:  # others could not take it back
        os.setpriority(os.PRIO_PROCESS, pid, _YIELDING)
    return Zygote(pid, ours)


def _become(image: Image, user_namespace: int, share: Share, link: socket.socket, extent: "Extent") -> NoReturn:
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
        arguments = [str(link.fileno()), mounts.PRELOAD, extent, "single" if share.single else "many"]
        environment = variables.ZYGOTE | {"PYTHONPATH": mounts.CODE}
        module = ["-m", "sandbox.runtime.embedded.zygote"]
        # After all that changes its rights, which would take this back. Its link tells it as well, after its imports.
        process.die_with_parent(signal.SIGKILL)
        os.execve(request["python"], [request["python"], *module, *arguments], environment)
    except BaseException as error:
        os.write(2, f"zygote: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(71)
