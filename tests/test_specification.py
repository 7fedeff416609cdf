"""The numbers of SPECIFICATION.md are those of the code, and the tests that it names are there."""

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandbox import calls, kernel, keyring, quota, retention
from sandbox.api import connection, download, guard, guests, multipart, tally, visit
from sandbox.assistants import threads
from sandbox.config import Settings
from sandbox.execution import MIB, MIN_MEMORY_MB, Limits
from sandbox.guest import bounds, frames, init
from sandbox.loop.messages import MOST_MESSAGES
from sandbox.runtime import terms
from sandbox.runtime.docker import options
from sandbox.runtime.embedded import cgroup, jail, mounts, seccomp

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SPECIFICATION.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if re.match(r"\| (?!---|what )", line)
]


def default(name: str) -> float:
    """Of a setting."""
    value = Settings.model_fields[name].default
    assert isinstance(value, int | float)
    return value


def rlimit(name: str) -> int:
    """Of every kernel in the embedded runtime, which must be what containers get."""
    [told] = re.findall(rf"RLIMIT_{name}, ([\d <]+)\)", inspect.getsource(jail))
    value = eval(told, {"__builtins__": {}})  # digits and `<<`, as matched
    assert isinstance(value, int)
    if (container := options._ulimits(ROOM).get(name.lower())) is not None:
        assert container == value, name
    return value


def inodes(mount: str) -> int:
    [told] = re.findall(rf'_writable\("root{mount}", [\w.]+, (\d+),', inspect.getsource(mounts))
    return int(told)


LIMITS = Limits()
ROOM = terms.room(LIMITS)
KIB = 1 << 10


def size(number: float) -> str:
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if number >= unit and number % unit == 0:
            return f"{number / unit:,.0f} {name}"
    return f"{number:,.0f} bytes"


def seconds(number: float) -> str:
    return f"{number:,g} s"


def mib(setting: str) -> str:
    return size(default(setting) * MIB)


