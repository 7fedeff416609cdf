"""A process that holds copies of descriptors, and gives them to who comes for them once their owner is dead.

Run as a file, by `fdstore.FdStore`, so that it loads next to nothing. Its owner's packets say `+name` with a descriptor
or `-name`. When there is no owner any more, one heir is sent all that is left in the same way, if one comes in time;
then it ends, and what nobody else has is closed.
"""

import os
import socket
import sys

KEEP, DROP = b"+", b"-"
PATIENCE_S = 1.0
"""How long a heir is waited for between two packets."""
_PACKET = 256


def receive(sock: socket.socket) -> tuple[bytes, bytes, int] | None:
    """What a packet says, of which name, and its descriptor, -1 for none. None at the end."""
    packet, fds, _, _ = socket.recv_fds(sock, _PACKET, 1)
    for fd in fds:
        os.set_inheritable(fd, False)
    return (packet[:1], packet[1:], fds[0] if fds else -1) if packet else None


def send(sock: socket.socket, kind: bytes, name: bytes, *fds: int) -> None:
    """A packet as `receive` has it."""
    socket.send_fds(sock, [kind + name], fds)


def _held_at_the_end_of(owner: socket.socket) -> dict[bytes, int]:
    held = dict[bytes, int]()
    while received := receive(owner):
        kind, name, fd = received
        if name in held:
            os.close(held.pop(name))
        if kind == KEEP and fd >= 0:
            held[name] = fd
    return held


def _hand_over(held: dict[bytes, int], listener: socket.socket, seconds: float) -> None:
    listener.settimeout(seconds)
    try:
        heir, _ = listener.accept()
    except TimeoutError:
        return
    with heir:
        heir.settimeout(PATIENCE_S)
        for name, fd in held.items():
            send(heir, KEEP, name, fd)


def main(owner: int, listener: int, seconds: float) -> None:
    """Hold what the socket `owner` brings, and then wait for a heir at `listener` so long."""
    held = _held_at_the_end_of(socket.socket(fileno=owner))
    if held:
        _hand_over(held, socket.socket(fileno=listener), seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
