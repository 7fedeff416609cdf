"""One container that is a sandbox, as the engine holds it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

from sandbox.background import Background
from sandbox.errors import SandboxFailed
from sandbox.guest.frames import Frame, encode_json
from sandbox.runtime import Exit, Usage
from sandbox.runtime.channel import SocketChannel
from sandbox.runtime.docker.attachment import Attachment
from sandbox.runtime.docker.fdstore import FdStore
from sandbox.runtime.docker.headroom import Headroom
from sandbox.runtime.docker.meters import DaemonMeters, Meters
from sandbox.runtime.embedded.cgroup import Group, Reading

_STOP_SECONDS = 30.0
_RECEDES_SECONDS = 5.0
"""At most: beside programs that compute for ever its start would fail."""


class DockerSandbox:
    """A container from its creation to its removal."""

    def __init__(
        self, sandbox_id: str, slot: int, end: Callable[["DockerSandbox", str], Awaitable[None]], store: FdStore
    ) -> None:
        self.id = sandbox_id
        self.slot = slot
        self._store = store
        self.container = ""
        """Its id, once it is created."""
        self.kind = ""
        """What it says of others that they are as good, also to another engine; empty for one that nobody inherits."""
        self.meters: Meters | None = None
        self.started = False
        """Whether its start has succeeded: what ends before has not ended, it has failed to start."""
        self._end = end
        self._ending: asyncio.Task[None] | None = None
        self._channel: SocketChannel | Attachment | None = None
        self._last = Reading(0, 0, 0)
        self.group: Group | None = None
        """Its control group, where we see it."""
        self.cpus = 0.0
        """How many processors it may use."""
        self.claimed = False
        """Whether somebody has it: what computes until then is its start."""
        self.recedes = False
        """Whether others go first, because it starts and nobody waits for it."""
        self.headroom: Headroom | None = None
        """Of one with a kernel of its own, where its control group is seen."""
        self._tasks = Background()
        self._keeper: asyncio.Task[None] | None = None
        """Of its headroom, once somebody has it."""
        self._kills = 0
        """For want of headroom."""
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    @property
    def channel(self) -> SocketChannel | Attachment:
        """See `runtime.Sandbox`."""
        assert self._channel is not None, "`start` hands out what has started only"
        return self._channel

    def connect(self, channel: SocketChannel | Attachment) -> None:
        """Init is at the other end."""
        self._channel = channel

    def last_words(self) -> str:
        """What init and zygote complained of last, where that can be heard."""
        said = self._channel.complaints if isinstance(self._channel, Attachment) else ""
        return said.splitlines()[-1][:500] if said else ""

    def on_oom(self) -> None:
        """The daemon says that the memory cap killed something in it."""
        if isinstance(self.meters, DaemonMeters):
            self.meters.oom_kills += 1

    def recede(self) -> None:
        """What it imports takes processor seconds: until it is warm, others go first, where its group is seen."""
        if self.group is not None:
            self.group.recede()
            self.recedes = True
            asyncio.get_running_loop().call_later(_RECEDES_SECONDS, self._advance)

    def on_warm(self) -> None:
        """See `runtime.Sandbox`."""
        self._advance()  # whose heir would not know
        if self.kind and not self._exit.done() and (fd := self.channel.fileno()) >= 0:
            self._store.keep(self.id, fd)

    def on_claimed(self) -> None:
        """See `runtime.Sandbox`."""
        self._store.drop(self.id)  # what may compute must not outlive us
        self.claimed = True
        self._advance()
        if self.headroom is not None and self._keeper is None and not self._exit.done():
            self._keeper = self._tasks.spawn(self.headroom.keep(self._kill), f"headroom {self.id}")

    async def _kill(self) -> None:
        self._kills += 1  # before whoever sees the death can ask
        with contextlib.suppress(ConnectionError):  # it ends just now
            await self.channel.write(encode_json(Frame.KILL, {}))

    def _advance(self) -> None:
        if self.group is not None and self.recedes:
            self.group.advance()
            self.recedes = False

    def on_gone(self, reason: str, *, oom_killed: bool = False) -> None:
        """Nothing of it is left, or nothing that we can reach."""
        self._store.drop(self.id)
        if self._keeper is not None:
            self._keeper.cancel()
        if self._exit.done():
            return
        if oom_killed and not self._last.oom_kills:
            # Its control group went before we could read that there.
            self._last = replace(self._last, oom_kills=1)
        if self.meters is not None:
            self.meters.close()
            self.meters = None
        self._exit.set_result(Exit(reason))

    def end(self, reason: str) -> "asyncio.Task[None]":
        """See to its end, once; the first reason counts."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self, reason))
        return self._ending

    def exited(self) -> Exit | None:
        """See `runtime.Sandbox`."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> Exit:
        """See `runtime.Sandbox`."""
        return await asyncio.shield(self._exit)

    async def usage(self) -> Usage:
        """See `runtime.Sandbox`."""
        if (meters := self.meters) is not None:
            with contextlib.suppress(OSError):  # it may be gone before we are told
                self._last = await meters.read()
        return Usage(self._last.cpu_ns, self._last.peak_bytes, self._last.oom_kills + self._kills)

    def reset_peak(self) -> None:
        """See `runtime.Sandbox`."""
        if self.meters is not None:
            with contextlib.suppress(OSError):
                self.meters.reset_peak()

    async def stop(self) -> None:
        """See `runtime.Sandbox`."""
        self.end("stopped")
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.wait()
        except TimeoutError as error:
            raise SandboxFailed(f"sandbox {self.id} did not end within {_STOP_SECONDS:g} s") from error
        finally:
            try:
                await self._tasks.aclose()
            finally:
                if self._channel is not None:
                    await self._channel.aclose()
