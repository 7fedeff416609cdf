"""An engine's session as a loop sees it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Self

from sandbox.engine import Engine
from sandbox.execution import Answer, Calls, Execution, Functions, Limits, Output
from sandbox.loop.interpreter import Facts
from sandbox.remote import File
from sandbox.session import Session


class SessionInterpreter:
    """An `Interpreter`. The session stays its maker's to close."""

    def __init__(self, session: Session, facts: Facts) -> None:
        self.session = session
        self._facts = facts

    @classmethod
    async def of(cls, engine: Engine, session: Session, *, image: str | None = None) -> Self:
        """image: the session's, if it is not the settings'. Raises `ImageNotBuilt`, `UnknownImage`, `HostUnfit`."""
        return cls(session, await facts_of(engine, image or engine.settings.image, session.limits))

    @property
    def facts(self) -> Facts:
        """See `Interpreter`."""
        return self._facts

    async def ready(self) -> None:
        """See `Interpreter`."""

    def stream(
        self, code: str, timeout: float | None = None, functions: Functions | None = None
    ) -> AsyncGenerator[Output | Calls | Execution, None]:
        """See `Interpreter`."""
        return self.session.stream(code, timeout, functions)

    async def answer(self, answers: Sequence[Answer]) -> int:
        """See `Interpreter`."""
        return await self.session.answer(*answers)

    async def files(self) -> Sequence[File]:
        """See `Interpreter`."""
        return await self.session.list()

    async def download(self, path: str) -> bytes:
        """See `Interpreter`."""
        return await self.session.download(path)


async def facts_of(engine: Engine, image: str, limits: Limits) -> Facts:
    """What is true of such a sandbox. Raises `ImageNotBuilt`, `UnknownImage`, `HostUnfit`."""
    manifest = await engine.runtime.manifest(image)
    return Facts(
        python=manifest.python,
        libraries=manifest.libraries,
        memory_mb=limits.memory_mb,
        disk_mb=limits.disk,
        timeout_s=engine.settings.timeout_s,
    )
