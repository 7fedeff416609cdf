"""How a node is, for whoever asks from outside: health for people and load balancers, gauges for Prometheus."""

import shutil
import time
from dataclasses import dataclass
from typing import Protocol

from sandbox.admission import Admission, available_mb
from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.errors import SandboxError
from sandbox.execution import MIB
from sandbox.pool import Pool
from sandbox.store import Store

_MEMORY_FLOOR_MB = 256
"""With less than this left on the machine no further sandbox is started, whatever was promised."""
_DISK_FLOOR_BYTES = 256 * MIB
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Health:
    """Whether this node can take work; `reasons` say what is wrong, or not as good as it should be."""

    ready: bool
    draining: bool
    reasons: tuple[str, ...]


class Memory:
    """What the machine has left, looked at once a second at most, because a look costs half a millisecond."""

    def __init__(self) -> None:
        self._until = 0.0
        self._left_mb = 0

    def shortage(self) -> str | None:
        """Words when there is too little for another sandbox."""
        if time.monotonic() >= self._until:
            self._left_mb, self._until = available_mb(), time.monotonic() + _LOOK_S
        return f"less than {_MEMORY_FLOOR_MB} MiB of memory are left" if self._left_mb < _MEMORY_FLOOR_MB else None


async def examine(settings: Settings, store: Store, pool: Pool, *, draining: bool) -> Health:
    """Look at every part that can fail. Raises nothing."""
    reasons = []
    ready = not draining
    if draining:
        reasons.append("it is about to stop and takes no new work")
    try:
        await store.ping()
    except SandboxError as error:
        ready = False
        reasons.append(f"the database does not answer: {error}")
    if pool.failure is not None:
        ready &= pool.warm > 0
        reasons.append(f"the last start of a sandbox failed: {pool.failure}")
    if (words := Memory().shortage()) is not None:
        reasons.append(words)
    if shutil.disk_usage(settings.data_dir).free < _DISK_FLOOR_BYTES:
        reasons.append(f"less than {_DISK_FLOOR_BYTES // MIB} MiB of disk are left for {settings.data_dir}")
    return Health(ready, draining, tuple(reasons))


class Counts(Protocol):
    """What a node counts itself."""

    @property
    def running(self) -> int: ...

    @property
    def open_sessions(self) -> int: ...


class Gauges:
    """What a scrape of the metrics reads."""

    def __init__(self, engine: Engine, admission: Admission, counts: Counts) -> None:
        self._engine = engine
        self._admission = admission
        self._counts = counts

    @property
    def warm(self) -> int:
        return self._engine.pool.warm

    @property
    def promised_mb(self) -> int:
        return self._admission.promised_mb

    @property
    def budget_mb(self) -> int:
        return self._admission.budget_mb

    @property
    def used_bytes(self) -> int:
        return self._engine.runtime.used_bytes()

    @property
    def waiting(self) -> int:
        return self._admission.waiting

    @property
    def sessions(self) -> int:
        return self._counts.open_sessions

    @property
    def running(self) -> int:
        return self._counts.running
