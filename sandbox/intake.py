"""Files on their way from a sandbox to the disk: small ones in bundles, because each by itself would cost far more."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from sandbox.errors import FileForbidden, FileMissing, InvalidPath
from sandbox.files import Files, Stored
from sandbox.guest.frames import CHUNK
from sandbox.remote import File
from sandbox.session import Session

_TOGETHER = 64
"""Files that are read with one call, if they are small enough to come with one answer."""
_HELD_BYTES = 2 << 20
"""Of files that were read together, before they are written: so many cost the disk no more than one."""


class Intake:
    """Files of one session on their way. Within its block they are held: nobody removes them before rows name them."""

    def __init__(self, files: Files, session: Session) -> None:
        self.stored: list[tuple[File, Stored]] = []
        self.impossible: dict[str, InvalidPath | FileForbidden] = {}
        """By path, those that cannot be read whenever one asks, and why."""
        self._files = files
        self._session = session
        self._held = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._held.aclose()

    async def read(self, files: Sequence[File]) -> None:
        """All of them; after an error, those before it. What is gone is passed over.

        Raises what session and files raise.
        """
        short = dict[File, bytes]()
        try:
            for bundle in _bundles(files):
                if len(bundle) > 1 or bundle[0].size <= CHUNK:
                    short |= await self._gather(bundle)
                else:
                    await self._read(*bundle)
                if len(short) >= _TOGETHER or sum(map(len, short.values())) >= _HELD_BYTES:
                    enough, short = short, {}
                    await self._put(enough)
        finally:
            await self._put(short)

    async def _read(self, file: File) -> None:
        try:
            stored = await self._held.enter_async_context(self._files.put(self._session.read(file.path)))
        except (InvalidPath, FileForbidden) as error:
            self.impossible[file.path] = error
        except FileMissing:
            return  # deleted meanwhile; the next look will see that
        else:
            self.stored.append((file, stored))

    async def _gather(self, files: Sequence[File]) -> dict[File, bytes]:
        """A file by itself costs three calls to init and four steps of a thread, a bundle of them no more."""
        contents = await self._session.gather([file.path for file in files])
        there = {file: content for file, content in zip(files, contents, strict=True) if content is not None}
        for file in files:
            if file not in there:
                await self._read(file)
        return there

    async def _put(self, contents: Mapping[File, bytes]) -> None:
        if contents:
            self._held.push_async_callback(asyncio.sleep, 0)  # others have their turn between the ends of two of these
            stored = await self._held.enter_async_context(self._files.put_all([*contents.values()]))
            self.stored += zip(contents, stored, strict=True)


def _bundles(files: Iterable[File]) -> Iterator[list[File]]:
    """As many as can be read with one call; what is too large for that by itself."""
    bundle, size = list[File](), 0
    for file in files:
        if bundle and (len(bundle) == _TOGETHER or size + file.size > CHUNK):
            yield bundle
            bundle, size = [], 0
        bundle.append(file)
        size += file.size
    if bundle:
        yield bundle
