"""A container's stdin and stdout as a channel, through the daemon: for where a socket of the host cannot be shown.

The attach request turns its connection into a byte stream. What comes back is cut into pieces, each with a head of
eight bytes that says which stream it is of (the Engine API's format for containers without a terminal).
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Self

_HEAD = struct.Struct(">BxxxI")
_STDERR = 2
_LAST_WORDS = 2048
_SILENCE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""After how many seconds a host that says nothing is asked whether it is there, how long between, and how often."""


class Attachment:
    """One attached container. Use `open` before the container is started."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._lost = False
        self._complaints = b""

    @classmethod
    async def open(cls, address: str, tls: ssl.SSLContext | None, container: str) -> Self:
        """address: `unix://PATH` or `tcp://HOST:PORT`. Raises `OSError`, or `ConnectionError` for a refusal."""
        scheme, _, place = address.partition("://")
        if scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(place)
        else:
            host, _, port = place.rstrip("/").rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls)
            _notice_silence(writer.get_extra_info("socket"))
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        writer.write(
            f"POST /containers/{container}/attach?{query} HTTP/1.1\r\n"
            "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            writer.close()
            raise ConnectionError("the Docker daemon closed the connection") from error
        status = head.split(None, 2)[1]
        if status not in (b"101", b"200"):
            writer.close()
            raise ConnectionError(f"the Docker daemon refused to attach: {status.decode(errors='replace')}")
        return cls(reader, writer)

    @classmethod
    async def inherit(cls, sock: socket.socket) -> Self:
        """One that another engine has opened, and read whole pieces of. The socket is ours from now on."""
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            return cls(*await asyncio.open_unix_connection(sock=sock))
        return cls(*await asyncio.open_connection(sock=sock))

    def fileno(self) -> int:
        """Of the connection; -1 where it is closed, or says nothing without the keys that we have."""
        if self._writer.is_closing() or self._writer.get_extra_info("ssl_object") is not None:
            return -1
        return int(self._writer.get_extra_info("socket").fileno())

    @property
    def complaints(self) -> str:
        """The end of what was written to stderr: init's and the zygote's last words."""
        return self._complaints.decode(errors="replace").strip()

    async def read(self) -> bytes:
        """See `Channel`."""
        try:
            while True:
                kind, length = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                data = await self._reader.readexactly(length)
                if kind != _STDERR:
                    return data
                self._complaints = (self._complaints + data)[-_LAST_WORDS:]
        except (OSError, asyncio.IncompleteReadError):
            return b""

    async def write(self, data: bytes) -> None:
        """See `Channel`."""
        if self._lost or self._writer.is_closing():
            raise ConnectionError("the sandbox is gone")
        self._writer.write(data)
        try:
            await self._writer.drain()
        except OSError as error:
            raise ConnectionError("the sandbox is gone") from error

    async def aclose(self) -> None:
        """See `Channel`."""
        self._lost = True
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _notice_silence(sock: socket.socket) -> None:
    """A program may print nothing for an hour; a host that is gone says nothing, either."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _SILENCE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
