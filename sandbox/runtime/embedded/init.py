"""PID 1 of an embedded sandbox: from its first instruction, through mounts and confinement, to the relay."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any, NoReturn

from sandbox.guest import init, process
from sandbox.runtime.embedded import jail, mounts


def become(
    ids: mounts.Ids,
    shown: Sequence[mounts.Layer],
    request: dict[str, Any],
    channel: socket.socket,
    control: socket.socket,
    nodes: str,
    devices: Sequence[str],
) -> NoReturn:
    """Be PID 1. The stage must be the working directory.

    request: the launcher's `start`. nodes, devices: see `mounts.build`.
    """
    try:
        sizes = mounts.Sizes(**request["sizes"])
        mounts.build(shown, sizes, ids, proc=True, nodes=nodes, devices=devices)
        process.close_all_but({channel.fileno(), control.fileno()})
        jail.confine_init(ids)
        process.name_process("sandbox-init")
        control.send(b'{"mounted": true}')
        init.run(channel.fileno(), channel.fileno(), _LauncherSpawner(control), init.Policy(**request["policy"]))
    except BaseException as error:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
    finally:
        os._exit(72)


class _LauncherSpawner:
    """Init's way to a kernel: ask the launcher. The first one is on its way without asking."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._asked = False

    def fileno(self) -> int:
        return self._control.fileno()

    def request(self) -> None:
        if self._asked:
            self._control.send(b'{"kernel": true}')
        self._asked = True

    def news(self) -> init.Born | init.Died | None:
        packet, fds, _, _ = socket.recv_fds(self._control, 4096, 1)
        if not packet:
            raise EOFError
        # The launcher speaks only after the set-up process, our first parent, has ended: it is our parent now.
        process.die_with_parent(signal.SIGKILL)
        message = json.loads(packet)
        if "kernel" in message:
            return init.Born(int(message["kernel"]), socket.socket(fileno=fds[0]))
        return init.Died(int(message["died"]))

    def needed(self) -> set[int]:
        return set()  # launcher and zygote are outside
