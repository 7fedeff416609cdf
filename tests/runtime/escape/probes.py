"""Probes: a few lines of Python that run in a sandbox, where they must fail, and on the host, where they must not.

A probe that works nowhere proves nothing. What a sandbox says about itself is believed only when it admits defeat;
where it could lie, the host is asked.
"""

import contextlib
import functools
import json
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox.execution import Status
from sandbox.session import Session
from tests.host import named

PRELUDE = """
import contextlib, ctypes, errno, fcntl, glob, json, mmap, os, resource, signal, socket, struct, subprocess, sys
import tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def syscall(number, *arguments):
    wide = [item if isinstance(item, (bytes, ctypes.Array)) else ctypes.c_long(item) for item in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def in_child(function):
    # The outcome of something that a process cannot undo: an errno's name, "done", or the signal it died of.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                function()
                word = "done"
            except OSError as error:
                word = errno.errorcode.get(error.errno, str(error.errno))
            os.write(writer, word.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        word = file.read()
    _, status = os.waitpid(pid, 0)
    return word or signal.Signals(os.WTERMSIG(status)).name

@contextlib.contextmanager
def held_child(function=lambda: None):
    # A child that has called this and does nothing more until the block is over.
    go, wait = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)
            function()
            os.write(wait, b"!")
            signal.pause()
        finally:
            os._exit(0)
    os.close(wait)
    os.read(go, 1)
    os.close(go)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""
TRY = """
def probe():
{body}

try:
    print(probe() or "done")
except OSError as error:
    print(errno.errorcode.get(error.errno, error.errno))
"""
OUTSIDE = """
syscall(272, 0x20000 | 0x4000000)  # unshare(CLONE_NEWNS | CLONE_NEWUTS): a probe that succeeds must not harm the host
libc.mount(b"none", b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None)
"""


def script(probe: str) -> str:
    """The program that prints what a probe says."""
    return TRY.format(body=textwrap.indent(textwrap.dedent(probe).strip(), "    "))


async def inside(session: Session, probe: str, timeout: float = 30.0) -> str:
    """What the probe says in the sandbox: `done`, an errno's name, or words of its own."""
    execution = await session.execute(PRELUDE + script(probe), timeout)
    assert execution.status is Status.OK, (execution.status, execution.reason, execution.error, execution.stderr)
    return execution.stdout.strip()


async def told(session: Session, probe: str) -> Any:
    """The JSON that a probe returns in the sandbox."""
    return json.loads(await inside(session, probe))


@functools.cache
def outside_once(probe: str) -> str:
    """`outside`, for probes that say the same every time."""
    return outside(probe)


def outside(probe: str) -> str:
    """The same on the host as root, in a mount and host name namespace of its own."""
    code = PRELUDE + OUTSIDE + script(probe)
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


async def pid_of(session: Session) -> int:
    """The session's kernel, as the host numbers it."""
    name = secrets.token_hex(7)
    await inside(session, f"libc.prctl(15, b'{name}', 0, 0, 0)")
    [pid] = named(name)
    return pid


@contextlib.contextmanager
def canary(directory: Path) -> Iterator[Path]:
    """A file of the host with a secret in it."""
    path = directory / f"canary-{secrets.token_hex(8)}"
    path.write_text(secrets.token_hex(16))
    try:
        yield path
    finally:
        path.unlink()
