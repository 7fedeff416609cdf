"""The files that a request brings along: into its container, and before the model's eyes."""

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sandbox import containers
from sandbox.errors import FileMissing, InvalidField
from sandbox.execution import MIB, mime_of
from sandbox.keys import Owner
from sandbox.loop import openai_responses
from sandbox.loop.messages import Image, Opaque, Text
from sandbox.loop.openai_responses import Given
from sandbox.node import Node, Upload
from sandbox.remote import file_name, free_path
from sandbox.store.rows import ObjectRow

_MOST_FILE_IDS = 50
_MOST_FILES = 500
"""Of a request and those that it goes on from: for each a name is sought that none before it has."""
_MOST_SHOWN = 32 * MIB
"""Bytes of the kept files that go to the model itself, together, each as often as it is named."""
_MOST_TEXT = 256 << 10


@dataclass(frozen=True, slots=True)
class Mount:
    """A file that belongs into `/mnt/data`."""

    key: str
    upload: Upload
    digest: str


class Mounts:
    """The files of one request and of those that it goes on from. Use `of`."""

    def __init__(self, node: Node, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        self._mounts: dict[str, Mount] = {}
        self._taken: set[str] = set()

    @classmethod
    async def of(
        cls,
        node: Node,
        owner: Owner,
        chain: Sequence[ObjectRow],
        asked: openai_responses.Asked,
        items: Sequence[Mapping[str, Any]],
    ) -> "Mounts":
        """In the order of their coming, so that they have the same names each time.

        Raises `FileMissing`, `InvalidField` for too many.
        """
        mounts = cls(node, owner)
        for row in chain:
            for given in (*_file_ids(row.body["response"]["tools"]), *openai_responses.files(row.body["input"])):
                with contextlib.suppress(FileMissing):  # it was deleted since
                    await mounts._add(given)
        file_ids = asked.interpreter.file_ids if asked.interpreter else ()
        if len(file_ids) > _MOST_FILE_IDS:
            raise InvalidField("tools", f"file_ids can name {_MOST_FILE_IDS} files")
        for given in (*_by_id(file_ids), *openai_responses.files(items)):
            await mounts._add(given)
        return mounts

    async def _add(self, given: Given) -> None:
        if given.key in self._mounts:
            return
        if len(self._mounts) >= _MOST_FILES:
            raise InvalidField(given.field, f"a conversation may bring {_MOST_FILES} files; put them into one archive")
        if given.file_id is not None:
            kept = await self._node.kept.row(self._owner, containers.FAMILY, given.file_id)
            path = free_path(file_name(kept.name), self._taken)
            upload = Upload(path, file_id=kept.id, family=containers.FAMILY)
            self._mounts[given.key] = Mount(given.key, upload, kept.digest)
        else:
            data = given.data or b""
            upload = Upload(free_path(file_name(given.name), self._taken), data)
            self._mounts[given.key] = Mount(given.key, upload, hashlib.sha256(data).hexdigest())
        self._taken.add(upload.path)

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """For a container that is yet to be made."""
        return tuple(mount.upload for mount in self._mounts.values())

    async def put(self, session_id: str) -> None:
        """Into a container that is there. What a program has changed since is left as it is.

        Raises what `Node.put_file` raises.
        """
        if not self._mounts:
            return
        rows = {row.path: row for row in (await self._node.files(self._owner, session_id)).rows}
        uploaded = {row.digest: row.path for row in rows.values() if row.uploaded}
        for mount in list(self._mounts.values()):
            path = mount.upload.path
            if mount.digest in uploaded:
                path = uploaded[mount.digest]
            elif path not in rows or rows[path].uploaded:
                pieces = self._pieces(mount.upload)
                path = (await self._node.put_file(self._owner, session_id, path, pieces, fresh=True, begun=True)).path
            self._mounts[mount.key] = replace(mount, upload=replace(mount.upload, path=path))

    async def _pieces(self, upload: Upload) -> AsyncIterator[bytes]:
        if upload.file_id is None:
            yield upload.content or b""
            return
        row = await self._node.kept.row(self._owner, containers.FAMILY, upload.file_id)
        async with contextlib.aclosing(self._node.kept.pieces(row)) as pieces:
            async for piece in pieces:
                yield piece

    def path(self, given: Given) -> str:
        """Where it lies in the container."""
        return self._mounts[given.key].upload.path


def _file_ids(tools: Sequence[Mapping[str, Any]]) -> tuple[Given, ...]:
    """Those that the interpreter of an earlier request names."""
    containers_ = (tool.get("container") for tool in tools if tool.get("type") == "code_interpreter")
    return tuple(
        given for each in containers_ if isinstance(each, Mapping) for given in _by_id(each.get("file_ids") or ())
    )


def _by_id(file_ids: Sequence[str]) -> tuple[Given, ...]:
    return tuple(Given(file_id, "tools", "", file_id, None, False) for file_id in file_ids)


async def shown(
    node: Node, owner: Owner, items: Sequence[Mapping[str, Any]], mounts: Mounts | None
) -> openai_responses.Files:
    """What the model gets of each file. mounts: where they lie; None when there is no container.

    Raises `FileMissing`, `InvalidField`.
    """
    found: dict[str, tuple[Text | Image | Opaque, ...]] = {}
    sizes: dict[str, int] = {}
    left = _MOST_SHOWN
    for given in openai_responses.files(items):
        if given.key in found:  # it is sent once more
            left = _less(left, sizes.get(given.key, 0), given)
            continue
        where = (Text(f"[The file is in /mnt/data/{mounts.path(given)}.]"),) if mounts is not None else ()
        if given.is_image or mounts is None:
            name, data = given.name, given.data or b""
            if given.file_id is not None:
                row = await node.kept.row(owner, containers.FAMILY, given.file_id)
                left, sizes[given.key] = _less(left, row.size, given), row.size
                name, data = row.name, b"".join([piece async for piece in node.kept.pieces(row)])
            found[given.key] = (_content(given, name, data), *where)
        else:
            found[given.key] = where
    return found


def _content(given: Given, name: str, data: bytes) -> Text | Image | Opaque:
    encoded = base64.b64encode(data).decode()
    if given.is_image:
        return Image(mime_of(name), encoded)
    if len(data) <= _MOST_TEXT and (text := _text(data)) is not None:
        return Text(f"[The file {name}:]\n{text}")
    return Opaque("openai", {"type": "file", "file": {"filename": name, "file_data": _uri(name, encoded)}})


def _less(left: int, size: int, given: Given) -> int:
    """What is left of the bytes that may be shown. Raises `InvalidField`."""
    if size > left:
        most = f"files for the model may have {_MOST_SHOWN // MIB} MiB together"
        raise InvalidField(given.field, f"{most}; add a code_interpreter that reads them")
    return left - size


def _text(data: bytes) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _uri(name: str, encoded: str) -> str:
    return f"data:{mime_of(name)};base64,{encoded}"
