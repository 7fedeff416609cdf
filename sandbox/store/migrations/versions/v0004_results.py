"""Long results get rows of their own, so that no write is long."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make their table, and the column that says how many an execution has in it."""
    op.add_column("executions", sa.Column("results_apart", sa.Integer()))
    op.create_table(
        "results",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "place", name="results_pkey"),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name="results_execution_id_fkey", ondelete="CASCADE"
        ),
    )
