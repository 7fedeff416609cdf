"""OpenAI's containers: sessions of the family `openai` under other ids, with that API's words for what they have.

A container is a session, so it lasts, sleeps and expires as one. `cntr_<hex>` is `ses_<hex>`, and `cfile_<hex>` is the
workspace's `file_<hex>`. One that has expired can still be looked at; one that was deleted does not exist.
"""

import contextlib
import re
from collections.abc import AsyncIterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sandbox.errors import (
    ContainerExpired,
    ContainerMissing,
    FileForbidden,
    FileMissing,
    InvalidField,
    InvalidPath,
    InvalidRequest,
    SessionMissing,
)
from sandbox.keys import Owner
from sandbox.node import Node, Upload
from sandbox.remote import file_name
from sandbox.store.rows import Family, FileRow, Page, SessionRow

FAMILY: Family = "openai"
TIERS: Mapping[str, int] = MappingProxyType({"1g": 1 << 10, "4g": 4 << 10, "16g": 16 << 10, "64g": 64 << 10})
"""What `memory_limit` can be, and what it is in MiB."""
DEFAULT_MINUTES = 20
"""Of idleness, until a container expires."""
_MOST_MINUTES = 30 * 24 * 60
_MOST_NAME = 4096
_MOST_FILE_IDS = 50
_ID = re.compile(r"(?:cntr|cfile)_([0-9a-f]{32})")


# Ids.


def container_id(session_id: str) -> str:
    """`cntr_…` of `ses_…`."""
    return f"cntr_{session_id.removeprefix('ses_')}"


def session_id(container_id: str) -> str:
    """`ses_…` of `cntr_…`. Raises `ContainerMissing` when it cannot be one of ours."""
    match = _ID.fullmatch(container_id)
    if match is None or not container_id.startswith("cntr_"):
        raise missing(container_id)
    return f"ses_{match[1]}"


def container_file_id(file_id: str) -> str:
    """`cfile_…` of the workspace's `file_…`."""
    return f"cfile_{file_id.removeprefix('file_')}"


def file_id(container_file_id: str) -> str:
    """The workspace's `file_…` of `cfile_…`. Raises `FileMissing` when it cannot be one of ours."""
    match = _ID.fullmatch(container_file_id)
    if match is None or not container_file_id.startswith("cfile_"):
        raise _no_file(container_file_id)
    return f"file_{match[1]}"


def missing(container_id: str) -> ContainerMissing:
    """The error for one that does not exist."""
    return ContainerMissing(f"Container with id '{container_id}' not found.")


def _no_file(file_id: str) -> FileMissing:
    return FileMissing(f"Container file with id '{file_id}' not found.")


# As the API shows them.


def container(row: SessionRow) -> dict[str, Any]:
    """A container's JSON."""
    return {
        "id": container_id(row.id),
        "object": "container",
        "created_at": int(row.created_at),
        "status": "running" if row.status == "active" else row.status,
        "expires_after": {"anchor": "last_active_at", "minutes": max(1, round(row.idle_timeout_s / 60))},
        "last_active_at": int(row.last_used_at),
        "memory_limit": tier(row.memory_mb),
        "network_policy": {"type": "disabled"},
        "name": row.metadata.get("name", ""),
    }


def container_file(row: FileRow) -> dict[str, Any]:
    """A container file's JSON."""
    return {
        "id": container_file_id(row.id),
        "object": "container.file",
        "created_at": int(row.modified_at),
        "bytes": row.size,
        "container_id": container_id(row.session_id),
        "path": f"/mnt/data/{row.path}",
        "source": "user" if row.uploaded else "assistant",
    }


def tier(memory_mb: int) -> str:
    """The smallest tier that has so many MiB; the largest, if none has."""
    return next((name for name, most in TIERS.items() if memory_mb <= most), "64g")


# What is asked for.


def memory_mb(node: Node, memory_limit: str | None, field: str = "memory_limit") -> int | None:
    """MiB for a tier; None, this server's own default, for None. field: what the request calls it.

    Raises `InvalidField` for what is no tier, and for one that this host has no room for.
    """
    if memory_limit is None:
        return None
    if (wanted := TIERS.get(memory_limit)) is None:
        raise InvalidField(field, f"there is no tier {memory_limit!r}; choose from {', '.join(TIERS)}")
    most = min(node.settings.max_memory_mb, node.admission.budget_mb)
    if wanted > most:
        here = [name for name, size in TIERS.items() if size <= most]
        offer = f"choose from {', '.join(here)}, or leave it out" if here else "leave it out"
        raise InvalidField(field, f"this server has no room for containers of {memory_limit}; {offer}")
    return wanted


def idle_timeout(minutes: int | None, field: str = "expires_after.minutes") -> float:
    """Seconds. Raises `InvalidField`."""
    minutes = DEFAULT_MINUTES if minutes is None else minutes
    if not 1 <= minutes <= _MOST_MINUTES:
        raise InvalidField(field, f"it is {minutes}; choose from 1 to {_MOST_MINUTES}")
    return minutes * 60.0


# Containers.


