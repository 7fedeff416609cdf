"""What Alembic runs to migrate. The connection, and the transaction around it all, are those of `migrating.py`.

A new migration is a file beside the others, written by hand and never changed once released.
"""

from alembic import context

from sandbox.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
