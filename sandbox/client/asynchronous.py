"""The client for code that awaits. Each call is that of `blocking`, where it is described."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from sandbox.client import requests, wire
from sandbox.client.content import Source, opened, replacing
from sandbox.client.events import Event, Following
from sandbox.client.problems import Again
from sandbox.client.requests import PIECE, Address, Content, Request
from sandbox.client.retries import RECONNECTS, RETRIES, Tries
from sandbox.client.values import ExecutionRecord, File, ImageInfo, Page, SessionInfo
from sandbox.errors import NotFound, SandboxError
from sandbox.execution import Execution

T = TypeVar("T")


class AsyncClient:
    """As `Client`, for one event loop. Use `async with`, or `close` it."""

    def __init__(self, url: str | None = None, api_key: str | None = None, *, retries: int = RETRIES) -> None:
        """As `Client`."""
        self._address = Address.of(url, api_key)
        self._retries = retries
        self._http = httpx.AsyncClient(**wire.options(self._address))

    @property
    def url(self) -> str:
        return self._address.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._http.aclose()

    async def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        memory_mb: int | None = None,
        image: str | None = None,
        files: Mapping[str, bytes | Path] | None = None,
    ) -> Execution:
        """As `Client.run`."""
        return await self._send(requests.run(code, timeout, memory_mb, image, files))

    @contextlib.asynccontextmanager
    async def session(
        self,
        *,
        memory_mb: int | None = None,
        image: str | None = None,
        idle_timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | Path] | None = None,
    ) -> AsyncIterator["AsyncSession"]:
        """As `Client.session`."""
        session = await self.open_session(
            memory_mb=memory_mb, image=image, idle_timeout=idle_timeout, metadata=metadata, files=files
        )
        try:
            yield session
        except BaseException:
            with contextlib.suppress(SandboxError):  # what went wrong in the block is what matters
                await session.close()
            raise
        await session.close()

    async def open_session(
        self,
        *,
        memory_mb: int | None = None,
        image: str | None = None,
        idle_timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | Path] | None = None,
    ) -> "AsyncSession":
        """As `Client.open_session`."""
        info = await self._send(requests.open_session(memory_mb, image, idle_timeout, metadata, files))
        return AsyncSession(self, info.id)

    async def attach(self, session_id: str) -> "AsyncSession":
        """As `Client.attach`."""
        return AsyncSession(self, (await self._send(requests.session(session_id))).id)

    def sessions(self) -> AsyncIterator[SessionInfo]:
        """As `Client.sessions`."""
        return self._pages(requests.sessions)

    async def image(self, name: str = "python") -> ImageInfo:
        """As `Client.image`."""
        return await self._send(requests.image(name))

    async def _send(self, request: Request[T], source: Source | None = None) -> T:
        tries = Tries(0 if source and not source.repeatable else self._retries)
        while True:
            try:
                with wire.failures(self._address):
                    content = _pieces(source) if source else request.body
                    size = source.size if source else None
                    response = await self._http.request(content=content, **wire.arguments(self._address, request, size))
                return wire.answer(self._address, request, response)
            except NotFound:
                if not (tries.failed and request.absent_is_done):
                    raise
                return request.read(b"")
            except Again as again:
                pause = tries.pause(again)
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def _receive(self, request: Request[Any]) -> AsyncIterator[httpx.Response]:
        """A success whose body is still to come."""
        arguments = wire.arguments(self._address, request)
        with wire.failures(self._address):
            async with self._http.stream(content=request.body, **arguments) as response:
                if not response.is_success:
                    await response.aread()
                wire.require_success(self._address, response)
                yield response

    async def _pages(self, ask: Callable[[str | None], Request[Page[T]]]) -> AsyncIterator[T]:
        after = None
        while True:
            page = await self._send(ask(after))
            for item in page.items:
                yield item
            if (after := page.next) is None:
                return

    async def _follow(self, following: Following) -> AsyncGenerator[Event, None]:
        tries = self._tries(following)
        while not following.ended:
            try:
                async with self._receive(following.request()) as response:
                    async for piece in response.aiter_bytes():
                        for event in following.feed(piece):
                            tries = self._tries(following)
                            yield event
                if not following.ended:
                    raise wire.cut(self._address)
            except Again as again:
                pause = tries.pause(again)
                await asyncio.sleep(pause)

    def _tries(self, following: Following) -> Tries:
        """Until there is an execution it is a call like any other; then a server that starts again is waited for."""
        return Tries(RECONNECTS if self._retries and following.started else self._retries)

    async def _save(self, request: Request[bytes], local: str | Path) -> None:
        tries = Tries(self._retries)
        with replacing(local) as file:
            while True:
                try:
                    async with self._receive(request) as response:
                        async for piece in response.aiter_bytes(PIECE):
                            await asyncio.to_thread(file.write, piece)
                    return
                except Again as again:
                    pause = tries.pause(again)
                await asyncio.sleep(pause)
                file.seek(0)
                file.truncate()


class AsyncSession:
    """As `Session`. Made by `AsyncClient`."""

    def __init__(self, client: AsyncClient, session_id: str) -> None:
        self.id = session_id
        self._client = client

    async def info(self) -> SessionInfo:
        """As `Session.info`."""
        return await self._client._send(requests.session(self.id))

    async def execute(self, code: str, timeout: float | None = None) -> Execution:
        """As `Session.execute`. When it is cancelled, the program goes on; `interrupt` ends it."""
        return await self._client._send(requests.execute(self.id, code, timeout))

    def stream(self, code: str, timeout: float | None = None) -> AsyncGenerator[Event, None]:
        """As `Session.stream`."""
        return self._client._follow(Following(self.id, requests.stream(self.id, code, timeout)))

    def follow(self, execution_id: str) -> AsyncGenerator[Event, None]:
        """As `Session.follow`."""
        return self._client._follow(Following(self.id, requests.events(self.id, execution_id, "")))

    async def execution(self, execution_id: str) -> ExecutionRecord:
        """As `Session.execution`."""
        return await self._client._send(requests.execution(self.id, execution_id))

    def executions(self) -> AsyncIterator[ExecutionRecord]:
        """As `Session.executions`."""
        return self._client._pages(lambda after: requests.executions(self.id, after))

    async def interrupt(self) -> None:
        """As `Session.interrupt`."""
        await self._client._send(requests.interrupt(self.id))

    async def restart(self) -> None:
        """As `Session.restart`."""
        await self._client._send(requests.restart(self.id))

    async def upload(self, path: str, content: Content) -> File:
        """As `Session.upload`."""
        with opened(content) as source:
            return await self._client._send(requests.upload(self.id, path), source)

    async def download(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """As `Session.download`."""
        if end is not None and end <= start:
            return b""
        return await self._client._send(requests.download(self.id, path, start, end))

    async def download_to(self, path: str, local: str | Path) -> None:
        """As `Session.download_to`."""
        await self._client._save(requests.download(self.id, path), local)

    async def files(self) -> list[File]:
        """As `Session.files`."""
        return [file async for file in self._client._pages(lambda after: requests.files(self.id, after))]

    async def remove(self, path: str) -> None:
        """As `Session.remove`."""
        await self._client._send(requests.remove(self.id, path))

    async def close(self) -> SessionInfo:
        """As `Session.close`."""
        return await self._client._send(requests.close(self.id))


async def _pieces(source: Source) -> AsyncIterator[bytes]:
    """A disk is read in a thread, so that the loop is free meanwhile."""
    source.rewind()
    while piece := source.read() if source.in_memory else await asyncio.to_thread(source.read):
        yield piece
