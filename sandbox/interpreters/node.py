"""A durable session as a loop sees it: all that runs in it is recorded."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Self

from sandbox.background import Background
from sandbox.errors import SandboxError
from sandbox.events import Event
from sandbox.execution import Answer, Calls, Error, Execution, Functions, Output, Result, Stream
from sandbox.interpreters.session import facts_of
from sandbox.keys import Owner
from sandbox.loop.interpreter import Facts
from sandbox.node import Node
from sandbox.remote import File
from sandbox.store.rows import SessionRow


class NodeInterpreter:
    """An `Interpreter`. The session stays its maker's to close."""

    def __init__(self, node: Node, owner: Owner, session_id: str, facts: Facts, *, begun: bool = False) -> None:
        """begun: what runs is part of work that was accepted before, and goes on during a drain."""
        self.session_id = session_id
        self._begun = begun
        self._node = node
        self._owner = owner
        self._facts = facts
        self._leaving = Background()

    @classmethod
    async def of(cls, node: Node, owner: Owner, row: SessionRow, *, begun: bool = False) -> Self:
        """For that session. begun: see the constructor.

        Raises `InvalidLimits` when this host no longer allows its limits, and as `facts_of`."""
        told = await facts(node, image=row.image, memory_mb=row.memory_mb)
        return cls(node, owner, row.id, told, begun=begun)

    @property
    def facts(self) -> Facts:
        """See `Interpreter`."""
        return self._facts

    async def ready(self) -> None:
        """See `Interpreter`."""

    async def stream(
        self, code: str, timeout: float | None = None, functions: Functions | None = None
    ) -> AsyncGenerator[Output | Calls | Execution, None]:
        """See `Interpreter`. Raises what `Node.execute` raises."""
        log = await self._node.execute(
            self._owner, self.session_id, code, timeout=timeout, begun=self._begun, functions=functions
        )
        ended = False
        try:
            async with contextlib.aclosing(log.follow(calls=True)) as events:
                async for event in events:
                    ended = event.name == "done"
                    if (item := _item(event)) is not None:
                        yield item
        finally:
            if not ended:
                await self._withdraw(log.execution_id)

    async def _withdraw(self, execution_id: str) -> None:
        """Interrupt it, also when whoever runs us is being cancelled and does not get to wait for that."""

        async def withdraw() -> None:
            with contextlib.suppress(SandboxError):  # it has ended meanwhile, which was wanted
                await self._node.withdraw(self._owner, self.session_id, execution_id)

        await asyncio.shield(self._leaving.begin(withdraw(), f"withdraw {execution_id}"))

    async def answer(self, answers: Sequence[Answer]) -> int:
        """See `Interpreter`. Raises `SessionMissing`."""
        return await self._node.answer(self._owner, self.session_id, answers)

    async def files(self) -> Sequence[File]:
        """See `Interpreter`. Raises `SessionMissing`."""
        found = await self._node.files(self._owner, self.session_id)
        return [File(row.path, row.size, row.modified_at, row.digest) for row in found.rows]

    async def download(self, path: str) -> bytes:
        """See `Interpreter`. Raises `FileMissing`, `InvalidPath`, `SessionMissing`."""
        row = await self._node.file(self._owner, self.session_id, path)
        return b"".join([piece async for piece in self._node.pieces(row)])


async def facts(node: Node, *, image: str | None = None, memory_mb: int | None = None) -> Facts:
    """What is true of a session that is opened with these wishes. Raises `InvalidLimits`, and as `facts_of`."""
    spec = node.engine.spec(image=image, memory_mb=memory_mb)
    return await facts_of(node.engine, spec.image, spec.limits)


def _item(event: Event) -> Output | Calls | Execution | None:
    """What a reader of a loop's execution gets of an event, if anything."""
    data = event.data
    match event.name:
        case "stdout" | "stderr":
            return Stream(event.name, data["text"])
        case "result":
            return Result(data["data"], data["execution_count"])
        case "error":
            return Error(**data)
        case "calls":
            calls: Calls = data["calls"]
            return calls
        case "done":
            execution: Execution = data["execution"]
            return execution
        case _:
            return None
