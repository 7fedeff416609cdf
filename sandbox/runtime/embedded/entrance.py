"""The way of a kernel into a sandbox, whatever it comes from.

    join the pid namespace ─ fork ─ wait at the gate ─ contain ─ be a kernel

A zygote goes it again and again: its forks have the libraries and are kernels as soon as they are in. Where `start`
is `exec` there is no zygote. A child of the launcher's, without libraries, goes it once; its fork, contained, executes
an interpreter of its own, which imports them and becomes a kernel there (`guest.fresh`). So nothing that a library
does happens outside of a sandbox, or with a capability, and no two kernels have a page in common.

Where it can fail: before the fork, or at it (`failed`, or the end of the link without a word, and the launcher ends the
sandbox); at the gate, when the launcher says nothing any more, or in the containment (the fork ends, and the launcher,
whose child it is by then, tells init, who asks for another, three times). Standard library only: zygotes run this with
the image's Python.
"""

import contextlib
import json
import os
import socket
from collections.abc import Sequence
from typing import NoReturn

from sandbox.guest import birth, process, variables
from sandbox.runtime.embedded import jail, linux, mounts


def descriptors(namespaces: Sequence[int], gate: socket.socket) -> list[int]:
    """What goes along with a request. namespaces: open files of all of the sandbox's, the pid namespace first."""
    return [namespaces[0], gate.fileno(), *namespaces[1:]]


def join(request: birth.Request, fds: list[int]) -> None:
    """In the parent, right before the fork."""
    # Affects children only; the next request names another namespace, so there is no way back to restore.
    linux.setns(fds[0], linux.CLONE_NEWPID)


def enter(request: birth.Request, fds: list[int]) -> socket.socket:
    """In the fork: from the gate to the contained process, whose only open file, but for 0 to 2, is the gate."""
    _, gate_fd, *namespaces = fds
    gate = socket.socket(fileno=gate_fd)
    if gate.recv(1) != b"G":
        os._exit(0)
    jail.contain_kernel(jail.Cell(**request["cell"]), namespaces, keep={gate_fd})
    return gate


def execute(
    link: socket.socket, request: birth.Request, fds: list[int], python: str, user_namespace: int, *, single: bool
) -> NoReturn:
    """In a child of the launcher's: send a fork that executes `python`, and say on `link` which process that is."""
    try:
        process.reset_signals()
        process.close_all_but({link.fileno(), user_namespace, *fds})
        jail.become_user_root(user_namespace, single=single)
        os.close(user_namespace)
        jail.confine_zygote(single=single)

        def become(request: birth.Request, fds: list[int]) -> NoReturn:
            link.close()
            _become_interpreter(request, fds, python)

        answer = birth.bear(request, fds, join, become)
        process.close_all_but({link.fileno()})
        link.send(json.dumps(answer).encode())
        # The fork is ours until the launcher knows of it, so that it cannot hear of an end before the beginning.
        link.recv(1)
    except BaseException as error:
        with contextlib.suppress(OSError):
            link.send(json.dumps({"fork": request["fork"], "failed": f"{type(error).__name__}: {error}"}).encode())
    finally:
        os._exit(0)


def _become_interpreter(request: birth.Request, fds: list[int], python: str) -> NoReturn:
    gate = enter(request, fds)
    os.set_inheritable(gate.fileno(), True)
    # With `-m` the working directory is where modules are looked for first; in this one no program can leave any.
    os.chdir("/")
    arguments = [python, "-m", "sandbox.guest.fresh", str(gate.fileno()), mounts.PRELOAD]
    os.execve(python, arguments, variables.ZYGOTE | {"PYTHONPATH": mounts.CODE})
