"""Who makes sandboxes: the whole seam between us and a backend.

A runtime knows namespaces, containers or pods, and nothing of Jupyter, sessions or HTTP. What it hands out is
contained and verified, and has a channel: a byte stream of `guest.frames` with init at its other end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # The launcher and its children load single modules of this package with the standard library alone.
    from sandbox.execution import Spec
    from sandbox.image import Manifest


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox ended."""

    reason: str
    """For a person: `stopped`, or what went wrong."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The meters of a sandbox at one moment, from outside it."""

    cpu_ns: int
    """CPU time of all its processes since it was made."""
    peak_bytes: int
    """Most memory held since the last `reset_peak`."""
    oom_kills: int
    """How often the memory cap has killed a process in it."""


class Channel(Protocol):
    """A byte stream to a sandbox's init."""

    async def read(self) -> bytes:
        """Some bytes; empty when the other end is gone. Called by the kernel's one reader task."""

    async def write(self, data: bytes) -> None:
        """All of `data`, waiting while the other end does not read. Raises `ConnectionError` when it is gone.

        Several may write at a time: each one's data stays together, in the order of the calls. Who is cancelled while
        it waits takes nothing back.
        """

    async def aclose(self) -> None:
        """Give the stream up. May be called twice."""


class Sandbox(Protocol):
    """One isolated process tree, for exactly one session."""

    @property
    def id(self) -> str:
        """Unique among all sandboxes of all runtimes."""

    @property
    def channel(self) -> Channel:
        """To its init."""

    def exited(self) -> Exit | None:
        """How it ended, or None while it lives."""

    async def wait(self) -> Exit:
        """Until it has ended and nothing of it is left."""

    async def usage(self) -> Usage:
        """What it has used. After its end: the last known."""

    def on_warm(self) -> None:
        """Its kernel is ready, and nobody has it before `on_claimed`: should we be killed, it is the next engine's."""

    def on_claimed(self) -> None:
        """Somebody waits from now on for what it does. May be called again."""

    def reset_peak(self) -> None:
        """Start measuring the peak anew, where the meters can be reset."""

    async def stop(self) -> None:
        """End it and wait until nothing is left: no process, mount, cgroup or directory. May be called twice."""


class Runtime(Protocol):
    """What makes and destroys sandboxes."""

    @property
    def name(self) -> str:
        """As the setting `runtime` has it."""

    @property
    def soft(self) -> Mapping[str, str]:
        """Limits that hold less firmly than a spec says, and why: `memory`, `cpu`. As a rule empty."""

    async def manifest(self, image: str) -> "Manifest":
        """What the built image holds. Raises `ImageNotBuilt`, `UnknownImage`, `HostUnfit`."""

    async def manifests(self) -> "list[Manifest]":
        """Those of all images that can be started. Raises `HostUnfit`."""

    async def prepare(self, image: str) -> None:
        """Make ready whatever starts of this image share. Raises `ImageNotBuilt`, `UnknownImage`, `SandboxFailed`."""

    def whole(self, image: str) -> bool:
        """Whether what it has prepared is all that it will: before that, sandboxes begin with less."""

    def generation(self, image: str) -> int:
        """Another number when sandboxes begin with more, or elsewhere in memory, than those begun before."""

    async def renewed(self, image: str, generation: int) -> None:
        """Until `generation` is another than this one, or `whole` may be. That may be never."""

    async def start(self, spec: "Spec", *, awaited: bool = False, defers: bool = False) -> Sandbox:
        """A new sandbox whose init runs and whose kernel is on its way. Raises `SandboxFailed`, `Unready`.

        awaited: somebody waits, so the kernel leaves out what would make its first execution quicker, and is itself
        ready sooner. defers: until it is warm or claimed, others may go first where that would cost them much, for a
        while.
        """

    async def stand_by(self, spec: "Spec", count: int) -> bool:
        """Have one more sandbox of this spec all but started, for an awaited `start` to use up, unless there are so
        many; whether it did. Where a start has no part worth doing ahead there are never any. Raises what `start` does.
        """

    def used_bytes(self) -> int:
        """Memory that all its sandboxes hold now, from outside; 0 where that cannot be told."""

    async def aclose(self) -> None:
        """End every sandbox of this runtime. May be called twice."""
