"""How a node is, for whoever asks from outside: health for people and load balancers, gauges for Prometheus."""

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
_ANSWER_S = 3.0
"""Below what those who ask wait for us."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Something that is wrong, or not as good as it should be."""

    words: str
    """For everybody."""
    detail: str = ""
    """For whom this host is no stranger: what the database said, where things lie."""

    def __str__(self) -> str:
        return f"{self.words}: {self.detail}" if self.detail else self.words


@dataclass(frozen=True, slots=True)
class Health:
    """Whether this node can take work, and what speaks against it."""

    ready: bool
    draining: bool
    reasons: tuple[Reason, ...]

    def stopping(self) -> "Health":
        """That of a node that has been told to stop."""
        return Health(False, True, (Reason("it is about to stop and takes no new work"), *self.reasons))


class Memory:
    """What the machine has left, looked at once a second at most, because a look costs half a millisecond."""

    def __init__(self, root: Path = Path("/")) -> None:
        """root: where `/proc` and the control groups are found."""
        self._root = root
        self._until = 0.0
        self._left_mb = 0

    def shortage(self) -> str | None:
        """Words when there is too little for another sandbox."""
        if time.monotonic() >= self._until:
            self._left_mb, self._until = available_mb(self._root), time.monotonic() + _LOOK_S
        return f"less than {_MEMORY_FLOOR_MB} MiB of memory are left" if self._left_mb < _MEMORY_FLOOR_MB else None


class Checkup:
    """Looks at every part that can fail, once a second at most, however many ask."""

    def __init__(
        self, settings: Settings, store: Store, pool: Pool, memory: Memory, breakers: Callable[[], Mapping[str, str]]
    ) -> None:
        """breakers: of the upstreams, as `Models.states`."""
        self._settings = settings
        self._store = store
        self._pool = pool
        self._memory = memory
        self._breakers = breakers
        self._looking = asyncio.Lock()
        self._until = 0.0
        self._found = Health(False, False, ())

    async def health(self) -> Health:
        """How it was within the last second; whether it warms up, how it is now. Raises nothing."""
        async with self._looking:
            if time.monotonic() >= self._until:
                self._found = await self._look()
                self._until = time.monotonic() + _LOOK_S
        if self._pool.warming:
            # It takes work all the same, which waits; others, that can begin at once, are the better choice.
            return Health(False, False, (Reason("it warms up: no sandbox has started yet"), *self._found.reasons))
        return self._found

    async def _look(self) -> Health:
        fatal = [reason for reason in (await self._database(), self._shortage()) if reason is not None]
        bearable: list[Reason] = []
        if self._pool.failure is not None:
            started = Reason("the last start of a sandbox failed", str(self._pool.failure))
            (bearable if self._pool.warm else fatal).append(started)
        if shutil.disk_usage(self._settings.data_dir).free < _DISK_FLOOR_BYTES:
            few = f"less than {_DISK_FLOOR_BYTES // MIB} MiB of disk are left"
            bearable.append(Reason(few, f"for {self._settings.data_dir}"))
        for limit, why in self._pool.soft.items():
            bearable.append(Reason(f"the {limit} limit of sandboxes is soft", why))
        if away := [name for name, state in self._breakers().items() if state == "open"]:
            bearable.append(Reason("models cannot be asked: their server has failed again and again", ", ".join(away)))
        return Health(not fatal, False, (*fatal, *bearable))

    async def _database(self) -> Reason | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._store.ping()
        except TimeoutError:
            return Reason("the database does not answer", f"for {_ANSWER_S:g} s")
        except SandboxError as error:
            return Reason("the database does not answer", str(error))
        return None

    def _shortage(self) -> Reason | None:
        words = self._memory.shortage()
        return Reason(words) if words else None


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
    def settled(self) -> bool:
        return self._engine.pool.settled

    @property
    def rested(self) -> bool:
        return self._engine.pool.rested

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
