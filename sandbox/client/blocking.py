"""The client for code that blocks."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from sandbox.client import requests, wire
from sandbox.client.content import Source, opened, replacing
from sandbox.client.events import Event, Following
from sandbox.client.problems import Again
from sandbox.client.requests import Address, Content, Request
from sandbox.client.retries import RECONNECTS, RETRIES, Tries
from sandbox.client.values import ExecutionRecord, File, ImageInfo, Page, SessionInfo
from sandbox.errors import NotFound, SandboxError
from sandbox.execution import Execution

T = TypeVar("T")


class Client:
    """A server that runs code. Safe for concurrent use from threads. Use `with`, or `close` it.

    Every call raises `Unreachable` when no server answers, `Unauthorized` for a key that is none, `RateLimited` and
    others of `Overloaded` when the server stays full although the call was repeated, and what its words name.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, retries: int = RETRIES) -> None:
        """url, api_key: default `SANDBOX_SERVER` and `SANDBOX_API_KEY`, then http://127.0.0.1:8000 without a key.

        retries: how often a call that can be repeated is; 0 means that a cut stream is not taken up again either.
        Raises `InvalidRequest`.
        """
        self._address = Address.of(url, api_key)
        self._retries = retries
        self._http = httpx.Client(**wire.options(self._address))

    @property
    def url(self) -> str:
        return self._address.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up all connections. Sessions stay open."""
        self._http.close()

    def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        memory_mb: int | None = None,
        image: str | None = None,
        files: Mapping[str, bytes | Path] | None = None,
    ) -> Execution:
        """One fresh sandbox, one execution, gone.

        timeout: seconds of wall clock. memory_mb: cap in MiB. files: what is put below `/mnt/data` first, by path;
        all of it travels in one request, for more than a few MiB open a session and `upload`. Files that the program
        made can be downloaded for a while: `attach(execution.session_id)`. Raises `InvalidCode`, `InvalidLimits`,
        `InvalidPath`, `TooLarge`, `UnknownImage`, `WorkspaceFull`.
        """
        return self._send(requests.run(code, timeout, memory_mb, image, files))

    @contextlib.contextmanager
    def session(
        self,
        *,
        memory_mb: int | None = None,
        image: str | None = None,
        idle_timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | Path] | None = None,
    ) -> Iterator["Session"]:
        """A session that is closed at the end of the block. See `open_session`."""
        session = self.open_session(
            memory_mb=memory_mb, image=image, idle_timeout=idle_timeout, metadata=metadata, files=files
        )
        try:
            yield session
        except BaseException:
            with contextlib.suppress(SandboxError):  # what went wrong in the block is what matters
                session.close()
            raise
        session.close()

    def open_session(
        self,
        *,
        memory_mb: int | None = None,
        image: str | None = None,
        idle_timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | Path] | None = None,
    ) -> "Session":
        """A session that lives until `Session.close` or its idle timeout (seconds). The rest is as in `run`."""
        info = self._send(requests.open_session(memory_mb, image, idle_timeout, metadata, files))
        return Session(self, info.id)

    def attach(self, session_id: str) -> "Session":
        """A session that was opened before. Raises `SessionMissing`."""
        return Session(self, self._send(requests.session(session_id)).id)

    def sessions(self) -> Iterator[SessionInfo]:
        """All sessions of the key, the newest first, the ended ones that the server still knows included."""
        return self._pages(requests.sessions)

    def image(self, name: str = "python") -> ImageInfo:
        """What is installed in sandboxes of that image. Raises `UnknownImage`."""
        return self._send(requests.image(name))

    def _send(self, request: Request[T], source: Source | None = None) -> T:
        tries = Tries(0 if source and not source.repeatable else self._retries)
        while True:
            try:
                with wire.failures(self._address):
                    content = source.pieces() if source else request.body
                    size = source.size if source else None
                    response = self._http.request(content=content, **wire.arguments(self._address, request, size))
                return wire.answer(self._address, request, response)
            except NotFound:
                if not (tries.failed and request.absent_is_done):
                    raise
                return request.read(b"")
            except Again as again:
                pause = tries.pause(again)
            time.sleep(pause)

    @contextlib.contextmanager
    def _receive(self, request: Request[Any]) -> Iterator[httpx.Response]:
        """A success whose body is still to come."""
        arguments = wire.arguments(self._address, request)
        with wire.failures(self._address), self._http.stream(content=request.body, **arguments) as response:
            if not response.is_success:
                response.read()
            wire.require_success(self._address, response)
            yield response

    def _pages(self, ask: Callable[[str | None], Request[Page[T]]]) -> Iterator[T]:
        after = None
        while True:
            page = self._send(ask(after))
            yield from page.items
            if (after := page.next) is None:
                return

    def _follow(self, following: Following) -> Iterator[Event]:
        tries = self._tries(following)
        while not following.ended:
            try:
                with self._receive(following.request()) as response:
                    for piece in response.iter_bytes():
                        for event in following.feed(piece):
                            tries = self._tries(following)
                            yield event
                if not following.ended:
                    raise wire.cut(self._address)
            except Again as again:
                pause = tries.pause(again)
                time.sleep(pause)

    def _tries(self, following: Following) -> Tries:
        """Until there is an execution it is a call like any other; then a server that starts again is waited for."""
        return Tries(RECONNECTS if self._retries and following.started else self._retries)

    def _save(self, request: Request[bytes], local: str | Path) -> None:
        tries = Tries(self._retries)
        with replacing(local) as file:
            while True:
                try:
                    with self._receive(request) as response:
                        for piece in response.iter_bytes():
                            file.write(piece)
                    return
                except Again as again:
                    pause = tries.pause(again)
                time.sleep(pause)
                file.seek(0)
                file.truncate()


class Session:
    """A session on a server. Made by `Client`; safe for concurrent use, executions queue up.

    Besides what every call raises: `SessionMissing`, `SessionClosed`, `SessionExpired`.
    """

    def __init__(self, client: Client, session_id: str) -> None:
        self.id = session_id
        self._client = client

    def info(self) -> SessionInfo:
        """The session as the server has it now."""
        return self._client._send(requests.session(self.id))

    def execute(self, code: str, timeout: float | None = None) -> Execution:
        """Run code; timeout: seconds of wall clock. Raises `InvalidCode`, `InvalidLimits`, `QueueFull`."""
        return self._client._send(requests.execute(self.id, code, timeout))

    def stream(self, code: str, timeout: float | None = None) -> Iterator[Event]:
        """Run code; yield `Started`, its outputs as they come, its artifacts, and the whole `Execution` last.

        A connection that is cut is made again and nothing is missed. Leaving the iterator early leaves the program
        running; `interrupt` ends it, and `follow` comes back to it. Raises as `execute`.
        """
        return self._client._follow(Following(self.id, requests.stream(self.id, code, timeout)))

    def follow(self, execution_id: str) -> Iterator[Event]:
        """All events of an execution from its beginning, whether it runs or has ended. Raises `ExecutionMissing`."""
        return self._client._follow(Following(self.id, requests.events(self.id, execution_id, "")))

    def execution(self, execution_id: str) -> ExecutionRecord:
        """One execution, as far as it is. Raises `ExecutionMissing`."""
        return self._client._send(requests.execution(self.id, execution_id))

    def executions(self) -> Iterator[ExecutionRecord]:
        """All executions, the newest first."""
        return self._client._pages(lambda after: requests.executions(self.id, after))

    def interrupt(self) -> None:
        """Interrupt the running execution, as Ctrl-C; without one nothing happens."""
        self._client._send(requests.interrupt(self.id))

    def restart(self) -> None:
        """Replace the kernel: variables go, files stay."""
        self._client._send(requests.restart(self.id))

    def upload(self, path: str, content: Content) -> File:
        """Store bytes, a local file or an open binary file (from where it stands) at `path` below `/mnt/data`.

        Raises `InvalidPath`, `TooLarge`, `WorkspaceFull`, `InvalidRequest` for a local file that cannot be read.
        """
        with opened(content) as source:
            return self._client._send(requests.upload(self.id, path), source)

    def download(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """A file's contents, from `start` to before `end` in bytes; none behind its end. Raises `FileMissing`,
        `InvalidPath`.
        """
        if end is not None and end <= start:
            return b""
        return self._client._send(requests.download(self.id, path, start, end))

    def download_to(self, path: str, local: str | Path) -> None:
        """Store a file at `local`, wholly or not at all. Raises `FileMissing`, `InvalidPath`, `OSError`."""
        self._client._save(requests.download(self.id, path), local)

    def files(self) -> list[File]:
        """The files below `/mnt/data`, sorted by path."""
        return list(self._client._pages(lambda after: requests.files(self.id, after)))

    def remove(self, path: str) -> None:
        """Delete a file. Raises `FileMissing`, `InvalidPath`."""
        self._client._send(requests.remove(self.id, path))

    def close(self) -> SessionInfo:
        """End the session and its sandbox. A running execution ends as `cancelled`. May be called twice."""
        return self._client._send(requests.close(self.id))
