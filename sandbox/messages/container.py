"""A container of Anthropic's is a session of ours."""

import re
from datetime import UTC, datetime
from typing import Any

from sandbox.errors import InvalidRequest, ObjectMissing, SessionMissing
from sandbox.keys import Owner
from sandbox.node import Node
from sandbox.store.rows import Family, SessionRow

FAMILY: Family = "anthropic"
IDLE_TIMEOUT_S = 1800.0
"""Half an hour after its last use a container is gone."""
_ID = re.compile(r"container_([0-9a-f]{32})")


def described(row: SessionRow) -> dict[str, Any]:
    """What an answer says of it: how long it stays when it is not used any more."""
    expires_at = datetime.fromtimestamp(row.last_used_at + row.idle_timeout_s, UTC)
    told = expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"id": f"container_{row.id.removeprefix('ses_')}", "expires_at": told}


async def session_of(node: Node, owner: Owner, container: str) -> SessionRow:
    """Its session, whose idle timeout begins anew. Raises `ObjectMissing`, `InvalidRequest` for one that is over."""
    found = _ID.fullmatch(container)
    missing = ObjectMissing(f"container: there is no container {container[:80]}; leave it out, and there is a new one")
    if found is None:
        raise missing
    try:
        row = await node.session(owner, f"ses_{found[1]}")
    except SessionMissing:
        raise missing from None
    if row.family != FAMILY:
        raise missing
    row = await node.touch(owner, row.id)
    if row.status != "active":
        raise InvalidRequest(f"container: {container} has expired; leave it out, and there is a new one")
    return row
