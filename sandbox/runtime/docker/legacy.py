"""Sandboxes that a dead engine had warm, for this one to hand out as if it had made them.

The way of one: its channel is in the dead engine's fd store, because nobody had it ─ we have the channel now, and find
the container by its labels ─ a start asks for one of its kind ─ its init says that a kernel is ready and that nobody
has used it ─ it is handed out. Where that fails (it died, it was used, it is slow, nobody asks) it is ended, and
another one is made instead: what is inherited saves time, and nothing else depends on it.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain

from sandbox import __version__, logs
from sandbox.background import Background
from sandbox.execution import Spec
from sandbox.guest.frames import BadFrame, Decoder, Frame, encode_json
from sandbox.runtime.channel import SocketChannel
from sandbox.runtime.docker.attachment import Attachment
from sandbox.runtime.docker.daemon import Found
from sandbox.runtime.docker.instance import Instance
from sandbox.runtime.docker.sandbox import DockerSandbox

_logger = logs.logger(__name__)
_SLOT, _KIND, _CHANNEL = "sandbox.slot", "sandbox.kind", "sandbox.channel"
_SOCKET, _STDIO = "socket", "stdio"
_PROOF_S = 2.0
"""How long an init may take to say that it is unused. Making another takes about as long in gVisor."""


def kind(spec: Spec, image: str, filtered: str | None) -> str:
    """Sandboxes of the same are as good as each other, whichever engine made them; empty for those with secrets.

    image: its id. filtered: the kernels' filter of system calls.
    """
    told = f"{__version__} {image} {filtered} {spec!r}"
    return "" if spec.env else hashlib.sha256(told.encode()).hexdigest()[:32]


def labels(sandbox: DockerSandbox, *, attached: bool) -> dict[str, str]:
    """What an heir has to know of a container, besides whose it is."""
    return {_SLOT: str(sandbox.slot), _KIND: sandbox.kind, _CHANNEL: _STDIO if attached else _SOCKET}


class Legacy:
    """All that one dead engine left to us."""

    def __init__(self, instance: Instance, make: Callable[[str, int], DockerSandbox]) -> None:
        """make: takes an id and a slot."""
        self._instance = instance
        self._make = make
        self._unused = defaultdict[str, list[DockerSandbox]](list)
        self._refusals = Background()

    async def receive(self, found: Iterable[Found]) -> None:
        """Take over whose channels we have. Those of containers that are not among the `found` are closed."""
        channels, self._instance.inheritance = self._instance.inheritance, {}
        for each in found:
            sandbox_id = self._instance.made(each.labels)
            if each.running and sandbox_id is not None and sandbox_id in channels:
                # Where anything is amiss it hears nobody, and ends.
                refused = contextlib.suppress(OSError, KeyError, ValueError)
                with refused, socket.socket(fileno=channels.pop(sandbox_id)) as channel:
                    await self._receive(sandbox_id, each, channel)
        for fd in channels.values():
            os.close(fd)
        if self._unused:
            count = sum(map(len, self._unused.values()))
            _logger.info("inherited warm sandboxes", count=count)

    async def _receive(self, sandbox_id: str, found: Found, sock: socket.socket) -> None:
        slot = int(found.labels[_SLOT])
        self._instance.inherit_slot(slot)
        channel = await _channel(found.labels[_CHANNEL], sock.dup())
        sandbox = self._make(sandbox_id, slot)
        sandbox.container = found.id
        sandbox.kind = found.labels[_KIND]
        sandbox.connect(channel)
        sandbox.started = True
        self._unused[sandbox.kind].append(sandbox)

    async def take(self, wanted: str) -> DockerSandbox | None:
        """One of this kind, which has answered; None when there is none."""
        while unused := self._unused.get(wanted):
            sandbox = unused.pop()
            try:
                async with asyncio.timeout(_PROOF_S):
                    await _prove(sandbox)
                return sandbox
            except (TimeoutError, ConnectionError, BadFrame):
                self.refuse(sandbox)
            except BaseException:
                self.refuse(sandbox)
                raise
        return None

    def refuse(self, sandbox: DockerSandbox) -> None:
        """End it, while others go on."""
        self._refusals.spawn(sandbox.stop(), "refuse a sandbox")

    def renounce(self) -> None:
        """End what nobody has asked for."""
        for sandbox in chain.from_iterable(self._unused.values()):
            self.refuse(sandbox)
        self._unused.clear()

    async def settle(self) -> None:
        """Until all that was refused has ended."""
        await self._refusals.settle()


async def _channel(way: str, sock: socket.socket) -> SocketChannel | Attachment:
    return await Attachment.inherit(sock) if way == _STDIO else SocketChannel(sock)


async def _prove(sandbox: DockerSandbox) -> None:
    """Returns when its init has answered us, and nobody before us, that it is ready; it will say so once more.

    Raises `ConnectionError`, `BadFrame`.
    """
    decoder, inherit = Decoder(), encode_json(Frame.INHERIT, {})
    await sandbox.channel.write(inherit)
    while not any(kind is Frame.READY for kind, _ in decoder.feed(await _some(sandbox))):
        pass
    await sandbox.channel.write(inherit)  # for whoever reads the channel next, and waits for that word


async def _some(sandbox: DockerSandbox) -> bytes:
    data = await sandbox.channel.read()
    if not data:
        raise ConnectionError("the sandbox is gone")
    return data
