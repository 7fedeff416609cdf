"""Many short files at once."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from sandbox.files.disk import MANY, Disk


def place(incoming: Path, contents: Mapping[Path, bytes]) -> None:
    """Each under its path, unless it is there already. When this returns, a power cut cannot take them. Blocks.

    incoming: where they are written first, on the same filesystem. Whatever ends it early leaves nothing there.
    """
    drafts = {path: incoming / secrets.token_hex(16) for path in contents if not path.exists()}
    with Disk.of(incoming) as disk:
        try:
            for path, draft in drafts.items():
                _write(draft, contents[path], durably=len(drafts) < MANY)
            if len(drafts) >= MANY:
                disk.sync(drafts.values())
            for path, draft in drafts.items():
                draft.rename(path)
        except BaseException:
            for draft in drafts.values():
                draft.unlink(missing_ok=True)
            raise
        # Of those that were there, too: whoever put them there may not have come so far.
        disk.sync({path.parent for path in contents})


def _write(path: Path, content: bytes, *, durably: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if durably:
            os.fsync(fd)
    finally:
        os.close(fd)
