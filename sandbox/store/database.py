"""Which database a URL means, how it is made ready, and what its errors say."""

import contextlib
import os
import time
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from sandbox.errors import InvalidSetting, SessionMissing, TooLarge, Unready
from sandbox.store.schema import REVISION

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_FORMS = "write it as `sqlite:////path` or `postgresql+psycopg://user:password@host/name`"
LOG_BYTES = 64 << 20
"""Of SQLite's log on the disk, once it begins anew."""
_BUSY_S = 10.0
"""How long a write of another process is waited for."""
_POSTGRESQL = {
    "client_encoding": "utf8",
    "connect_timeout": 10,
    # A server that vanished is noticed within half a minute, not after the two hours of TCP.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def connect(url: str, connections: int) -> Engine:
    """The engine of a URL, in autocommit, for this many connections at a time; none is made yet.

    Raises `InvalidSetting`, never with a password in it.
    """
    parsed = _parse(url)
    is_sqlite = parsed.drivername == "sqlite"
    arguments = {"timeout": _BUSY_S} if is_sqlite else {k: v for k, v in _POSTGRESQL.items() if k not in parsed.query}
    if is_sqlite:
        _create_file(parsed)
    try:
        engine = create_engine(
            parsed,
            connect_args=arguments,
            hide_parameters=True,  # errors are logged, code and outputs are not
            isolation_level="AUTOCOMMIT",
            max_overflow=0,
            pool_size=connections,
        )
    except ImportError as error:
        raise InvalidSetting("PostgreSQL needs its driver: pip install 'psycopg[binary]'") from error
    if is_sqlite:
        event.listen(engine, "connect", _configure_sqlite)
    return engine


def prepare(engine: Engine) -> None:
    """Bring the database to the schema of this release; several processes may do so at once.

    Raises `Unready` when it cannot be reached or is of a newer release, `InvalidSetting` when it cannot hold our text.
    """
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                _enter_wal(connection)
            elif (encoding := connection.exec_driver_sql("SHOW server_encoding").scalar_one()) != "UTF8":
                raise InvalidSetting(f"the database {shown(engine.url)} is encoded in {encoding}; make one in UTF8")
            if _revision(connection) != REVISION:
                from sandbox.store import migrating  # Alembic takes a quarter of a second to import, for once a release

                migrating.migrate(connection)
    except DBAPIError as error:
        words = f"the database {shown(engine.url)} cannot be used: {_words(error)}. Start it, or correct database_url"
        raise Unready(words) from error


def is_there(url: str) -> bool:
    """Whether anything can have been kept there: not in a file that is yet to be made. Raises `InvalidSetting`."""
    parsed = _parse(url)
    try:
        return parsed.drivername != "sqlite" or Path(parsed.database or "").exists()
    except OSError:
        return True  # who opens it is told what is wrong


def shown(url: URL) -> str:
    """The URL for people: without its password, and without the query, which may have one, too."""
    return url.set(query={}).render_as_string(hide_password=True)


def explained(error: DBAPIError) -> Exception:
    """What went wrong in a statement, as one of our errors; a fault of ours stays as it is."""
    cause = error.orig
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    if code in ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY"):  # every foreign key leads to a session
        return SessionMissing("the session is gone; open a new one")
    if isinstance(error, DataError):
        return TooLarge("the database takes no value of this size")
    if isinstance(error, OperationalError) or error.connection_invalidated:
        return Unready(f"the database failed: {_words(error)}")
    return error


def is_taken(error: IntegrityError) -> bool:
    """Whether a value that has to be unique was there already."""
    cause = error.orig
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return code in ("23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")


def _words(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0].rstrip(".")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # What it says may have the password in it.
        raise InvalidSetting(f"database_url is not the URL of a database; {_FORMS}") from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise InvalidSetting(f"database_url names {parsed.drivername}, which is not supported; {_FORMS}")
    if driver == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidSetting(f"database_url names no file, so that nothing would outlive the server; {_FORMS}")
    return parsed.set(drivername=driver)


def _create_file(url: URL) -> None:
    """An empty file for us alone: SQLite would make one that others may read, and its companions take after it."""
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never opened when it exists: closing it would drop the locks that SQLite has on it in this process.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise InvalidSetting(f"the database {path} cannot be made: {error.strerror}; correct database_url") from error


def _configure_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    # In WAL mode a commit survives the death of any process at once, and a power cut once the log is on the disk; a
    # power cut may take back the last commits, never half of one. FULL would cost an fsync for each.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    # Checkpoints are taken beside the writes; a writer only has to when it is so far ahead that they never get done.
    cursor.execute("PRAGMA wal_autocheckpoint = 65536")
    cursor.close()


def _enter_wal(connection: Connection) -> None:
    """It lasts: the file remembers. SQLite does not wait its busy timeout for this one, so we do."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            busy = getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _revision(connection: Connection) -> str | None:
    """Of the schema that is there."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
    return revision
