"""The tables of the first release that keeps anything."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "nodes",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("node", name="nodes_pkey"),
    )
    _sessions()
    _executions()
    _files()
    _claims()
    _keys()


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("idle_timeout_s", sa.Double(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_used_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double()),
        sa.Column("used", sa.Boolean(), nullable=False),
        sa.Column("single", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="sessions_pkey"),
    )
    op.create_index("sessions_owner_created_at_id", "sessions", ["owner", "created_at", "id"])
    op.create_index("sessions_node_status", "sessions", ["node", "status"])
    op.create_index("sessions_ended_at", "sessions", ["ended_at"])


def _executions() -> None:
    op.create_table(
        "executions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double()),
        sa.Column("status", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("stdout", sa.Text()),
        sa.Column("stderr", sa.Text()),
        sa.Column("results", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("artifacts", sa.Text()),
        sa.Column("removed", sa.Text()),
        sa.Column("execution_count", sa.Text()),
        sa.Column("duration_ms", sa.Double()),
        sa.Column("cpu_ms", sa.Double()),
        sa.Column("peak_memory_bytes", sa.BigInteger()),
        sa.Column("truncated", sa.Text()),
        sa.Column("state_lost", sa.Boolean()),
        sa.PrimaryKeyConstraint("id", name="executions_pkey"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="executions_session_id_fkey", ondelete="CASCADE"),
    )
    op.create_index("executions_session_id_created_at_id", "executions", ["session_id", "created_at", "id"])
    in_flight = sa.text("ended_at IS NULL")
    op.create_index(
        "executions_in_flight", "executions", ["session_id"], sqlite_where=in_flight, postgresql_where=in_flight
    )


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("path_digest", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mime", sa.Text(), nullable=False),
        sa.Column("modified_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="files_pkey"),
        sa.UniqueConstraint("session_id", "path_digest", name="files_session_id_path_digest_key"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="files_session_id_fkey", ondelete="CASCADE"),
    )
    op.create_index("files_owner_size", "files", ["owner", "size"])
    op.create_index("files_digest", "files", ["digest"])


def _claims() -> None:
    op.create_table(
        "claims",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="claims_pkey"),
    )
    op.create_index("claims_created_at", "claims", ["created_at"])


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="keys_pkey"),
        sa.UniqueConstraint("digest", name="keys_digest_key"),
    )
    living = sa.text("revoked_at IS NULL")
    op.create_index("keys_living_name", "keys", ["name"], unique=True, sqlite_where=living, postgresql_where=living)
