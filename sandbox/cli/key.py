"""`sandbox key create`, `list` and `revoke`, also beside a running server: it sees the change within a second."""

import asyncio
import dataclasses
import json
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import make_url

from sandbox.cli.view import line, note
from sandbox.config import Settings
from sandbox.errors import InvalidSetting, NotFound
from sandbox.execution import MIB
from sandbox.keys import KeyLimits, KeyRow, new_key
from sandbox.store import Store
from sandbox.store.database import shown

app = typer.Typer(
    help="Keys for the server: who may use it, and how much of it.", no_args_is_help=True, add_completion=False
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For whom or what it is.")],
    sessions: Annotated[int | None, typer.Option(metavar="N", min=0, help="Open sessions.")] = None,
    running: Annotated[int | None, typer.Option(metavar="N", min=0, help="Executions that run or wait.")] = None,
    per_minute: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Executions and sessions in a minute.")
    ] = None,
    stored_mb: Annotated[int | None, typer.Option(metavar="N", min=0, help="MiB of files.")] = None,
) -> None:
    """Make a key and print its secret, the only time that it can be seen. Limits not given are the settings'."""
    stored_bytes = None if stored_mb is None else stored_mb * MIB
    secret, row = new_key(name, KeyLimits(sessions, running, per_minute, stored_bytes), time.time())
    is_first = asyncio.run(_add(row))
    print(secret, flush=True)
    note(f"made key {row.id} for {row.name}; keep the secret, it is not shown again")
    if is_first:
        note("it is the first: from now on nobody gets in without a key, and what was made without one is out of reach")


async def _add(row: KeyRow) -> bool:
    """Whether there was none before."""
    async with Store.open(_database()) as store:
        is_first = not await store.keys()
        await store.add_key(row)
        return is_first


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """The keys and their limits, the revoked ones too. No secret is known any more."""
    rows = asyncio.run(_keys())
    if as_json:
        print(json.dumps([_document(row) for row in rows]))
        return
    if not rows:
        note(f"there is no key in {shown(make_url(Settings().database))}; a server on loopback takes everybody")
    for row in rows:
        state = ("revoked", "red") if row.revoked_at else ("valid", "green")
        line((row.id, "bold"), "  ", state, f"  {_time(row.created_at)}  {row.name}  {_limits(row.limits)}".rstrip())


async def _keys() -> tuple[KeyRow, ...]:
    async with Store.look_into(Settings().database) as store:
        return await store.keys() if store else ()


@app.command()
def revoke(key: Annotated[str, typer.Argument(metavar="ID", help="A key's id or name.")]) -> None:
    """Refuse a key from now on. Its sessions go on and end as others do."""
    if not asyncio.run(_revoke(key)):
        raise NotFound(f"there is no valid key {key!r}; sandbox key list shows them")
    note(f"revoked {key}")
    if all(row.revoked_at for row in asyncio.run(_keys())):
        note("no valid key is left: the server is locked until `sandbox key create` makes another")


async def _revoke(key: str) -> bool:
    async with Store.look_into(Settings().database) as store:
        return store is not None and await store.revoke_key(key, time.time())


def _database() -> str:
    settings = Settings()
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"data_dir is {settings.data_dir}, which cannot be had: {error.strerror}") from error
    return settings.database


def _document(row: KeyRow) -> dict[str, object]:
    return {
        "id": row.id,
        "name": row.name,
        "limits": dataclasses.asdict(row.limits),
        "created_at": _time(row.created_at),
        "revoked_at": _time(row.revoked_at) if row.revoked_at else None,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _limits(limits: KeyLimits) -> str:
    given = ((name, value) for name, value in dataclasses.asdict(limits).items() if value is not None)
    return ", ".join(f"{name} {value}" for name, value in given)
