"""Sandboxes that a dead engine had warm, for this one to hand out as if it had made them.

The way of one: its channel is in the fd store, because nobody had it when its engine died ─ we have the channel now,
and find the container by its labels ─ a start asks for one of its kind ─ its init says that a kernel is ready and that
nobody has used it ─ it is handed out. Where that fails (it died, it was used, it is slow, nobody asks) it is ended, and
another one is made instead: what is inherited saves time, and nothing else depends on it.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from typing import Any

from sandbox import logs
from sandbox.background import Background
from sandbox.guest.frames import BadFrame, Decoder, Frame, decode_json, encode_json
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
_RENOUNCE_AFTER_S = 10.0
"""When what was inherited is ended that nobody has asked for: the pool wants less than there is, or another kind."""


def kind(*terms: Any) -> str:
    """One word for all that a sandbox is made of: those with the same are as good, whichever engine made them."""
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:32]


def labels(sandbox: DockerSandbox, *, attached: bool) -> dict[str, str]:
    """What an heir has to know of a container, besides whose it is."""
    return {_SLOT: str(sandbox.slot), _KIND: sandbox.kind, _CHANNEL: _STDIO if attached else _SOCKET}


class Inheritance:
    """All that one dead engine has left to us."""

    def __init__(self, channels: dict[str, int], instance: Instance, make: Callable[[str, int], DockerSandbox]) -> None:
        """channels: by sandbox. make: takes an id and a slot."""
        self._channels = channels
        self._instance = instance
        self._make = make
        self._unused: list[DockerSandbox] = []
        self._background = Background()
        self._closed = False

    async def receive(self, found: Iterable[Found]) -> None:
        """Take over whose channels we have. Those of containers that are not among the `found` are closed."""
        for each in found:
            sandbox_id = self._instance.made(each.labels)
            if not each.running or sandbox_id is None or sandbox_id not in self._channels or self._closed:
                continue
            # Where anything is amiss it hears nobody, and ends.
            refused = contextlib.suppress(OSError, KeyError, ValueError)
            with refused, socket.socket(fileno=self._channels.pop(sandbox_id)) as channel:
                await self._receive(sandbox_id, each, channel)
        while self._channels:
            os.close(self._channels.popitem()[1])
        if self._unused:
            _logger.info("inherited warm sandboxes", count=len(self._unused))
            self._background.spawn(self._renounce(), "renounce what is inherited")

    async def _receive(self, sandbox_id: str, found: Found, sock: socket.socket) -> None:
        slot, kind, way = int(found.labels[_SLOT]), found.labels[_KIND], found.labels[_CHANNEL]
        self._instance.inherit_slot(slot)
        try:
            channel = await Attachment.inherit(sock.dup()) if way == _STDIO else SocketChannel(sock.dup())
        except BaseException:
            self._instance.free_slot(slot)
            raise
        sandbox = self._make(sandbox_id, slot)
        sandbox.container, sandbox.kind = found.id, kind
        sandbox.connect(channel)
        sandbox.started = True
        self._unused.append(sandbox)

    async def take(self, wanted: str) -> DockerSandbox | None:
        """One of this kind, which has answered; None when there is none."""
        while (sandbox := next((each for each in self._unused if each.kind == wanted), None)) is not None:
            self._unused.remove(sandbox)
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
        if not self._closed:  # else it has been ended
            self._background.spawn(sandbox.stop(), "refuse a sandbox")

    async def _renounce(self) -> None:
        """One by one: the daemon has other things to do."""
        await asyncio.sleep(_RENOUNCE_AFTER_S)
        while self._unused:
            await self._unused.pop().stop()

    async def aclose(self) -> None:
        """Once all sandboxes of the runtime have been ended, these among them."""
        self._closed = True
        await self._background.aclose()


async def _prove(sandbox: DockerSandbox) -> None:
    """Returns when its init has answered us that it is ready and nobody has used it; it will say so once more.

    Raises `ConnectionError`, `BadFrame`.
    """
    decoder, number = Decoder(), secrets.randbits(32)
    inherit = encode_json(Frame.INHERIT, {"number": number})
    await sandbox.channel.write(inherit)
    answered = False
    while not answered:
        if not (data := await sandbox.channel.read()):
            raise ConnectionError("the sandbox is gone")
        # Before that come words to the dead, as of a kernel that was replaced meanwhile.
        answered = any(
            kind is Frame.READY and decode_json(body)[0].get("inherit") == number for kind, body in decoder.feed(data)
        )
    await sandbox.channel.write(inherit)  # for whoever reads the channel next, and waits for that word