async def create(
    node: Node,
    owner: Owner,
    *,
    name: str,
    memory_limit: str | None = None,
    minutes: int | None = None,
    file_ids: Sequence[str] = (),
) -> SessionRow:
    """A new one, awake. file_ids: kept files that are copied into it, under their own names.

    Raises `InvalidField`, `FileMissing`, and what `Node.open_session` raises.
    """
    if len(name) > _MOST_NAME:
        raise InvalidField("name", f"it is longer than {_MOST_NAME} characters")
    if len(file_ids) > _MOST_FILE_IDS:
        raise InvalidField("file_ids", f"it can name {_MOST_FILE_IDS} files; put the others in afterwards")
    kept = [await node.kept.row(owner, FAMILY, each) for each in file_ids]
    return await node.open_session(
        owner,
        memory_mb=memory_mb(node, memory_limit),
        idle_timeout=idle_timeout(minutes),
        metadata={"name": name},
        files=[Upload(file_name(row.name), file_id=row.id, family=FAMILY) for row in kept],
        family=FAMILY,
    )


async def found(node: Node, owner: Owner, container_id: str) -> SessionRow:
    """One that exists, expired or not. To ask for it is to use it. Raises `ContainerMissing`."""
    try:
        row = await node.session(owner, session_id(container_id))
        if row.family == FAMILY and row.status != "closed":
            return await node.touch(owner, row.id)
    except SessionMissing:
        pass
    raise missing(container_id)


async def usable(node: Node, owner: Owner, container_id: str) -> SessionRow:
    """One that has not expired. Raises `ContainerMissing`, `ContainerExpired`."""
    row = await found(node, owner, container_id)
    if row.status != "active":
        raise ContainerExpired("Container is expired.")
    return row


async def delete(node: Node, owner: Owner, container_id: str) -> None:
    """End it, and its files with it. Raises `ContainerMissing`."""
    row = await found(node, owner, container_id)
    if (await node.close_session(owner, row.id)).status != "closed":
        await node.store.update_session(row.id, status="closed")  # one that had expired before


async def page(
    node: Node,
    owner: Owner,
    *,
    limit: int,
    after: str | None = None,
    newest_first: bool = True,
    name: str | None = None,
) -> Page[SessionRow]:
    """Those that exist, as they were made. name: only those that are called so.

    Raises `InvalidRequest` when `after` is none of them.
    """
    wanted: list[SessionRow] = []
    cursor = None if after is None else _cursor(after)
    while True:
        part = await node.sessions(owner, limit=100, after=cursor, newest_first=newest_first, family=FAMILY)
        wanted += [row for row in part.items if row.status != "closed" and name in (None, row.metadata.get("name"))]
        if len(wanted) > limit:
            return Page(tuple(wanted[:limit]), wanted[limit - 1].id)
        if part.next is None:
            return Page(tuple(wanted))
        cursor = part.next


def _cursor(after: str) -> str:
    try:
        return session_id(after)
    except ContainerMissing as error:
        raise InvalidRequest(f"after: {error}") from None


# Their files. `container` is what `usable` has found.


async def files(
    node: Node,
    owner: Owner,
    container: SessionRow,
    *,
    limit: int,
    after: str | None = None,
    newest_first: bool = True,
) -> Page[FileRow]:
    """By the time at which they were written. Raises `InvalidRequest` when `after` is none of them."""
    listed = (await node.files(owner, container.id)).rows
    rows = sorted(listed, key=_place, reverse=newest_first)
    if after is not None:
        last = _place(await _last(node, owner, container, listed, after))
        rows = [row for row in rows if (_place(row) < last if newest_first else _place(row) > last)]
    items = list[FileRow]()
    for row in rows:
        if (stored := await _stored(node, owner, row)) is not None:
            items.append(stored)
        if len(items) > limit:
            return Page(tuple(items[:limit]), items[limit - 1].id)
    return Page(tuple(items))


def _place(row: FileRow) -> tuple[float, str]:
    return row.modified_at, row.path


async def _last(node: Node, owner: Owner, container: SessionRow, listed: Sequence[FileRow], after: str) -> FileRow:
    """The last file of the page before, which may have been removed since. Raises `InvalidRequest`."""
    found = next((row for row in listed if container_file_id(row.id) == after), None)
    if found is None:
        with contextlib.suppress(FileMissing):  # it cannot be the id of one of ours
            found = await node.removed_file(owner, container.id, file_id(after))
    if found is None:
        raise InvalidRequest(f"after: there is no file {after} in this container")
    return found


async def _stored(node: Node, owner: Owner, row: FileRow) -> FileRow | None:
    """With an id, also when a program has just written it. None for what cannot be stored, or is gone."""
    if row.id:
        return row
    try:
        return await node.file(owner, row.session_id, row.path)
    except (FileForbidden, FileMissing, InvalidPath):
        return None


async def file(node: Node, owner: Owner, container: SessionRow, container_file_id: str) -> FileRow:
    """One of them, as it was when it got this id. Raises `FileMissing`."""
    row = await node.store.file(owner.id, file_id(container_file_id))
    if row is None or row.session_id != container.id:
        raise _no_file(container_file_id)
    return row


async def add_file(node: Node, owner: Owner, container: SessionRow, name: str, pieces: AsyncIterable[bytes]) -> FileRow:
    """Put bytes into it, under this name or, if it has such a file, one like it. Raises what `Node.put_file` raises."""
    return await node.put_file(owner, container.id, file_name(name), pieces, fresh=True)


async def add_kept_file(node: Node, owner: Owner, container: SessionRow, kept_file_id: str) -> FileRow:
    """Copy a kept file into it. Raises `FileMissing`, and what `add_file` raises."""
    kept = await node.kept.row(owner, FAMILY, kept_file_id)
    return await add_file(node, owner, container, kept.name, node.kept.pieces(kept))


async def remove_file(node: Node, owner: Owner, container: SessionRow, container_file_id: str) -> None:
    """Raises `FileMissing`."""
    row = await file(node, owner, container, container_file_id)
    await node.remove_file(owner, container.id, row.path)
