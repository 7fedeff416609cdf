"""A sandbox whose init is whatever a test says: the host's side of the channel is real, and nobody honest is behind it.

What a program could do if it got hold of init, which no test knows a way to. The host believes nothing all the same.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

from sandbox.ending import Ending
from sandbox.errors import SandboxFailed
from sandbox.execution import Spec
from sandbox.guest.frames import Decoder, Frame, decode_json, encode
from sandbox.image import Manifest
from sandbox.kernel import Kernel
from sandbox.runtime import Exit, Usage
from sandbox.runtime.channel import SocketChannel


class Impostor:
    """A `Runtime` of one `Sandbox`, both of them this, and the hostile end of its channel."""

    name = "impostor"
    id = "sbx_impostor"

    def __init__(self) -> None:
        host, guest = socket.socketpair()
        guest.setblocking(False)
        self._guest = guest
        self._heard = Decoder()
        self._frames: list[tuple[Frame, bytes]] = []
        self._ended = asyncio.Event()
        self._exit: Exit | None = None
        self.channel = SocketChannel(host)
        self.oom_kills = 0
        self.is_mute = False
        """Whether its meters cannot be read while it lives."""
        self.measuring = asyncio.Event()
        """Not set while its meters take long."""
        self.measuring.set()
        self.failing_stops = 0
        self.soft: dict[str, str] = {}

    # The runtime.

    async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> "Impostor":
        return self

    async def manifest(self, image: str) -> Manifest:
        raise NotImplementedError

    async def manifests(self) -> list[Manifest]:
        return []

    async def prepare(self, image: str) -> None:
        pass

    def whole(self, image: str) -> bool:
        return True

    def generation(self, image: str) -> int:
        return 0

    async def renewed(self, image: str, generation: int) -> None:
        await self.wait()

    async def stand_by(self, spec: Spec, count: int) -> bool:
        """See `runtime.Runtime`."""
        return False

    def used_bytes(self) -> int:
        return 0

    async def aclose(self) -> None:
        await self.stop()

    # The sandbox.

    def exited(self) -> Exit | None:
        return self._exit

    async def wait(self) -> Exit:
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    async def usage(self) -> Usage:
        if self.is_mute:
            await self._ended.wait()
        await self.measuring.wait()
        return Usage(0, 0, self.oom_kills)

    def on_warm(self) -> None:
        pass

    def on_claimed(self) -> None:
        pass

    def reset_peak(self) -> None:
        pass

    async def stop(self) -> None:
        if self.failing_stops:
            self.failing_stops -= 1
            raise SandboxFailed("it does not end")
        for _ in range(5):
            await asyncio.sleep(0)  # a real one takes its time, too
        self.hang_up("stopped")
        await self.channel.aclose()

    # Its init.

    def hang_up(self, reason: str = "init exited") -> None:
        """As if it had died."""
        self._exit = self._exit or Exit(reason)
        self._ended.set()
        self._guest.close()

    def cut_off(self) -> None:
        """As if the channel had been lost, and nothing else."""
        self._guest.close()

    async def say(self, kind: Frame, body: Any = None) -> None:
        """One frame; `body` is bytes as they are, or anything else as JSON."""
        await self.say_bytes(encode(kind, body if isinstance(body, bytes) else json.dumps(body).encode()))

    async def say_bytes(self, data: bytes) -> None:
        """Whatever the host takes of it before it hangs up."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._guest, data)

    async def hears(self, wanted: Frame) -> dict[str, Any]:
        """The next frame of this kind that the host sends."""
        while True:
            while self._frames:
                kind, body = self._frames.pop(0)
                if kind is wanted:
                    return decode_json(body)[0]
            data = await asyncio.get_running_loop().sock_recv(self._guest, 1 << 20)
            assert data, f"the host hung up before it sent {wanted.name}"
            self._frames += self._heard.feed(data)


@contextlib.asynccontextmanager
async def deceived() -> AsyncIterator[tuple[Kernel, Impostor]]:
    """A kernel as the host sees it, and who is really there."""
    impostor = Impostor()
    await impostor.say(Frame.READY, {"restarts": 0})
    kernel = await Kernel.start(impostor, Spec())
    try:
        yield kernel, impostor
    finally:
        await kernel.stop()


async def told(kernel: Kernel, execution_id: str = "exe_1", timeout: float = 20.0) -> tuple[list[Any], Ending]:
    """What an execution reports: its outputs, and the one ending that it must have."""
    items = [item async for item in kernel.stream(execution_id, "1", timeout)]
    assert [isinstance(item, Ending) for item in items] == [False] * (len(items) - 1) + [True]
    return items[:-1], items[-1]  # type: ignore[return-value]


def honest(**more: Any) -> dict[str, Any]:
    """An end as init tells of it."""
    done: dict[str, Any] = {"id": "exe_1", "died": None, "reply": "ok", "execution_count": 1, "timed_out": False}
    done |= {"interrupted": False, "dropped": [0, 0, 0], "workspace": 1}
    return done | more
