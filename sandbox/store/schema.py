"""The tables. A change here wants a migration beside the others and its number; a test compares them.

Every text, ids from URLs included, is stored as `Words`, so that no text a caller or a program can send makes the two
databases differ.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)

from sandbox import finite_json
from sandbox.execution import Artifact

REVISION = "0005"
"""Of the newest migration, whose tables these are."""
_ESCAPED = "\x1a"
"""The first character of a text that is stored as JSON. It was made for this: SUBSTITUTE."""


class Words(TypeDecorator[str]):
    """Any `str`, unchanged on the way back. Equal texts are stored equally, so that they can be looked up.

    Programs print NUL, which PostgreSQL refuses, and lone surrogates, which UTF-8 cannot say. A text with one of them
    is stored as JSON behind a mark; all others as they are, which keeps them small, fast and readable.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The text as it is stored."""
        if value is None or (value.isascii() and "\0" not in value and not value.startswith(_ESCAPED)):
            return value
        if "\0" not in value and not value.startswith(_ESCAPED) and _is_utf8(value):
            return value
        return _ESCAPED + json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """The text as it was given."""
        if value is None or not value.startswith(_ESCAPED):
            return value
        text: str = json.loads(value[1:])
        return text


class JsonText(TypeDecorator[Any]):
    """What `to_json` has made."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """As JSON has it: lists and dicts."""
        return None if value is None else json.loads(value)


class Json(JsonText):
    """JSON in text: the databases' own JSON types differ in what they take, and in NUL."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Values, dataclasses and mappings too."""
        if isinstance(value, list | tuple):
            # One by one, because nobody else can compute while one is written down, and they may be long.
            return f"[{','.join([to_json(each) for each in value])}]"
        return None if value is None else to_json(value)


def to_json(value: Any) -> str:
    """Of values, dataclasses and mappings. A number that is none becomes null, as for clients."""
    return finite_json.dumps(value, _plain, ascii_only=True).decode()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, Artifact):
        return value.told()
    return dict(value) if isinstance(value, Mapping) else dataclasses.asdict(value)


metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s",
    }
)

nodes = Table(
    "nodes",
    metadata,
    Column("node", Words, primary_key=True),
    Column("epoch", Integer, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Words, primary_key=True),
    Column("owner", Words, nullable=False),
    Column("node", Words, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("status", Words, nullable=False),
    Column("image", Words, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("idle_timeout_s", Double, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("used", Boolean, nullable=False),
    Column("single", Boolean, nullable=False),
    Column("family", Words, nullable=False, server_default=""),
    Column("yields", Boolean, nullable=False, server_default=false()),
    Index(None, "owner", "created_at", "id"),
    Index(None, "node", "status"),
    Index(None, "ended_at"),
)

executions = Table(
    "executions",
    metadata,
    Column("id", Words, primary_key=True),
    Column("session_id", Words, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("owner", Words, nullable=False),
    Column("code", Words, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("ended_at", Double),
    # From here on: how it ended. NULL means the default of `Execution`, and all are NULL while it is in flight.
    Column("status", Words),
    Column("reason", Words),
    Column("stdout", Words),
    Column("stderr", Words),
    # How many have rows of their own, because they are long; NULL when none has.
    Column("results_apart", Integer),
    Column("results", Json),
    Column("error", Json),
    Column("artifacts", Json),
    Column("removed", Json),
    # A program can make its kernel say any number, also one that no integer column holds.
    Column("execution_count", Json),
    Column("duration_ms", Double),
    Column("cpu_ms", Double),
    Column("peak_memory_bytes", BigInteger),
    Column("truncated", Json),
    Column("state_lost", Boolean),
    Index(None, "session_id", "created_at", "id"),
)
# Few are in flight at any time, and a start of a node has to find them among all that ever were.
Index(
    "executions_in_flight",
    executions.c.session_id,
    sqlite_where=executions.c.ended_at.is_(None),
    postgresql_where=executions.c.ended_at.is_(None),
)

results = Table(
    "results",
    metadata,
    Column("execution_id", Words, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("bundle", JsonText, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("id", Words, primary_key=True),
    Column("session_id", Words, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("owner", Words, nullable=False),
    Column("path", Words, nullable=False),
    # A path can be longer than what PostgreSQL takes into an index.
    Column("path_digest", Words, nullable=False),
    Column("digest", Words, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mime", Words, nullable=False),
    Column("modified_at", Double, nullable=False),
    Column("uploaded", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("session_id", "path_digest"),
    Index(None, "owner", "size"),
    Index(None, "digest"),
)

kept_files = Table(
    "kept_files",
    metadata,
    Column("id", Words, primary_key=True),
    Column("owner", Words, nullable=False),
    Column("family", Words, nullable=False),
    Column("name", Words, nullable=False),
    Column("purpose", Words, nullable=False),
    Column("digest", Words, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mime", Words, nullable=False),
    Column("downloadable", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Index(None, "owner", "family", "created_at", "id"),
    Index(None, "owner", "size"),
    Index(None, "digest"),
    Index(None, "expires_at"),
)

objects = Table(
    "objects",
    metadata,
    Column("id", Words, primary_key=True),
    Column("owner", Words, nullable=False),
    Column("kind", Words, nullable=False),
    Column("parent", Words, nullable=False),
    Column("node", Words, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("body", Json, nullable=False),
    Index(None, "owner", "kind", "parent", "created_at", "id"),
    Index(None, "parent"),
    Index(None, "expires_at"),
)

claims = Table(
    "claims",
    metadata,
    Column("owner", Words, primary_key=True),
    Column("key", Words, primary_key=True),
    Column("fingerprint", Words, nullable=False),
    Column("resource", Words, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "created_at"),
)

traces = Table(
    "traces",
    metadata,
    Column("id", Words, primary_key=True),
    Column("owner", Words, nullable=False),
    # Not a reference: a trace may be of a session of no store, and outlives one that is purged.
    Column("session_id", Words),
    Column("model", Words, nullable=False),
    Column("prompt", Words, nullable=False),
    Column("ending", Words, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("executions", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost", Double),
    Column("records", Json, nullable=False),
    Index(None, "owner", "created_at", "id"),
    Index(None, "created_at", "id"),
)

pauses = Table(
    "pauses",
    metadata,
    Column("id", Words, primary_key=True),
    Column("owner", Words, nullable=False),
    Column("session_id", Words),
    Column("made", Boolean, nullable=False),
    Column("said", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "created_at"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("digest", Words, nullable=False),
    Column("limits", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    UniqueConstraint("digest"),
)
# A name may be given again once its key is revoked.
Index(
    "keys_living_name",
    keys.c.name,
    unique=True,
    sqlite_where=keys.c.revoked_at.is_(None),
    postgresql_where=keys.c.revoked_at.is_(None),
)
