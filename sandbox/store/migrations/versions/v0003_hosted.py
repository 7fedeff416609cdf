"""What programs written for the hosted interpreters make: files outside sessions, and objects of those APIs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables, and the columns that say where a session and its files come from."""
    op.add_column("sessions", sa.Column("family", sa.Text(), nullable=False, server_default=""))
    op.add_column("files", sa.Column("uploaded", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "kept_files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mime", sa.Text(), nullable=False),
        sa.Column("downloadable", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="kept_files_pkey"),
    )
    op.create_index("kept_files_owner_family_created_at_id", "kept_files", ["owner", "family", "created_at", "id"])
    op.create_index("kept_files_owner_size", "kept_files", ["owner", "size"])
    op.create_index("kept_files_digest", "kept_files", ["digest"])
    op.create_index("kept_files_expires_at", "kept_files", ["expires_at"])
    op.create_table(
        "objects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="objects_pkey"),
    )
    op.create_index(
        "objects_owner_kind_parent_created_at_id", "objects", ["owner", "kind", "parent", "created_at", "id"]
    )
    op.create_index("objects_parent", "objects", ["parent"])
    op.create_index("objects_expires_at", "objects", ["expires_at"])