CODE: Mapping[str, str] = {
    "memory": size(LIMITS.memory_mb * MIB),
    "in TCP's and UDP's sockets, where these are counted apart": size(LIMITS.memory_mb * MIB // cgroup._SOCKETS_SHARE),
    "connections that a listening socket has waiting (Docker; embedded, where `/proc/sys` can be written to)": str(
        terms.UNACCEPTED
    ),
    "least memory": size(MIN_MEMORY_MB * MIB),
    "processor": f"{LIMITS.cpus:g} core",
    "processes and threads": str(LIMITS.processes),
    "open files of a process": f"{rlimit('NOFILE'):,}",
    "one file": size(ROOM.file_bytes),
    "`/mnt/data`": size(ROOM.workspace),
    "files and directories in `/mnt/data`": f"{LIMITS.files:,}",
    "`/tmp`": size(ROOM.temporary),
    "files in `/tmp`": f"{inodes('/tmp'):,}",
    "`/dev/shm`": size(ROOM.shared_memory),
    "core dumps": size(rlimit("CORE")),
    "locked memory": size(rlimit("MEMLOCK")),
    "POSIX message queues": size(rlimit("MSGQUEUE")),
    "real time priority": str(rlimit("RTPRIO")),
    "pending signals": str(rlimit("SIGPENDING")),
    "stack": size(rlimit("STACK")),
    "system calls allowed": str(len(seccomp.ALLOWED)),
    "memory that all sandboxes leave to others": f"{cgroup.SPARED_PERCENT} % of the machine's, "
    f"{size(cgroup.SPARED_MIB * MIB)} at least",
    "processes and threads of all sandboxes": f"{cgroup.MOST_PROCESSES:,}",
    "timeout": seconds(default("timeout_s")),
    "longest timeout": seconds(default("max_timeout_s")),
    "from interrupt to kill": seconds(init.GRACE_S),
    "from deadline to the sandbox's end": seconds(kernel._OVERTIME_SECONDS),
    "from the end of a connection to the sandbox's end": seconds(kernel._PARTING_SECONDS),
    "a kernel to be ready": seconds(kernel.READY_SECONDS),
    "idle session": seconds(default("idle_timeout_s")),
    "drain": seconds(default("drain_timeout_s")),
    "stdout, and again stderr": size(LIMITS.output_bytes),
    "full text in `/mnt/data/.outputs`": size(LIMITS.disk * MIB // 4),
    "rich results": str(LIMITS.results),
    "one rich result": size(LIMITS.result_bytes),
    "rich results together": size(4 * LIMITS.result_bytes),
    "levels of a rich result that is JSON": str(bounds._DEPTH),
    "error name, value, traceback": f"{bounds._ERROR_TEXT:,} characters each",
    "MIME types passed on": str(len(bounds._MIME_TYPES)),
    "entries of a listing": f"{frames.MAX_ENTRIES:,}",
    "directories in each other": str(frames.MAX_DEPTH),
    "code": size(kernel.MAX_CODE_BYTES),
    "body of a frame": size(frames.MAX_BODY),
    "raw bytes of a frame": size(frames.CHUNK),
    "files open at a time": str(frames.MAX_HANDLES),
    "calls that wait": str(frames.MAX_WAITING),
    "arguments of a call": f"{frames.MAX_ARGUMENTS:,} characters",
    "answer to a call": f"{calls.MAX_ANSWER:,} characters",
    "JSON body": mib("max_body_mb"),
    "values of JSON in a body": f"{tally.MOST:,}",
    "messages or items of a request, and of a chain before it": f"{MOST_MESSAGES:,}",
    "requests of one key that are open": f"{guests.MOST:,}",
    "bodies in memory together": size(guard._BODIES * default("max_body_mb") * MIB),
    "unread answers in memory together": size(guard._BODIES * default("max_body_mb") * MIB),
    "uploaded file": mib("max_upload_mb"),
    "parts of a form": f"{multipart._MOST_PARTS:,}",
    "connections": f"{connection.MOST_CONNECTIONS:,}",
    "requests sent ahead on a connection": str(connection._MOST_UNANSWERED),
    "head of a request": size(connection._MOST_HEAD_BYTES),
    "time for a head, and again for a body": seconds(default("body_timeout_s")),
    "least rate of an upload": f"{visit.LEAST_RATE:,} bytes/s",
    "ranges of a download": str(download._MOST_RANGES),
    "executions waiting in a session": f"{default('queue_size'):g}",
    "requests waiting for a sandbox": f"{default('max_waiting'):g}",
    "of them with one key": f"{default('max_waiting_per_key'):g}",
    "wait for a sandbox": seconds(default("max_wait_s")),
    "window of the rate limit": seconds(quota.WINDOW_S),
    "revoked key": seconds(keyring._REMEMBERED_S),
    "Idempotency-Key": f"{retention._CLAIMS_KEPT_S / 3600:g} h",
    "thread that nobody uses, and all in it": f"{threads.UNUSED_S / 86400:g} days",
    "ended session, executions": f"{default('retention_h'):g} h",
    "ended session, files": f"{default('file_retention_h'):g} h",
}


def test_every_number_is_told_once_and_is_what_the_code_says() -> None:
    assert all(len(row) == 4 for row in ROWS), [row for row in ROWS if len(row) != 4]
    names = [row[0] for row in ROWS]
    assert sorted(names) == sorted(set(names))
    assert {name: number for name, number, *_ in ROWS} == CODE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_its_setting_exists(row: tuple[str, str, str, str]) -> None:
    settings = re.findall(r"`(\w+)`", row[2])
    assert settings or row[2] in ("fixed", "request"), row[2]
    known = Settings.model_fields.keys() | set(Limits.__slots__)
    assert set(settings) <= known


def named_in(text: str) -> list[tuple[str, str]]:
    """Files and tests as `tests/a.py::test_b`."""
    return re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)


def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", ["SPECIFICATION.md", "SECURITY.md"])
def test_every_test_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = named_in(text)
    assert len(named) > 20
    assert text.count("::test_") == len(named), "a test is named in a way that nobody can look up"
    assert [(file, name) for file, name in named if name not in defined_in(file)] == []
    for file in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_number_has_a_test_that_enforces_it(row: tuple[str, str, str, str]) -> None:
    assert named_in(row[3])


def test_every_promise_has_a_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    promises = re.split(r"^(\d+)\. \*\*", text.partition("## What is promised")[2].partition("\n## ")[0], flags=re.M)[
        1:
    ]
    numbers, bodies = promises[::2], promises[1::2]
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 10
    for number, body in zip(numbers, bodies, strict=True):
        assert named_in(body), f"promise {number} has no test"
