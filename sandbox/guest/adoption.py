"""A process becomes a kernel's own. Before its program ends it, forks or signals somebody, what it printed goes out."""

import contextlib
import functools
import os
import sys
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.guest.kernel import Kernel

_SPAWNS = frozenset({"subprocess.Popen", "os.system", "os.posix_spawn"})
_SIGNALS = frozenset({"os.kill", "os.killpg"})


def adopt_process(kernel: "Kernel") -> None:
    """In the fork: whatever in the prepared kernel remembers a process remembers this one, and prints for it."""
    _import_from_workspace()
    kernel.ident = str(uuid.uuid4())
    kernel.session.pid = os.getpid()
    kernel.session.session = uuid.uuid4().hex
    for output in kernel.outputs:
        output.adopt()
    kernel._stdout, kernel._stderr = kernel.outputs
    sys.stdout, sys.stderr = kernel.outputs
    os.register_at_fork(before=flush, after_in_child=lambda: _forget(kernel))
    sys.addaudithook(functools.partial(audit, kernel))
    for name in ("_exit", "abort"):  # no audit event tells of these
        setattr(os, name, _flushed_before(kernel, getattr(os, name)))


def _import_from_workspace() -> None:
    """Make modules in the working directory importable, after the standard library, as Jupyter does."""
    libraries = (i for i, entry in enumerate(sys.path) if entry.endswith("site-packages"))
    sys.path.insert(next(libraries, len(sys.path)), "")


def flush() -> None:
    """Whatever the program has printed goes out, if its streams let it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _forget(kernel: "Kernel") -> None:
    kernel.link.detach()
    for output in kernel.outputs:
        output.after_fork_in_child()


def audit(kernel: "Kernel", event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: before somebody is started, signalled, or given a file as memory."""
    if event in _SPAWNS and os.getpid() == kernel.session.pid:
        kernel.settle()
    elif event in _SIGNALS and os.getpid() == kernel.session.pid:
        flush()
    elif event == "mmap.__new__":
        fd, _, access, _ = args
        kernel.mapped.on_map(fd, access)


def _flushed_before(kernel: "Kernel", end: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(end)
    def flushed(*args: Any, **kwargs: Any) -> Any:
        if os.getpid() == kernel.session.pid:
            flush()
        return end(*args, **kwargs)

    return flushed
