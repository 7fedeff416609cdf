"""Byte streams to inits, as the event loop sees them."""

import asyncio
import socket
from collections import deque

_RECEIVE = 256 << 10
_BUFFER = 1 << 20


class SocketChannel:
    """A connected socket as a `Channel`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[memoryview, asyncio.Future[None]]] = deque()
        self._waits_for_room = False
        self._broken = False
        self._wanted: asyncio.Future[bytes] | None = None
        """What `read` waits for."""
        self._is_watched = False

    def fileno(self) -> int:
        """Of the socket; -1 when it is closed."""
        return self._socket.fileno()

    async def read(self) -> bytes:
        """See `Channel`."""
        if self._socket.fileno() < 0:
            return b""
        if not self._is_watched:
            self._is_watched = True
            self._loop.add_reader(self._socket, self._receive)
        self._wanted = self._loop.create_future()
        return await self._wanted

    def _receive(self) -> None:
        """The socket stays watched from one `read` to the next. The loop's `sock_recv` would begin and end that for
        every piece, with half a dozen system calls.
        """
        if self._wanted is None or self._wanted.done():
            self._watch_no_more()  # nobody reads: what comes waits in the kernel and, once that is full, at its sender
            return
        try:
            data = self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._wanted.set_result(data)

    def _watch_no_more(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._socket)

    async def write(self, data: bytes) -> None:
        """See `Channel`. A caller that is cancelled takes nothing back: half a frame would end the conversation."""
        sent: asyncio.Future[None] = self._loop.create_future()
        self._unsent.append((memoryview(data), sent))
        if self._broken:
            self._break()
        elif len(self._unsent) == 1:
            self._flush()
        await sent

    def _flush(self) -> None:
        try:
            while self._unsent:
                data, sent = self._unsent[0]
                length = self._socket.send(data)
                if length < len(data):
                    self._unsent[0] = (data[length:], sent)
                    continue
                self._unsent.popleft()
                if not sent.done():
                    sent.set_result(None)
        except BlockingIOError:
            if not self._waits_for_room:
                self._waits_for_room = True
                self._loop.add_writer(self._socket, self._flush)
        except OSError:
            self._break()
        else:
            self._no_longer_wait()

    def _no_longer_wait(self) -> None:
        if self._waits_for_room:
            self._waits_for_room = False
            self._loop.remove_writer(self._socket)

    def _break(self) -> None:
        self._no_longer_wait()
        self._broken = True
        for _, sent in self._unsent:
            if not sent.done():
                sent.set_exception(ConnectionError("the sandbox is gone"))
                sent.exception()  # marked as seen: a caller may have been cancelled
        self._unsent.clear()

    async def aclose(self) -> None:
        """See `Channel`."""
        self._break()
        self._watch_no_more()  # before its number is another socket's
        self._socket.close()
