"""A session on a server as a loop sees it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Self

from sandbox.background import Background
from sandbox.client import AsyncClient, AsyncSession, ImageInfo, SessionInfo, Started
from sandbox.client import File as Listed
from sandbox.errors import InvalidRequest, SandboxError
from sandbox.execution import Answer, Artifact, Calls, Execution, Functions, Output
from sandbox.loop.interpreter import Facts
from sandbox.remote import File


class ClientInterpreter:
    """An `Interpreter`. The session stays its maker's to close."""

    def __init__(self, session: AsyncSession, facts: Facts) -> None:
        self.session = session
        self._facts = facts
        self._leaving = Background()

    @classmethod
    async def of(cls, client: AsyncClient, session: AsyncSession) -> Self:
        """Asks the server what is true of it. Raises what the client raises."""
        info = await session.info()
        return cls(session, facts_of(info, await client.image(info.image)))

    @property
    def facts(self) -> Facts:
        """See `Interpreter`."""
        return self._facts

    async def ready(self) -> None:
        """See `Interpreter`."""

    async def stream(
        self, code: str, timeout: float | None = None, functions: Functions | None = None
    ) -> AsyncGenerator[Output | Calls | Execution, None]:
        """See `Interpreter`. Leaving early interrupts whatever runs in the session.

        Raises `InvalidRequest` for functions: the API has no way to answer them.
        """
        if functions is not None:
            raise InvalidRequest("programs on a server cannot call functions here; use an engine of your own")
        ended = False
        try:
            async with contextlib.aclosing(self.session.stream(code, timeout)) as events:
                async for event in events:
                    ended = isinstance(event, Execution)
                    if not isinstance(event, Started | Artifact):
                        yield event
        except SandboxError:
            ended = True  # refused, or out of reach
            raise
        finally:
            if not ended:
                await self._interrupt()

    async def _interrupt(self) -> None:
        """Also when whoever runs us is being cancelled and does not get to wait for that."""

        async def interrupt() -> None:
            with contextlib.suppress(SandboxError):  # it has ended meanwhile, which was wanted
                await self.session.interrupt()

        await asyncio.shield(self._leaving.begin(interrupt(), f"interrupt {self.session.id}"))

    async def answer(self, answers: Sequence[Answer]) -> int:
        """See `Interpreter`. Nothing that runs there can be waiting."""
        return 0

    async def files(self) -> Sequence[File]:
        """See `Interpreter`."""
        return workspace(await self.session.files())

    async def download(self, path: str) -> bytes:
        """See `Interpreter`."""
        return await self.session.download(path)


def facts_of(info: SessionInfo, image: ImageInfo) -> Facts:
    """What is true of a session on a server. image: the session's."""
    return Facts(image.python, image.libraries, info.memory_mb, info.disk_mb, info.timeout_s)


def workspace(files: Sequence[Listed]) -> list[File]:
    """What a client lists, as a loop takes it."""
    return [File(file.path, file.size, file.modified_at.timestamp(), file.digest) for file in files]
