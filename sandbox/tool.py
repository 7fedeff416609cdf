"""`run_python` for an agent of any framework: what its model must know of the tool, and what it is told of each call.

    async with AsyncClient() as client, client.session() as session:
        python = await AsyncRunPython.of(client, session)
        told = await python.run(code)  # the code that the model wrote; told.text is for it

The words are those of our own loop: `loop.tool` describes, `loop.told` tells.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sandbox.client import AsyncClient, AsyncSession, Client, Session
from sandbox.errors import InvalidCode, SandboxError, SandboxFailed
from sandbox.execution import Execution, Status
from sandbox.interpreters.client import ClientInterpreter, facts_of, workspace
from sandbox.loop import tool
from sandbox.loop.interpreter import Facts, Interpreter
from sandbox.loop.messages import Image, Text
from sandbox.loop.repeats import Repeats
from sandbox.loop.told import failed, told
from sandbox.remote import File

__all__ = ["AsyncRunPython", "Image", "RunPython", "Told"]


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a call."""

    text: str
    """For the model: the status first, output, the program's own frames and hints; bounded in length."""
    images: tuple[Image, ...]
    """Figures, for a model that sees them: `mime`, and `data` in base64. Empty unless asked for with `pictures`."""
    execution: Execution | None
    """For the program; None when what the model wrote could not be run at all."""

    @property
    def failed(self) -> bool:
        """Whether there is something to repair."""
        return self.execution is None or failed(self.execution)


class _Tool:
    """All of it but input and output."""

    def __init__(self, facts: Facts, files: Sequence[File], pictures: bool) -> None:
        function = tool.function(facts, files)
        self.name: str = function.name
        """`run_python`"""
        self.description: str = function.description
        """The truth about this sandbox: libraries, limits, no network, and the files that are there now."""
        self.parameters: Mapping[str, Any] = function.parameters
        """JSON Schema of the arguments, an object with `code`."""
        self._facts = facts
        self._pictures = pictures
        self._lost = False
        self._repeats = Repeats()

    def _tell(self, code: str, execution: Execution, files: Sequence[File], timeout: float | None) -> Told:
        facts = self._facts if timeout is None else replace(self._facts, timeout_s=timeout)
        seen = self._repeats.note(code, execution)
        parts = told(
            execution,
            facts,
            files,
            code=code,
            pictures=self._pictures,
            again=seen.count - 1 if failed(execution) else 0,
            same_code=seen.same_code,
            lost=self._lost,
        )
        self._lost = self._lost or execution.state_lost
        texts = [part.text for part in parts if isinstance(part, Text)]
        return Told("\n".join(texts), tuple(part for part in parts if isinstance(part, Image)), execution)


class RunPython(_Tool):
    """The tool over a session of a server, for code that blocks. The session stays its maker's to close."""

    def __init__(self, session: Session, facts: Facts, files: Sequence[File] = (), *, pictures: bool = False) -> None:
        super().__init__(facts, files, pictures)
        self.session = session

    @classmethod
    def of(cls, client: Client, session: Session, *, pictures: bool = False) -> Self:
        """Asks the server what is true of the session. pictures: the model sees images. Raises what the client does."""
        info = session.info()
        facts = facts_of(info, client.image(info.image))
        return cls(session, facts, workspace(session.files()), pictures=pictures)

    def run(self, code: str, timeout: float | None = None) -> Told:
        """Run what a model wrote, also in a Markdown fence. timeout: seconds.

        What the program did wrong, and code that is none, is told; what we did wrong raises `SandboxError`.
        """
        try:
            code = _readable(code)
            execution = self.session.execute(code, timeout)
        except (tool.Unusable, InvalidCode) as error:
            return Told(str(error), (), None)
        return self._tell(code, execution, self._files(execution), timeout)

    def _files(self, execution: Execution) -> Sequence[File]:
        if execution.status is Status.ERROR:
            with contextlib.suppress(SandboxError):  # for hints; not worth a failure
                return workspace(self.session.files())
        return ()


class AsyncRunPython(_Tool):
    """As `RunPython`, for code that awaits."""

    def __init__(self, interpreter: Interpreter, files: Sequence[File] = (), *, pictures: bool = False) -> None:
        super().__init__(interpreter.facts, files, pictures)
        self._interpreter = interpreter

    @classmethod
    async def of(cls, client: AsyncClient, session: AsyncSession, *, pictures: bool = False) -> Self:
        """As `RunPython.of`."""
        interpreter = await ClientInterpreter.of(client, session)
        return cls(interpreter, await interpreter.files(), pictures=pictures)

    async def run(self, code: str, timeout: float | None = None) -> Told:
        """As `RunPython.run`. When it is cancelled, the program is interrupted."""
        try:
            code = _readable(code)
            execution = await self._execute(code, timeout)
        except (tool.Unusable, InvalidCode) as error:
            return Told(str(error), (), None)
        return self._tell(code, execution, await self._files(execution), timeout)

    async def _execute(self, code: str, timeout: float | None) -> Execution:
        async with contextlib.aclosing(self._interpreter.stream(code, timeout)) as items:
            async for item in items:
                if isinstance(item, Execution):
                    return item
        raise SandboxFailed("the stream ended before the execution did")

    async def _files(self, execution: Execution) -> Sequence[File]:
        if execution.status is Status.ERROR:
            with contextlib.suppress(SandboxError):  # for hints; not worth a failure
                return await self._interpreter.files()
        return ()


def _readable(code: str) -> str:
    """Raises `tool.Unusable`."""
    return tool.code_of(json.dumps({"code": code}))
