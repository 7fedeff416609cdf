"""How much later than promised a program is told to have run out of time.

What is promised is the timeout, and two seconds more to a program that does not end when it is interrupted, because it
gets those before it is killed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.bench.connection import Connection
from sandbox.bench.figure import Figure, quantiles, runs
from sandbox.bench.process import Server
from sandbox.errors import SandboxFailed

_TIMEOUT_S = 0.3
_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Overtime:
    """A program that does not end by itself."""

    does: str
    code: str
    usual: int
    """How often it is run."""
    deaf: bool = False
    """Whether an interrupt does not end it, so that it is killed."""


OVERTIMES: Mapping[str, Overtime] = {
    "loop": Overtime("loops", "while True: pass", 30),
    "sleep": Overtime("sleeps", "import time\ntime.sleep(1e6)", 30),
    "child": Overtime("waits for a child", "import subprocess\nsubprocess.run(['sleep', '1000000'])", 20),
    "threads": Overtime(
        "waits for threads that loop",
        "import threading\n"
        "def spin():\n    while going: pass\n"
        "going = True\n"
        "threads = [threading.Thread(target=spin) for _ in range(8)]\n"
        "try:\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
        "finally: going = False",
        20,
    ),
    "prints": Overtime("prints", "while True: print('x' * 1000)", 20),
    "interpreter": Overtime(
        "does not let go of the interpreter", "import itertools\nsum(itertools.repeat(0))", 15, deaf=True
    ),
    "ignores": Overtime(
        "ignores interrupts",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        15,
        deaf=True,
    ),
    "catches": Overtime(
        "catches interrupts",
        "while True:\n    try:\n        while True: sum(range(1000))\n    except BaseException: pass",
        15,
        deaf=True,
    ),
}


async def overshoot(server: Server, scale: float, overtimes: Mapping[str, Overtime] = OVERTIMES) -> list[Figure]:
    """One after the other in a session, until the answer is here; what HTTP takes is in it."""
    figures, late = [], list[float]()
    async with server.connect(1) as (connection,):
        for overtime in overtimes.values():
            times = await _late(server, connection, overtime, runs(overtime.usual, scale))
            figures.append(Figure(f"too late when it {overtime.does}, longest", max(times), "ms", 250, 100, len(times)))
            late += times
    p50, p99 = quantiles(late)
    return [
        Figure("too late, of all timeouts, p50", p50, "ms", 100, 50, len(late)),
        Figure("too late, of all timeouts, p99", p99, "ms", 250, 100, len(late)),
        *figures,
    ]


async def _late(server: Server, connection: Connection, overtime: Overtime, count: int) -> list[float]:
    """Milliseconds beyond what was promised."""
    opened = await connection.ask("POST", "/v1/sessions", b"{}", wanted=201)
    path = f"/v1/sessions/{json.loads(opened.body)['id']}"
    await server.settle(sessions=1)  # not into the first: what it costs to replace the sandbox that this one has
    body = json.dumps({"code": overtime.code, "timeout_s": _TIMEOUT_S}).encode()
    times = []
    for _ in range(count):
        answer = await connection.ask("POST", f"{path}/executions", body)
        execution = json.loads(answer.body)
        if execution["status"] != "timeout" or execution["state_lost"] < overtime.deaf:
            raise SandboxFailed(f"what {overtime.does} did not run out of time: {answer.body[:500]!r}")
        # On a busy machine one that can hear may be as late to end as one that is deaf, and is killed as well.
        times.append(answer.ms - 1000 * (_TIMEOUT_S + _GRACE_S * execution["state_lost"]))
        await connection.ask("POST", f"{path}/executions", b'{"code": "1"}')  # not into the next: a new kernel's start
    await connection.ask("DELETE", path)
    return times
