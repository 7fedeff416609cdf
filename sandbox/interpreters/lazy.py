"""A session that is opened when the first code has to run, as a loop sees it: many questions need none."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from sandbox.execution import Answer, Calls, Execution, Functions, Output
from sandbox.loop.interpreter import Facts, Interpreter
from sandbox.remote import File


class LazyInterpreter:
    """An `Interpreter`. What is opened stays its maker's to close."""

    def __init__(self, facts: Facts, open_: Callable[[], Awaitable[Interpreter]], files: Sequence[File] = ()) -> None:
        """open_: called once. files: what will lie in `/mnt/data` when it is open."""
        self._facts = facts
        self._open = open_
        self._files = files
        self._opening = asyncio.Lock()
        self._opened: Interpreter | None = None

    @property
    def facts(self) -> Facts:
        """See `Interpreter`."""
        return self._facts

    async def ready(self) -> None:
        """See `Interpreter`. Raises what opening raises."""
        await self._interpreter()

    async def stream(
        self, code: str, timeout: float | None = None, functions: Functions | None = None
    ) -> AsyncGenerator[Output | Calls | Execution, None]:
        """See `Interpreter`. Raises what opening raises."""
        interpreter = await self._interpreter()
        async with contextlib.aclosing(interpreter.stream(code, timeout, functions)) as items:
            async for item in items:
                yield item

    async def answer(self, answers: Sequence[Answer]) -> int:
        """See `Interpreter`."""
        return 0 if self._opened is None else await self._opened.answer(answers)

    async def files(self) -> Sequence[File]:
        """See `Interpreter`."""
        return self._files if self._opened is None else await self._opened.files()

    async def download(self, path: str) -> bytes:
        """See `Interpreter`. Raises what opening raises."""
        return await (await self._interpreter()).download(path)

    async def _interpreter(self) -> Interpreter:
        async with self._opening:
            if self._opened is None:
                self._opened = await self._open()
        return self._opened
