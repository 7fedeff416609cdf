"""A request, from what came in to a run that is ready to go."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sandbox.chats import Chats, Opening, Tool
from sandbox.chats.parking import Parking
from sandbox.errors import FileMissing, InvalidRequest
from sandbox.interpreters.node import facts
from sandbox.keys import Owner
from sandbox.loop.anthropic_messages.asked import Asked, Named, asked, named
from sandbox.loop.anthropic_messages.said import Given, Result, Stored
from sandbox.loop.hosted import RUN_PYTHON, HostedTool
from sandbox.loop.routes import expected
from sandbox.messages.capture import Capture
from sandbox.messages.container import FAMILY, IDLE_TIMEOUT_S, session_of
from sandbox.messages.run import Run
from sandbox.node import Node, Upload
from sandbox.remote import checked_path
from sandbox.store.rows import KeptFileRow

_MOST_BYTES = 32 << 20
"""Of all files that the model itself is to see: they are in memory for as long as the request lasts."""


class Messages:
    """What the endpoints call."""

    def __init__(self, node: Node, chats: Chats, parking: Parking[Run]) -> None:
        self._node = node
        self._chats = chats
        self._parking = parking

    async def begin(self, owner: Owner, body: Mapping[str, Any], api: str) -> Run:
        """A run that is ready to go, or to go on. api: the version of the API that the caller speaks.

        Raises `InvalidRequest`, `ObjectMissing`, `FileMissing`, `UnknownModel`.
        """
        files = named(body)
        given, uploads = await self._given(owner, body, files)
        wanted = asked(body, given, api)
        if uploads and wanted.version is None:
            raise InvalidRequest("messages: a container_upload needs a code execution tool; add one to tools")
        session_id = None
        if wanted.container is not None:
            session_id = (await session_of(self._node, owner, wanted.container)).id
            if wanted.results is not None:
                return await self._waiting(owner, session_id, wanted, wanted.results)
            await self._give_up(owner, session_id)
            for upload in uploads:
                if upload.file_id in files.new:  # the others have been there since an earlier request
                    await self._put(owner, session_id, upload)
        tool = self._tool(wanted, session_id, uploads)
        chat = await self._chats.begin(owner, wanted.request, tool, whole=not wanted.stream, resuming=False)
        parking = self._parking if wanted.callable else None
        return Run(self._node, owner, chat, wanted, Capture(self._node, owner), session_id, parking)

    async def _waiting(self, owner: Owner, session_id: str, wanted: Asked, results: tuple[Result, ...]) -> Run:
        """The run whose code waits for these results. Raises `InvalidRequest`."""
        taken = await self._parking.take_back(owner.id, session_id)
        if taken is None:
            raise InvalidRequest(
                f"messages: no code waits for these results in {wanted.container}: it has waited too long, or has "
                "ended; send the conversation as it was before"
            )
        running, run = taken
        try:
            run.go_on(wanted, running, results)
        except InvalidRequest:
            self._parking.park(owner.id, session_id, running, run)
            raise
        return run

    async def _give_up(self, owner: Owner, session_id: str) -> None:
        """The caller goes on without what its code waits for."""
        if (taken := await self._parking.take_back(owner.id, session_id)) is not None:
            await taken[0].aclose()

    async def count(self, owner: Owner, body: Mapping[str, Any], api: str) -> int:
        """The tokens of a request's prompt, by rule of thumb. Raises as `begin`."""
        given, _ = await self._given(owner, body, named(body))
        wanted = asked(body, given, api, counting=True)
        plan = self._chats.models.plan(wanted.request.model)
        request = wanted.request
        if wanted.version is not None:
            known = await facts(self._node)
            ours = tuple(hosted.function(known, ()) for hosted in self._tools(wanted, fenced=plan.fenced))
            request = replace(request, functions=(*ours, *wanted.callable, *request.functions))
        return max(1, expected(request).input_tokens)

    def _tool(self, wanted: Asked, session_id: str | None, uploads: tuple[Upload, ...]) -> Tool | None:
        if wanted.version is None:
            return None
        fenced = self._chats.models.plan(wanted.request.model).fenced
        idle_timeout_s = min(IDLE_TIMEOUT_S, self._node.settings.idle_timeout_s)
        opening = Opening(idle_timeout_s=idle_timeout_s, files=uploads, family=FAMILY)
        return Tool(
            session_id=session_id,
            opening=opening,
            tools=self._tools(wanted, fenced=fenced),
            callable=wanted.callable,
            pauses=True,
            forgives=True,
        )

    def _tools(self, wanted: Asked, *, fenced: bool) -> tuple[HostedTool, ...]:
        """A model that writes its programs in fences can do nothing else."""
        assert wanted.version is not None
        return (RUN_PYTHON,) if fenced else wanted.version.tools

    async def _given(self, owner: Owner, body: Mapping[str, Any], files: Named) -> tuple[Given, tuple[Upload, ...]]:
        """The files that a request names, and how those get into a sandbox that are to be there."""
        paths: dict[str, str] = {}
        for file_id in files.uploads:
            paths[file_id] = _path((await self._row(owner, file_id)).name, set(paths.values()))
        shown = [await self._row(owner, file_id) for file_id in files.contents]
        if sum(row.size for row in shown) > _MOST_BYTES:
            raise InvalidRequest(
                f"messages: the files that the model is to see have more than {_MOST_BYTES} bytes; send them as "
                "container_upload blocks, and the code can read them"
            )
        contents = {row.id: await self._stored(row) for row in shown}
        uploads = tuple(Upload(path, file_id=file_id, family=FAMILY) for file_id, path in paths.items())
        return Given(paths, contents, self._speaks_it(body.get("model"))), uploads

    def _speaks_it(self, model: Any) -> bool:
        """Whether whoever answers for the model speaks this dialect."""
        if not isinstance(model, str) or not model:
            return False
        catalogue = self._chats.models.catalogue
        routes = self._chats.models.plan(model).routes
        return all(catalogue.upstreams[route.upstream].dialect == "anthropic" for route in routes)

    async def _stored(self, row: KeptFileRow) -> Stored:
        data = b"".join([piece async for piece in self._node.kept.pieces(row)])
        return Stored(row.name, row.mime, base64.b64encode(data).decode())

    async def _row(self, owner: Owner, file_id: str) -> KeptFileRow:
        try:
            return await self._node.kept.row(owner, FAMILY, file_id)
        except FileMissing:
            raise FileMissing(f"File `{file_id[:80]}` not found.") from None

    async def _put(self, owner: Owner, session_id: str, upload: Upload) -> None:
        assert upload.file_id is not None
        row = await self._row(owner, upload.file_id)
        await self._node.put_file(owner, session_id, upload.path, self._node.kept.pieces(row), row.size)


def _path(name: str, taken: set[str]) -> str:
    """Where a file lies below `/mnt/data`: under its own name, and the second of that name under another."""
    path = checked_path(name)
    stem, dot, ending = path.rpartition(".")
    number = 2
    while path in taken:
        path = f"{stem}-{number}.{ending}" if dot and stem else f"{name}-{number}"
        number += 1
    return path
