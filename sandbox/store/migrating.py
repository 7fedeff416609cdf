"""How a database of an older release comes to the schema of this one."""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from sandbox.errors import Unready
from sandbox.store.database import shown

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x73616E64626F78  # "sandbox", for pg_advisory_xact_lock
_migrating = threading.Lock()  # Alembic keeps what it is doing in module globals


def migrate(connection: Connection) -> None:
    """Bring it up to date, if nobody else has done so meanwhile. Raises `Unready` for a schema of a newer release."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    if _is_current(connection, script):
        return
    with _migrating:
        # One transaction around all of it: whoever comes second waits here, then finds nothing to do.
        is_sqlite = connection.dialect.name == "sqlite"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else "BEGIN")
        try:
            if not is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.invalidate()  # which rolls back
            raise


def _is_current(connection: Connection, script: ScriptDirectory) -> bool:
    """Raises `Unready` for a schema of a newer release."""
    revision = MigrationContext.configure(connection).get_current_revision()
    known = [found.revision for found in script.walk_revisions()]
    if revision is not None and revision not in known:
        raise Unready(
            f"the database {shown(connection.engine.url)} is of a newer release (schema {revision}, "
            f"this one knows {known[0]} at most); upgrade this server, or use another database"
        )
    return revision == known[0]
