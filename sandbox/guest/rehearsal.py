"""Cells run before the fork, so that no fork of a zygote that is to have many pays for first times.

The first run of any Python function writes to its code object: counters, then specialised instructions. After a fork
each such write copies a page. So the zygote runs a few ordinary cells by the real path, whose link has nobody at its
other end, and forgets all they left but the warmth.
"""

import asyncio
import gc
import resource
import select
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sandbox.guest.streams import QUIET_S

if TYPE_CHECKING:
    from sandbox.guest.kernel import Kernel

PLAIN_CELLS = ("print(1)", "x = 1\nx", "def f(n):\n    return n\nf(2)", "1/0")
_ROUNDS = 12
"""CPython specialises a function after eight calls."""
_DESCRIPTORS = 1024
"""Whoever opens one gets the lowest that is free."""


def rehearse(kernel: "Kernel", cells: Sequence[str]) -> None:
    """In the zygote: run `cells` (and the plain ones) a few times, then put the kernel back to its first prompt."""
    _perform(kernel, [*PLAIN_CELLS * _ROUNDS, *tuple(cells) * 2], history=True)
    kernel.shell.reset(new_session=True)
    kernel.session.message_count = 0
    for name in ("last_type", "last_value", "last_traceback"):
        setattr(sys, name, None)


def recall(kernel: "Kernel") -> None:
    """In the zygote, last of all: the interpreter is to remember where it has looked up what a fork looks up first, not
    what imports did. A name that has to make room for another costs a fork a copy of the page that it is in.
    """
    clear: Callable[[], None] = getattr(sys, "_clear_type_cache", lambda: None)
    clear()
    for _ in range(2):
        touch(kernel)


def touch(kernel: "Kernel") -> None:
    """In a fork, while nobody waits: one request, so that the first real one finds its pages copied."""
    _perform(kernel, ["print(1)"], history=False)


def _perform(kernel: "Kernel", cells: Sequence[str], *, history: bool) -> None:
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = kernel.outputs
    for output in kernel.outputs:
        output.adopt()
        output.quiet_s = -1.0  # a burst would start its thread, and a zygote has but one
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(_run(kernel, cells, history))
    finally:
        loop.close()
        asyncio.set_event_loop(None)
        sys.stdout, sys.stderr = streams
        for output in kernel.outputs:
            output.quiet_s = QUIET_S


async def _run(kernel: "Kernel", cells: Sequence[str], history: bool) -> None:
    for code in cells:
        await kernel.run("rehearsal", code, {}, history)


def check_descriptors(allowed: set[int]) -> None:
    """Raise `RuntimeError` if anything but `allowed` is open: every fork would share it, offset and all."""
    if not _others(allowed):
        return
    gc.collect()  # they may be garbage, of which to be rid takes a tenth of a second
    if found := _others(allowed):
        raise RuntimeError(f"the zygote must not keep files open, and has descriptors {found}")


def _others(allowed: set[int]) -> list[int]:
    possible = range(min(_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    asked = select.poll()  # one call for all of them: in gVisor a thousand take as long as a cell
    for fd in possible:
        asked.register(fd, 0)
    closed = {fd for fd, told in asked.poll(0) if told & select.POLLNVAL}
    return sorted(set(possible) - closed - allowed)
