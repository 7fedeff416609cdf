"""Files that an execution made for the caller, kept as files of the Files API."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.errors import FileMissing, InvalidPath, SandboxError, TooLarge
from sandbox.execution import Execution
from sandbox.keys import Owner
from sandbox.loop.anthropic_messages import programs
from sandbox.loop.anthropic_messages.results import BASH, PYTHON
from sandbox.messages.container import FAMILY
from sandbox.node import Node

_FIGURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
_MOST = 100
"""Files of one call."""


@dataclass(frozen=True, slots=True)
class _Made:
    ids: Sequence[str]
    words: str
    """About those that are not there."""


class Capture:
    """Of one run."""

    def __init__(self, node: Node, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        self._figures = 0
        self._made: dict[str, asyncio.Task[_Made]] = {}
        """By the ids of executions: an answer may be told again, also one that was cut off in the midst of this."""

    async def into(self, content: dict[str, Any], name: str, execution: Execution) -> None:
        """Keep them, and write their ids into the content of the call's result block. What cannot be kept is said
        there, below what the program has said itself.
        """
        if "content" not in content or name not in (PYTHON, BASH):
            return
        if execution.id not in self._made:
            work = self._node.background(self._make(name, execution), f"files of execution {execution.id}")
            self._made[execution.id] = work
        made = await asyncio.shield(self._made[execution.id])
        content["stderr"] += made.words
        content["content"] = [{"type": f"{name}_output", "file_id": file_id} for file_id in made.ids]

    async def _make(self, name: str, execution: Execution) -> _Made:
        paths = [artifact.path for artifact in execution.artifacts if _is_for_caller(artifact.path, name, execution)]
        ids: list[str] = []
        lost: SandboxError | None = None
        try:
            for path in paths[:_MOST]:
                try:
                    ids.append(await self._keep(execution.session_id, path))
                except (FileMissing, InvalidPath, TooLarge) as error:  # the others may be kept all the same
                    lost = lost or error
            if name == PYTHON:
                for data in execution.results:
                    if (figure := _figure(data)) and len(ids) < _MOST:
                        ids.append(await self._draw(*figure))
        except SandboxError as error:  # the answer is good without them
            lost = error
        return _Made(ids, "" if lost is None else f"\nNot all files could be kept: {lost}")

    async def _keep(self, session_id: str, path: str) -> str:
        row = await self._node.file(self._owner, session_id, path)
        return (await self._node.kept.keep(self._owner, FAMILY, row)).id

    async def _draw(self, mime: str, image: bytes) -> str:
        self._figures += 1
        named = f"figure-{self._figures}.{_FIGURES[mime]}"
        return (await self._node.kept.put(self._owner, FAMILY, named, _once(image), mime=mime)).id


def _is_for_caller(path: str, name: str, execution: Execution) -> bool:
    directory = path.rpartition("/")[0]
    if name == PYTHON:
        return not directory
    said = programs.said(execution)
    return said is not None and bool(directory) and directory == said.get("directory")


def _figure(data: Mapping[str, Any]) -> tuple[str, bytes] | None:
    for mime in _FIGURES:
        if isinstance(encoded := data.get(mime), str):
            if mime.endswith("xml"):
                return mime, encoded.encode("utf-8", "replace")
            try:
                return mime, base64.b64decode(encoded)
            except (binascii.Error, ValueError):
                return None
    return None


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
