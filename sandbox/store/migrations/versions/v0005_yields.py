"""Whether a session's sandbox is there for others when memory is short."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; no session did before."""
    op.add_column("sessions", sa.Column("yields", sa.Boolean(), nullable=False, server_default=sa.false()))
