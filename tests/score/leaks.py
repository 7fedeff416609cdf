"""Sessions that leave canaries wherever they can, and look for those of the others, who come before, after and beside.

A canary is a mark of the whole run and the number of its session. Every session looks before it leaves its own, when
any mark is somebody else's; then it leaves them, and looks again, which shows that whoever looks finds what there is.
"""

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from sandbox.bench.process import Server
from sandbox.client import AsyncClient, AsyncSession
from sandbox.config import Settings
from sandbox.errors import SandboxFailed
from sandbox.execution import Status

_CLIENTS = 2
_BESIDE = 2
"""Sessions of a client that stay while the next one looks."""
_LEAST = 12
"""Places in which a session finds what it has left itself, or it has not looked."""

_BOTH = """
import builtins, contextlib, ctypes, fcntl, glob, json, mmap, numpy, os, pathlib, signal, socket, subprocess, sys
mark = "{half}" + "{other_half}"
libc = ctypes.CDLL(None, use_errno=True)
home = os.path.expanduser("~")
abstract, port, key = "\\0" + mark, 5017, 0x5017
KINDS = {{"shared memory": lambda flags: libc.shmget(key, 4096, flags),
         "semaphores": lambda flags: libc.semget(key, 1, flags),
         "messages": lambda flags: libc.msgget(key, flags)}}
"""
_PLANT = """
canary = f"{{mark}}-{number:04}"
child = subprocess.Popen([canary, "1000000"], executable="/usr/bin/sleep", env={{"CANARY": canary}})
places = ["/mnt/data/x", "/mnt/data/" + canary, "/mnt/data/__pycache__/x.pyc", "/tmp/x", "/dev/shm/x", f"{{home}}/x",
          f"{{home}}/.ipython/profile_default/startup/0.py", f"{{home}}/.local/lib/x.pth",
          f"{{home}}/.config/matplotlib/matplotlibrc"]
places += [os.path.join(path, "sitecustomize.py") for path in sys.path if path]
for path in places:
    with contextlib.suppress(OSError):
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(canary)
os.environ["CANARY"] = canary
for module in (builtins, os, numpy, sys, json):
    setattr(module, canary.replace("-", "_"), 1)
heard = socket.socket(socket.AF_UNIX)
heard.bind(abstract)
heard.listen()
served = socket.create_server(("127.0.0.1", port))
held = [make(0o1666) for make in KINDS.values()]
locked = open(json.__file__)
fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
hoard = canary.encode() * 200_000
"""
_LOOK = """
found = []
def look(place, text):
    for piece in text.split(mark)[1:]:
        found.append([place, piece[:5].partition("\\n")[0]])  # a socket's name is the mark alone
def read(path):
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(1 << 20).decode(errors="replace")
    return ""
walked = set()
for top in ("/mnt", "/mnt/data", "/tmp", "/dev/shm", "/home", "/root", "/var", "/run", home):
    for directory, _, names in os.walk(top):
        for name in [] if directory in walked else names:
            path = os.path.join(directory, name)
            look("file name " + directory, name)
            if os.path.isfile(path):
                look("file in " + directory, read(path))
        walked.add(directory)
look("environment", json.dumps(dict(os.environ)))
for kind in ("environ", "cmdline", "comm"):
    for path in glob.glob(f"/proc/[0-9]*/{{kind}}"):
        look(f"another process's {{kind}}", read(path))
for module in list(sys.modules.values()):
    look("module", " ".join(vars(module)) if hasattr(module, "__dict__") else "")
look("sockets", read("/proc/net/unix"))
with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
    sock.connect(abstract)
    found.append(["abstract socket", ""])
with contextlib.suppress(OSError):
    socket.create_connection(("127.0.0.1", port), 5).close()
    found.append(["port", ""])
for kind, make in KINDS.items():
    if make(0) >= 0:
        found.append([kind, ""])
with open(json.__file__) as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        found.append(["lock", ""])
with mmap.mmap(-1, 32 << 20) as pages:
    if pages.find(mark.encode()) >= 0:
        found.append(["fresh memory", ""])
print(json.dumps(found))
"""


@dataclass
class Leaks:
    """What came of it."""

    sessions: int = 0
    canaries: int = 0
    """Found by those who had left them."""
    places: dict[str, int] = field(default_factory=dict)
    """Where those were, by kind: in how many sessions."""
    leaks: list[str] = field(default_factory=list)
    """Found by anybody else."""


async def leaks(settings: Settings, sessions: int) -> Leaks:
    """So many sessions, on a server of these settings. Raises `SandboxFailed` when one does not look."""
    tally, mark = Leaks(), f"cn{secrets.token_hex(4)}"
    numbers = iter(range(sessions))
    async with Server.open(settings, pool=2) as server, AsyncClient(server.url) as client:
        await asyncio.gather(*(_client(client, tally, mark, numbers) for _ in range(_CLIENTS)))
    return tally


async def _client(client: AsyncClient, tally: Leaks, mark: str, numbers: Iterator[int]) -> None:
    beside: deque[AsyncSession] = deque()
    try:
        for number in numbers:
            session = await client.open_session()
            beside.append(session)
            await _session(session, tally, mark, number)
            if len(beside) > _BESIDE:
                await beside.popleft().close()
    finally:
        for session in beside:
            with contextlib.suppress(SandboxFailed):
                await session.close()


async def _session(session: AsyncSession, tally: Leaks, mark: str, number: int) -> None:
    both = _BOTH.format(half=mark[:5], other_half=mark[5:])
    look, plant = both + _LOOK.format(), both + _PLANT.format(number=number)
    before = await _found(session, look)
    await _run(session, plant)
    after = await _found(session, look)
    own = [place for place, whose in after if whose in ("", f"-{number:04}", f"_{number:04}")]
    tally.sessions += 1
    tally.canaries += len(own)
    for kind in {place.split(" /")[0] for place in own}:
        tally.places[kind] = tally.places.get(kind, 0) + 1
    tally.leaks += [f"session {number} found {place} of {whose or 'somebody'}" for place, whose in before]
    tally.leaks += [f"session {number} found {place} of {whose}" for place, whose in after if place not in own]
    if len(own) < _LEAST:
        raise SandboxFailed(f"a session finds only {own} of its own canaries, so that it would not find others'")


async def _found(session: AsyncSession, look: str) -> list[tuple[str, str]]:
    """Places, and the number there was with the mark."""
    return [(place, whose) for place, whose in json.loads(await _run(session, look))]


async def _run(session: AsyncSession, code: str) -> str:
    execution = await session.execute(code, 60)
    if execution.status is not Status.OK:
        raise SandboxFailed(f"a session could not look or leave anything: {execution}")
    return execution.stdout
