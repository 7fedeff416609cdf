"""The server: HTTP/1.1 on a real socket, with connections that are kept."""

import asyncio
import contextlib
import http
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Self

from sandbox.loop.messages import Dialect
from tests.upstreams import anthropic, openai
from tests.upstreams.script import Asked, Breaks, Fails, Raw, Says, Scene, Script, Silent, Unspoken

_DIALECTS: Mapping[Dialect, ModuleType] = {"openai": openai, "anthropic": anthropic}
_STREAM = "text/event-stream; charset=utf-8"
_JSON = "application/json"


class Scripted:
    """A model's server that answers as it is told.

    `async with` runs it in the loop that is there, `with` in a thread of its own: for tests that block, as those of
    commands do. Its answers are given in order, or computed by a function; when there are none left, it says so (500).
    """

    def __init__(
        self,
        dialect: Dialect,
        *scenes: Scene | Script,
        key: str = "",
        models: tuple[str, ...] | Raw = ("scripted",),
    ) -> None:
        """key: requests without it get a 401. models: their names, or what is said instead of a list."""
        self.dialect = dialect
        self.url = ""
        """What the dialect's SDK takes as its base URL."""
        self.asked: list[Asked] = []
        """The requests for an answer, in the order they came."""
        self._wire = _DIALECTS[dialect]
        self._scenes = list(scenes)
        self._key = key
        self._models = models
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stack = contextlib.ExitStack()

    def then(self, *scenes: Scene | Script) -> None:
        """Answer these, too. A function answers everything from its turn on."""
        self._scenes += scenes

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def hang_up(self) -> None:
        """Close all connections, now, without letting the loop run."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            sock.shutdown(socket.SHUT_RDWR)

    async def left(self) -> None:
        """Wait until no connection is open."""
        while self._connections:
            await asyncio.wait(self._connections)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}{self._wire.PREFIX}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def __enter__(self) -> Self:
        self._stack.enter_context(_running(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._writers.add(writer)
        # Ours ends the server's wait for its connections; nobody else cancels this task.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer(await _read(reader), reader, writer):
                pass
        self._connections.discard(task)
        self._writers.discard(writer)
        writer.transport.abort()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again."""
        scene = self._scene(asked)
        number = len(self.asked)  # now, because others may ask while this one waits
        match scene:
            case Silent():
                if not scene.closes:
                    await reader.read()
                return False
            case Unspoken():
                writer.write(scene.data)
                if scene.resets:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                else:
                    await writer.drain()
                    writer.write_eof()
                    await reader.read()
                return False
            case Raw():
                _write(writer, scene.status, scene.content_type, scene.body, scene.headers)
            case Fails():
                _write(writer, scene.status, _JSON, self._wire.failure(scene), scene.headers)
            case Says() | Breaks() if asked.body.get("stream"):
                events = self._wire.events(scene.says if isinstance(scene, Breaks) else scene, asked, number)
                return await self._stream(scene, events, reader, writer)
            case Says():
                await _wait(scene.delay)
                _write(writer, 200, _JSON, self._wire.whole(scene, asked, number))
            case Breaks():
                return await self._break(scene, self._wire.whole(scene.says, asked, number), reader, writer)
        await writer.drain()
        return True

    def _scene(self, asked: Asked) -> Scene:
        if self._key and self._wire.key(asked.headers) != self._key:
            return Fails(401, "Incorrect API key provided.", "invalid_api_key")
        path = asked.path.partition("?")[0]
        if path == self._wire.MODELS:
            models = self._models
            return models if isinstance(models, Raw) else Raw(self._wire.models(models), _JSON)
        if path != self._wire.PATH:
            return Fails(404, f"There is no {path}.")
        self.asked.append(asked)
        if not self._scenes:
            return Fails(500, "The script is over.")
        scene = self._scenes[0]
        if callable(scene):
            return scene(asked)
        return self._scenes.pop(0)  # type: ignore[return-value]  # what is not callable is a scene

    async def _stream(
        self, scene: Says | Breaks, events: Iterator[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        await _wait(scene.says.delay if isinstance(scene, Breaks) else scene.delay)
        writer.write(_head(200, _STREAM, {"transfer-encoding": "chunked"}))
        for at, event in enumerate(events):
            if isinstance(scene, Breaks) and at == scene.after:
                return await self._break_stream(scene, reader, writer)
            writer.write(_chunk(event))
            # Each is a packet of its own, as from a model that thinks between words.
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _break_stream(self, scene: Breaks, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if scene.how in ("garbage", "error"):
            writer.write(_chunk(self._wire.GARBAGE if scene.how == "garbage" else self._wire.ERROR) + b"0\r\n\r\n")
            await writer.drain()
            return True
        return await _leave(scene, reader, writer)

    async def _break(
        self, scene: Breaks, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if scene.how == "error":
            _write(writer, 500, _JSON, self._wire.failure(Fails()))
            return True
        half = body[: len(body) // 2]
        if scene.how == "garbage":
            _write(writer, 200, _JSON, half)
            return True
        writer.write(_head(200, _JSON, {"content-length": str(len(body))}) + half)
        return await _leave(scene, reader, writer)


@contextlib.contextmanager
def _running(server: Scripted) -> Iterator[None]:
    """Run the server in a thread until the block ends."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def live() -> None:
        async with server:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


async def _wait(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)


async def _leave(scene: Breaks, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Let go of a client in the middle of an answer."""
    await writer.drain()
    if scene.how == "stall":
        await reader.read()
    else:
        # Closed and not reset: what was sent before must arrive.
        writer.close()
        await writer.wait_closed()
    return False


async def _read(reader: asyncio.StreamReader) -> Asked:
    """A request. Raises `IncompleteReadError` when the client leaves."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(body) if body else {})


def _head(status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
    phrase = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Overloaded"
    fields = {"content-type": content_type, "x-request-id": "req_1", "request-id": "req_1", **headers}
    return "".join(
        [f"HTTP/1.1 {status} {phrase}\r\n", *(f"{name}: {value}\r\n" for name, value in fields.items()), "\r\n"]
    ).encode()


def _write(
    writer: asyncio.StreamWriter, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    writer.write(_head(status, content_type, {"content-length": str(len(body)), **(headers or {})}) + body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
