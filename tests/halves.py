"""The suite in two processes at once: `scripts/test --halves [pytest's arguments]`, as CI runs it.

Tests mostly wait for one process that they have started, so that one processor of two is idle. What needs a Docker
daemon is in the first half, so that there is one daemon, and each image is built once. The halves disturb each other
no more than two people do who test on one machine: whatever a test takes of it bears the name of an engine or a daemon
of its own.
"""

import collections
import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

HALVES = ("first", "second")
_TESTS = Path(__file__).parent
_FIRST = tuple(_TESTS / name for name in ("compat", "recipes", "runtime", "test_deploy.py"))
"""Besides whatever asks for the daemon; chosen so that the halves take about as long."""
_CLOSING = re.compile(r"^(=+ )?\d+ \w+.* in [\d.]+s")
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|deselected|errors?|warnings?|xfailed|xpassed)")
_NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)


def half_of(item: pytest.Item) -> str:
    """One of `HALVES`."""
    first = "docker" in getattr(item, "fixturenames", ()) or any(map(item.path.is_relative_to, _FIRST))
    return HALVES[0] if first else HALVES[1]


def verdict(codes: Sequence[int]) -> int:
    """The exit code of both together; who was killed by a signal has a negative one."""
    # Arguments may leave one half without tests.
    ran = [code if code >= 0 else 128 - code for code in codes if code != _NO_TESTS]
    return max(ran, default=_NO_TESTS)


def main(arguments: Sequence[str]) -> int:
    """Run both, and say what they say with the name of the half before each line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        halves = [stack.enter_context(_running(half, arguments, said)) for half in HALVES]
        code = verdict([half.wait() for half in halves])
    print(closing_line(said, time.monotonic() - began), flush=True)
    return code


def closing_line(said: Sequence[str], seconds: float) -> str:
    """What pytest says last, of both together. said: all lines of both."""
    counts: collections.Counter[str] = collections.Counter()
    for line in said:
        if _CLOSING.search(line):
            counts.update({kind: int(number) for number, kind in _COUNT.findall(line)})
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items())) or "no tests ran"
    return f" {told} in {seconds:.2f}s ".center(80, "=")


@contextlib.contextmanager
def _running(half: str, arguments: Sequence[str], said: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """pytest over this half; interrupted with us, so that it takes down what it has put up."""
    command = [sys.executable, "-m", "pytest", f"--half={half}", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        teller = threading.Thread(target=_tell, args=(half, process.stdout, said))
        teller.start()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()
            teller.join()


def _tell(half: str, lines: IO[str], said: list[str]) -> None:
    width = max(map(len, HALVES))
    for line in lines:
        said.append(line)
        print(f"{half:{width}} | {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
