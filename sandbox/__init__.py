"""A self-hosted code interpreter: untrusted Python in warm, forked, contained Jupyter kernels.

Theory of operation
===================

Five kinds of process work together on one machine::

    server          parses requests, holds no kernel code           (`sandbox serve`, or your program)
      └─ launcher   makes namespaces, cgroups and uids; small       runtime/embedded/launcher.py
           ├─ zygote    one per image: heavy imports, then forks    guest/zygote.py
           └─ init      PID 1 of each sandbox: relay and deadline   guest/init.py
                └─ kernel   forked by the zygote INTO the sandbox   guest/kernel.py

A *sandbox* is one isolated process tree: its own user, mount, network, pid, ipc, uts and cgroup namespaces, an own
uid, no capabilities, a seccomp allow-list, Landlock, hard caps on memory, processes, disk and time. It serves one
*session* and is never used again. Starting one is a fork: the zygote has imported the libraries and built the kernel's
objects once, so a contained kernel with all of them costs some tens of milliseconds of work, and nothing when the
*pool* has made it beforehand. Where that is set, `start=exec`, there is no zygote: an interpreter is executed for each
kernel, in its sandbox, so that no two have a page of memory in common; that takes about a second.

An *execution* travels as one frame over the sandbox's *channel*, a socketpair inherited at fork, to init, which
hands it to the kernel over their *link*, another socketpair; outputs come back the same way, bounded and counted.
Everything that leaves a sandbox is taken as written by an attacker: user code shares the kernel's process. So how an
execution ended (`Status`) is decided by the host, from the cgroup's counters, the wait status and our own clock.

A program may be lent functions of its caller's and await them: the call leaves as a frame, the answer comes back as
one, and meanwhile the execution's time stands still (`calls.py`, `guest/calls.py`).

Time is kept twice. Init interrupts at the deadline, kills after two more seconds and asks the launcher for a new
kernel; if init itself should fail, the host destroys the whole sandbox. Files live in `/mnt/data` and are read and
written by init, inside, with the program's own rights; the host never opens a path a program can influence.

If the server dies, the launcher sees its socket close and ends every sandbox; if the launcher dies, every init gets
SIGKILL from the kernel. The next engine removes what cgroups are left. The jail itself is one flat list of
steps in `runtime/embedded/jail.py`; a step that fails ends the sandbox, and nothing runs in it unverified.

On the Docker *runtime* (`runtime/docker/`) a sandbox is a container. There is no launcher: the daemon makes it as
`options.py` says, its init (`guest/container/`) dials a socket that is shown to it alone, or speaks over stdin and
stdout, and starts a zygote of its own, so that every later kernel is a fork there, too. Kernel, pool and session know
nothing of the difference. Containers bear a mark by which the next engine knows what a dead one has left.

The *engine* ends there: sessions that live as long as the process. A *node* is an engine that remembers. Its sessions
(`durable.py`) have rows in SQL and files by digest, belong to owners, are admitted against the machine's memory, and
get a sandbox whenever one is needed. An execution is written down before its outputs are shown and again before its
end is told, its files between; so `kill -9` at any moment loses nothing that somebody was told. `api/` is HTTP in,
values out; `client/` is its other side.

The *loop* (`loop/`) is a model, the tool `run_python`, and turns until an answer. What it says to models is values, and
each vendor's wire format a pair of pure functions, used for calling upstreams and for serving programs alike. It sees a
session through six lines (`loop/interpreter.py`), of which `interpreters/` has three kinds. What happened is a *trace*
(`traces/`); `chats/` runs loops over a node's sessions for the API and `sandbox chat` over an engine's.

Imports point one way: cli → api → chats → node → engine → loop → session → pool → kernel → runtime, with stores, values
and errors at the bottom; `guest` is an island.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.config import Settings
    from sandbox.engine import Engine, run
    from sandbox.errors import SandboxError
    from sandbox.execution import (
        Answer,
        Artifact,
        Called,
        Calls,
        Error,
        Execution,
        Functions,
        Limits,
        Result,
        Spec,
        Status,
        Stream,
        Truncated,
    )
    from sandbox.remote import File
    from sandbox.session import Session
else:

    def __getattr__(name: str) -> object:
        # Looked up when asked for: a launcher's program lies in this package, too, and every process that it forks
        # would begin with a copy of the engine and of all that the engine needs.
        if name in __all__:
            for module in ("errors", "execution", "config", "remote", "session", "engine"):
                if (value := getattr(import_module(f"sandbox.{module}"), name, None)) is not None:
                    globals()[name] = value
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Artifact",
    "Called",
    "Calls",
    "Engine",
    "Error",
    "Execution",
    "File",
    "Functions",
    "Limits",
    "Result",
    "SandboxError",
    "Session",
    "Settings",
    "Spec",
    "Status",
    "Stream",
    "Truncated",
    "run",
]
