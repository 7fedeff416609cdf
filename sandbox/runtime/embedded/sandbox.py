"""One embedded sandbox, as the server holds it: a channel and meters; the launcher has the rest."""

import asyncio
import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING

from sandbox.errors import SandboxFailed
from sandbox.runtime import Exit, Usage
from sandbox.runtime.channel import SocketChannel
from sandbox.runtime.embedded.cgroup import Meters, Reading

if TYPE_CHECKING:
    from sandbox.runtime.embedded.link import Launcher

_STOP_SECONDS = 15.0


class EmbeddedSandbox:
    """One sandbox of the launcher."""

    def __init__(self, sandbox_id: str, launcher: "Launcher") -> None:
        self.id = sandbox_id
        self._launcher = launcher
        self._meters: Meters | None = None
        self._asked: deque[asyncio.Future[None]] = deque()
        """Who waits for the launcher's own measurements, which come in the order of the questions."""
        self._last = Reading(0, 0, 0)
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel: SocketChannel | None = None

    @property
    def channel(self) -> SocketChannel:
        """See `runtime.Sandbox`."""
        assert self._channel is not None, "`start` hands out what has started only"
        return self._channel

    def on_started(self, fds: list[int]) -> None:
        """The launcher made it: the channel and the meters."""
        self._channel = SocketChannel(socket.socket(fileno=fds[0]))
        if fds[1:]:
            self._meters = Meters(fds[1:])
        if not self.started.done():
            self.started.set_result(None)

    def on_measured(self, reading: dict[str, int] | None) -> None:
        """The launcher has looked, as it was asked to, if there was anything to look at yet."""
        if reading is not None:
            self._last = Reading(**reading)
        if self._asked:
            self._answer(self._asked.popleft())

    def _answer(self, asked: asyncio.Future[None]) -> None:
        if not asked.done():
            asked.set_result(None)

    def on_gone(self, reason: str, reading: dict[str, int] | None = None) -> None:
        """Nothing of it is left, or it could not be made. reading: the launcher's last, where it measures."""
        if not self.started.done():
            self.started.set_exception(SandboxFailed(f"a sandbox could not be made: {reason}"))
            self.started.exception()  # marked as seen: whoever had waited may be gone
        if reading is not None:
            self._last = Reading(**reading)
        while self._asked:
            self._answer(self._asked.popleft())
        if not self._exit.done():
            self._exit.set_result(Exit(reason))
        if self._meters is not None:
            self._meters.close()
            self._meters = None

    def exited(self) -> Exit | None:
        """See `runtime.Sandbox`."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> Exit:
        """See `runtime.Sandbox`."""
        return await asyncio.shield(self._exit)

    async def usage(self) -> Usage:
        """See `runtime.Sandbox`."""
        if self._meters is not None:
            with contextlib.suppress(OSError):  # the group may be gone before we are told
                self._last = self._meters.read()
        elif self._launcher.watches and not self._exit.done():
            asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._asked.append(asked)
            self._launcher.tell({"verb": "measure", "sandbox": self.id})
            await asked
        return Usage(self._last.cpu_ns, self._last.peak_bytes, self._last.oom_kills)

    def on_warm(self) -> None:
        """See `runtime.Sandbox`. It ends with the launcher, which ends with us; another one is there in no time."""

    def on_claimed(self) -> None:
        """See `runtime.Sandbox`."""

    def reset_peak(self) -> None:
        """See `runtime.Sandbox`."""
        if self._meters is not None:
            with contextlib.suppress(OSError):
                self._meters.reset_peak()
        elif self._launcher.watches and not self._exit.done():
            self._launcher.tell({"verb": "forget_peak", "sandbox": self.id})

    async def stop(self) -> None:
        """See `runtime.Sandbox`."""
        if not self._exit.done():
            self._launcher.tell({"verb": "stop", "sandbox": self.id})
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.wait()
        except TimeoutError as error:
            raise SandboxFailed(f"sandbox {self.id} did not end within {_STOP_SECONDS:g} s") from error
        finally:
            if self._channel is not None:
                await self._channel.aclose()
