"""API keys: what a caller proves itself with, and what its owner may have."""

import dataclasses
import hashlib
import secrets
from dataclasses import dataclass

from sandbox.errors import InvalidLimits, InvalidRequest

_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The most that one owner may have; None is no limit. Raises `InvalidLimits` for a negative one."""

    sessions: int | None = None
    """Open at a time."""
    running: int | None = None
    """Executions at a time."""
    per_minute: int | None = None
    """Executions."""
    stored_bytes: int | None = None
    """Bytes of files that are kept."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 0:
                raise InvalidLimits(f"{field.name} is {value}; choose 0 or more, or none for no limit")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom sessions and files belong to: the id of a key, or `LOCAL`."""

    id: str
    limits: KeyLimits


LOCAL = Owner("local", KeyLimits())
"""Who calls on loopback when no key has been made."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is stored: its secret cannot be told from it. Times are seconds since the epoch."""

    id: str
    name: str
    digest: str
    limits: KeyLimits
    created_at: float
    revoked_at: float | None = None


def new_key(name: str, limits: KeyLimits, now: float) -> tuple[str, KeyRow]:
    """The secret, which is nowhere else and goes to the caller, and the row to store.

    name: for people, 1 to 100 printable characters. now: seconds since the epoch. Raises `InvalidRequest`.
    """
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise InvalidRequest(f"a key's name has 1 to {_MAX_NAME} printable characters; {name[:_MAX_NAME]!r} has not")
    key_id = secrets.token_hex(4)
    # The id in front tells people which key they look at, and the prefix tells scanners of leaked secrets what it is.
    secret = f"sbx_{key_id}_{secrets.token_urlsafe(32)}"
    return secret, KeyRow(key_id, name, digest(secret), limits, now)


def digest(secret: str) -> str:
    """What is stored of a secret, hex. One round will do: nobody guesses 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
