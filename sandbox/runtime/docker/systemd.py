"""systemd's file descriptor store, where it has started us and our unit has one.

sd_notify(3), `FDSTORE=1` and `FDSTOREREMOVE=1`; what it has kept comes with the environment of the next start, as
sd_listen_fds(3) has it. It cannot be asked whether there is a store, and ignores us when there is none.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque

_PREFIX = "sandbox-"
"""Of our names: there may be others in the same store."""
_FIRST = 3
_AGAIN_S = 0.1


class Systemd:
    """Our end of its notification socket."""

    def __init__(self, address: str | None) -> None:
        """address: as `NOTIFY_SOCKET` has it; None where there is no systemd."""
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._unsaid = deque[str]()
        """Removals that it had no room for."""

    @classmethod
    def of_environment(cls) -> "Systemd":
        """The one that has started this process, if any."""
        return cls(os.environ.get("NOTIFY_SOCKET"))

    def keep(self, name: str, fd: int) -> None:
        """Store a copy of `fd`, if there is room."""
        if self._address is not None and not self._unsaid:
            with contextlib.suppress(OSError):
                self._say(f"FDSTORE=1\nFDNAME={_PREFIX}{name}\nFDPOLL=0", fd)

    def drop(self, name: str) -> None:
        """Close the copy: now or, where it does not listen, as soon as it does."""
        if self._address is not None:
            self._unsaid.append(f"FDSTOREREMOVE=1\nFDNAME={_PREFIX}{name}")
            if len(self._unsaid) == 1:
                self._say_all()

    def inherit(self) -> dict[str, int]:
        """All that it has kept of ours, by name, once; it is told to close its own. The descriptors are the caller's.

        What it keeps of others stays where they look for it.
        """
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            return {}
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        found = {name.removeprefix(_PREFIX): fd for fd, name in enumerate(names, _FIRST) if name.startswith(_PREFIX)}
        for name, fd in found.items():
            os.set_inheritable(fd, False)
            self.drop(name)
        if found:  # the others are still of the same numbers
            os.environ["LISTEN_FDNAMES"] = ":".join("" if name.startswith(_PREFIX) else name for name in names)
        return found

    def _say_all(self) -> None:
        try:
            while self._unsaid:
                self._say(self._unsaid[0])
                self._unsaid.popleft()
        except BlockingIOError:
            asyncio.get_running_loop().call_later(_AGAIN_S, self._say_all)
        except OSError:  # it is not there, and has nothing
            self._unsaid.clear()

    def _say(self, words: str, *fds: int) -> None:
        assert self._address is not None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self._address)
            socket.send_fds(sock, [words.encode()], fds)
