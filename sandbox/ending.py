"""How an execution ended: what init says of it, what the meters say, and what is made of both.

Nothing here waits, and nothing here believes a program: init's account is hostile until it is read, and whether memory
ran out is the cgroup's word alone.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from sandbox.batches import in_turns
from sandbox.execution import MIB, Artifact, Spec, Status, Truncated, mime_of
from sandbox.runtime import Exit, Usage

_SIGNALS = {9: "SIGKILL", 11: "SIGSEGV", 6: "SIGABRT", 15: "SIGTERM", 7: "SIGBUS", 8: "SIGFPE", 31: "SIGSYS"}
_NEARLY_FULL = 0.9
"""Of its memory: who was never seen to hold so much may have died because others left none."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an execution ended, and what it cost."""

    status: Status
    reason: str
    execution_count: int | None
    duration_ms: float
    cpu_ms: float
    peak_memory_bytes: int
    artifacts: tuple[Artifact, ...]
    truncated: Truncated
    state_lost: bool
    removed: tuple[str, ...] = ()
    workspace: int | None = None
    """Equal at two ends: no file has changed between them. None: it could not be told."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What an execution took, by the sandbox's meters and our clock."""

    before: Usage
    after: Usage
    seconds: float

    @property
    def duration_ms(self) -> float:
        """Of wall clock."""
        return self.seconds * 1000

    @property
    def cpu_ms(self) -> float:
        """Of processor time, by everything in the sandbox."""
        return (self.after.cpu_ns - self.before.cpu_ns) / 1e6

    @property
    def memory_ran_out(self) -> bool:
        """Whether something in the sandbox was killed for want of memory."""
        return self.after.oom_kills > self.before.oom_kills


@dataclass(frozen=True, slots=True)
class Account:
    """Init's account of an end. Read as soon as it comes: one that no init gives ends the sandbox, as any bad frame."""

    died: int | None
    """The kernel's wait status, if it did."""
    ok: bool
    timed_out: bool
    interrupted: bool
    execution_count: int | None
    truncated: Truncated
    artifacts: tuple[Artifact, ...]
    removed: tuple[str, ...]
    workspace: int | None

    @classmethod
    async def read(cls, value: dict[str, Any], rows: Iterable[list[list[Any]]]) -> Self:
        """value: of a DONE; rows: path, size and change of every file that is not what it was.

        Raises `KeyError`, `TypeError` or `ValueError`.
        """
        died = value.get("died")
        artifacts, removed = list[Artifact](), list[str]()
        async for some in in_turns(rows):
            for path, size, change in some:
                if change == "removed":
                    removed.append(str(path))
                else:
                    artifacts.append(_artifact(str(path), size, change))
        return cls(
            None if died is None else _bounded(died, 1 << 16),
            value.get("reply") == "ok",
            value.get("timed_out") is True,
            value.get("interrupted") is True,
            count(value.get("execution_count")),
            Truncated(*(_bounded(number) for number in value.get("dropped") or ())),
            tuple(artifacts),
            tuple(removed),
            _integer(value.get("workspace")),
        )

    def judged(self, measured: Measured, spec: Spec, *, state_lost: bool) -> Ending:
        """With this account, in a sandbox that lives on."""
        status, reason = self._status(measured, spec)
        return Ending(
            status,
            reason,
            self.execution_count,
            measured.duration_ms,
            measured.cpu_ms,
            measured.after.peak_bytes,
            self.artifacts,
            self.truncated,
            state_lost,
            self.removed,
            self.workspace,
        )

    def _status(self, measured: Measured, spec: Spec) -> tuple[Status, str]:
        killed = ""
        if measured.memory_ran_out:
            why = _oom_words(measured, spec)
            if self.died is not None:
                return Status.OOM, why
            killed = f"{why}, and a process of the program's was killed"
        if self.timed_out:
            return Status.TIMEOUT, killed if self.died is None else "it ignored the interrupt and was killed"
        if self.died is not None:
            if self.interrupted:
                return Status.INTERRUPTED, "it ignored the interrupt and was killed"
            return Status.KILLED, _exit_words(self.died)
        if self.ok:
            return Status.OK, killed
        return Status.INTERRUPTED if self.interrupted else Status.ERROR, killed


def exit_judged(end: Exit, measured: Measured, spec: Spec, *, closed: bool) -> Ending:
    """With the whole sandbox, of which no account came. closed: we were about to end it."""
    if end.reason == "overdue":
        status, reason = Status.TIMEOUT, "the time was over and the sandbox had to be destroyed with its files"
    elif closed:
        status, reason = Status.CANCELLED, "its session was closed"
    elif measured.memory_ran_out:
        status, reason = Status.OOM, f"{_oom_words(measured, spec)}; the sandbox died of it, with its files"
    else:
        status, reason = Status.KILLED, f"the sandbox ended: {end.reason}"
    return Ending(
        status,
        reason,
        None,
        measured.duration_ms,
        measured.cpu_ms,
        measured.after.peak_bytes,
        (),
        Truncated(),
        state_lost=True,
    )


def count(value: object) -> int | None:
    """An execution count from inside, such as every reader of JSON can hold."""
    number = _integer(value)
    return number if number is not None and 0 <= number < 1 << 53 else None


def _integer(value: object) -> int | None:
    """A number from inside, which may be anything."""
    return value if isinstance(value, int) else None


def _bounded(value: object, below: int = 1 << 53) -> int:
    """A number from inside that has to be one. Raises `ValueError`."""
    number = _integer(value)
    if number is None or not 0 <= number < below:
        raise ValueError(f"a number is {str(value)[:80]}")
    return number


def _artifact(path: str, size: object, change: object) -> Artifact:
    return Artifact(path, _bounded(size), mime_of(path), "created" if change == "created" else "changed")


def _oom_words(measured: Measured, spec: Spec) -> str:
    limit = f"the memory limit of {spec.limits.memory_mb} MB"
    if measured.after.peak_bytes >= _NEARLY_FULL * spec.limits.memory_mb * MIB:
        return f"{limit} was reached"
    # Not always: the meters may be coarse, or were last read some time before its end.
    return f"{limit} was reached, or others had left less than that"


def _exit_words(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"the kernel process died of signal {number} ({_SIGNALS.get(number, 'see signal(7)')})"
    return f"the kernel process exited with code {os.WEXITSTATUS(status)}"
