"""One machine's durable sessions, of many owners: the engine, rows, files and limits, opened and closed as one.

What the API calls. Everything here takes an owner first, and whatever belongs to another owner does not exist.
One node has one data directory and nobody else has it. After a crash the next node finds: the launcher has ended all
sandboxes, because its server's socket closed; rows that were in flight, which it ends as `killed`; and sessions whose
files are stored, which get a new sandbox when they are next used.

(Long, because it is the list of all that the API can ask for; each heading below can be read alone.)
"""

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, TypeVar

from sandbox import logs
from sandbox.admission import Admission, memory_of_machine
from sandbox.background import Background
from sandbox.claims import Claims, Once, claimer, conflict
from sandbox.config import Settings
from sandbox.datadir import DataDir
from sandbox.durable import STOPPED, DurableSession, Parts, check_status
from sandbox.engine import Engine
from sandbox.errors import (
    Draining,
    ExecutionMissing,
    FileMissing,
    HostUnfit,
    Overloaded,
    SandboxError,
    SessionMissing,
    TooLarge,
)
from sandbox.events import EventLog
from sandbox.execution import MIB, Answer, Execution, Functions, Limits
from sandbox.files import Files
from sandbox.health import Checkup, Gauges, Health, Memory
from sandbox.in_flight import InFlight
from sandbox.kept import KeptFiles
from sandbox.keyring import Keyring
from sandbox.keys import KeyLimits, Owner
from sandbox.metrics import Metrics
from sandbox.objects import Objects
from sandbox.quota import Quota, Slot
from sandbox.reclaim import Reclaim
from sandbox.remote import checked_path
from sandbox.retention import Retention
from sandbox.runtime import Runtime
from sandbox.session import checked_code
from sandbox.store import Store
from sandbox.store.rows import Claim, ExecutionRow, Family, FileRow, Page, SessionRow
from sandbox.workspace import FileList, Workspace

T = TypeVar("T")
_SWEEP_S = 30.0
SETTLE_S = 5.0
"""For storing what background processes wrote after the last executions, when the server stops."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_logger = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to begin a session with: its bytes, or a file of the same owner that is stored, in a session or kept."""

    path: str
    content: bytes | None = None
    file_id: str | None = None
    family: Family = ""
    """Whose kept file `file_id` is; empty for one in a session. Kept files that have one name get different ones."""


class Node:
    """Use `open`."""

    def __init__(self, settings: Settings, parts: Parts, keyring: Keyring, name: str, epoch: int) -> None:
        self.settings = settings
        self.engine = parts.engine
        self.store = parts.store
        self.admission = parts.admission
        self.metrics = parts.metrics
        self.quota = Quota()
        self.kept = KeptFiles(parts.store, parts.files, self.quota, settings.max_upload_mb)
        self.objects = Objects(parts.store, name, epoch)
        self._claims = Claims(parts.store)
        self.name = name
        self._files = parts.files
        self._parts = parts
        self._keyring = keyring
        self._epoch = epoch
        self._draining = False
        self._sessions: dict[str, DurableSession] = {}
        self.reclaim = Reclaim(parts.admission, self._sessions)
        parts.admission.on_release = parts.engine.pool.share(lambda: parts.admission.room_mb // settings.memory_mb)
        self._slots: dict[str, Slot] = {}
        self._works = Background()
        self._opening = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = 0
        self._chats = 0
        self._memory = Memory()
        self._checkup = Checkup(settings, parts.store, parts.engine.pool, self._memory, parts.engine.models.states)
        self._retention = Retention(
            parts.store, parts.files, rows_s=settings.retention_h * 3600, files_s=settings.file_retention_h * 3600
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings, *, runtime: Runtime | None = None) -> AsyncIterator[Self]:
        """Open everything; at the end, leave it so that the next can go on.

        runtime: one that is open and stays so; default is one of its own. Raises `DataDirInUse`, and what
        `Engine.open` and `on` raise.
        """
        async with contextlib.AsyncExitStack() as stack:
            directory = stack.enter_context(DataDir.open(settings.data_dir))
            engine = await stack.enter_async_context(Engine.open(settings, runtime=runtime))
            yield await stack.enter_async_context(cls.on(engine, directory))

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, engine: Engine, directory: DataDir) -> AsyncIterator[Self]:
        """Open the rest, and end what a former life left in flight; at the end, the engine is closed as well.

        Raises `HostUnfit`, and what `Store.open` and `Files.open` raise.
        """
        settings = engine.settings
        _logger.info("runtime", name=engine.runtime.name, why=engine.choice.why)
        async with contextlib.AsyncExitStack() as stack:
            store = await stack.enter_async_context(Store.open(settings.database))
            files = stack.enter_context(Files.open(settings.data_dir / "files"))
            epoch = await store.start_node(directory.node)
            background = Background()
            # After every sandbox has ended: so do the tasks that write down how.
            stack.push_async_callback(background.settle)
            stack.push_async_callback(engine.aclose)  # before the store, because the end of what ran is recorded
            parts = Parts(engine, store, files, _admission(settings), Metrics(), InFlight(store), background=background)
            engine.models.on_attempt = parts.metrics.attempt
            parts.metrics.observe_breakers(engine.models.states)
            keyring = Keyring(store, _default_limits(settings), open_without_keys=settings.host in LOOPBACK)
            node = cls(settings, parts, keyring, directory.node, epoch)
            await node._recover()
            node._works.spawn(node._sweep_for_ever(), "sweeper")
            node._works.spawn(node.reclaim.go_on(), "reclaim")
            stack.push_async_callback(node._stop)
            node.metrics.observe(Gauges(engine, parts.admission, node))
            yield node

    async def _recover(self) -> None:
        ended = await self.store.recover(self.name, STOPPED, time.time())
        active = await self.store.active_sessions(self.name)
        for row in active:
            self._slots[row.id] = self.quota.restore_session(row.owner)
        if ended or active:
            _logger.info("recovered", executions_killed=ended, sessions=len(active))

    async def _stop(self) -> None:
        await self._works.aclose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await asyncio.gather(*(session.settle() for session in self._sessions.values()))
        self._parts.stopping = True
        self.admission.close()

    async def drain(self) -> None:
        """Take no new work, and wait for what runs; `drain_timeout_s` at most."""
        self._draining = True
        self.admission.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self._idle.wait()

    async def owner(self, secret: str | None) -> Owner:
        """Whose request it is. Raises `Unauthorized`."""
        return await self._keyring.owner(secret)

    async def has_keys(self) -> bool:
        """Whether a key was ever made."""
        return await self._keyring.any()

    # Sessions.

    async def open_session(
        self,
        owner: Owner,
        *,
        image: str | None = None,
        memory_mb: int | None = None,
        idle_timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        files: Sequence[Upload] = (),
        family: Family = "",
        yields: bool = False,
        begun: bool = False,
        once: Once | None = None,
    ) -> SessionRow:
        """A session with a sandbox, and files in it. Seconds for the idle timeout. family: among whose containers.
        yields: its client has not asked for it, so that others come first when memory is short; see `Reclaim`. begun:
        it is part of work that was accepted before, and goes on during a drain.

        Raises `InvalidLimits`, `UnknownImage`, `RateLimited`, `Overloaded`, `FileMissing`, `TooLarge`,
        `WorkspaceFull`, `IdempotencyConflict`.
        """
        async with self._claims.one_with(owner, once) as claim:
            if claim is None:
                wished = (image, memory_mb, idle_timeout, metadata or {}, files)
                session = await self._begin(owner, *wished, family=family, yields=yields, begun=begun)
                try:
                    claim = await self._claims.add(owner, once, session.row.id)
                except BaseException:
                    await self._undo(session)
                    raise
                if claim is None:
                    return session.row
                await self._undo(session)  # another server was first with the key
        return await self.session(owner, claim.resource)

    def expecting(self, memory_mb: int | None = None) -> contextlib.AbstractContextManager[None]:
        """Within the block somebody may open such a session. Its sandbox is started ahead if it is of the kind that is
        kept warm, none is left, and there is memory that is promised to nobody.
        """
        is_usual = memory_mb in (None, self.settings.memory_mb)
        return self.engine.expecting() if is_usual else contextlib.nullcontext()

    async def _begin(
        self,
        owner: Owner,
        image: str | None,
        memory_mb: int | None,
        idle_timeout: float | None,
        metadata: Mapping[str, str],
        files: Sequence[Upload],
        *,
        single: bool = False,
        family: Family = "",
        yields: bool = False,
        begun: bool = False,
    ) -> DurableSession:
        """A new session that is awake and has its files, or none."""
        self._check_admitting(begun=begun)
        contents = [await self._content(owner, upload) for upload in files]
        row = self._new_row(owner, image, memory_mb, idle_timeout, metadata)
        row = dataclasses.replace(row, single=single, family=family, yields=yields)
        session = DurableSession(self._parts, row, Workspace(self.store, self._files, owner.id, row.id, ()))
        slot = self.quota.take_session(owner, single=single)
        is_written = False
        try:
            await session.wake(begun=begun)
            is_written = True
            await self.store.add_session(row)
        except BaseException:
            slot.release(unused=True)
            if is_written:  # or may be, by who did not hear of a cancellation
                self._parts.background.spawn(self._take_back(row.id), f"take back {row.id}")
            await session.discard()
            raise
        self._slots[row.id], self._sessions[row.id] = slot, session
        session.on_end(self._forget)
        try:
            for (path, pieces), upload in zip(contents, files, strict=True):
                await self._put(owner, session, path, pieces, fresh=bool(upload.family))
        except BaseException:
            await self._undo(session)
            raise
        return session

    async def _undo(self, session: DurableSession) -> None:
        """Nobody will hear of it."""
        await session.end("closed")
        await self.store.drop_files(session.row.id)

    async def _take_back(self, session_id: str) -> None:
        await self.store.update_session(session_id, status="closed", ended_at=time.time())

    def _new_row(
        self,
        owner: Owner,
        image: str | None,
        memory_mb: int | None,
        idle_timeout: float | None,
        metadata: Mapping[str, str],
    ) -> SessionRow:
        spec, now = self.engine.spec(image=image, memory_mb=memory_mb), time.time()
        return SessionRow(
            id=f"ses_{uuid.uuid4().hex}",
            owner=owner.id,
            node=self.name,
            epoch=self._epoch,
            status="active",
            image=spec.image,
            memory_mb=spec.limits.memory_mb,
            idle_timeout_s=self.engine.checked_idle_timeout(idle_timeout),
            metadata=dict(metadata),
            created_at=now,
            last_used_at=now,
        )

    async def _content(self, owner: Owner, upload: Upload) -> tuple[str, AsyncIterable[bytes]]:
        path = checked_path(upload.path)
        if upload.file_id is None:
            return path, _one(upload.content or b"")
        if upload.family:
            return path, self.kept.pieces(await self.kept.row(owner, upload.family, upload.file_id))
        row = await self.store.file(owner.id, upload.file_id)
        if row is None:
            raise FileMissing(f"there is no file {upload.file_id}")
        return path, self._files.pieces(row.digest)

    def _forget(self, session: DurableSession) -> None:
        if session.end_is_written:  # until then the session knows better than its row
            self._sessions.pop(session.row.id, None)
        if slot := self._slots.pop(session.row.id, None):
            slot.release()

    async def session(self, owner: Owner, session_id: str) -> SessionRow:
        """Raises `SessionMissing`."""
        held = self._sessions.get(session_id)
        # Somebody else's is looked for as one that never was, so that not even the time tells one from the other.
        ours = held is not None and held.row.owner == owner.id
        row = held.row if held is not None and ours else await self.store.session(owner.id, session_id)
        if row is None:
            raise SessionMissing(f"there is no session {session_id}")
        return row

    async def active_session(self, owner: Owner, session_id: str) -> SessionRow:
        """Raises `SessionMissing`, `SessionClosed`, `SessionExpired`."""
        row = await self.session(owner, session_id)
        check_status(row)
        return row

    def disk_mb(self, row: SessionRow) -> int:
        """What its `/mnt/data` holds, in MiB."""
        return self.settings.disk_mb or Limits(memory_mb=row.memory_mb).disk

    async def touch(self, owner: Owner, session_id: str) -> SessionRow:
        """Begin its idle timeout anew, as far as it is active. Raises `SessionMissing`."""
        row = await self.session(owner, session_id)
        if row.status == "active":
            row = await (await self._held(owner, session_id)).touch()
        return row

    async def sessions(
        self,
        owner: Owner,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        family: Family | None = None,
    ) -> Page[SessionRow]:
        """A page of the owner's sessions, ended ones included. family: only those that are its containers."""
        page = await self.store.sessions(owner.id, limit=limit, after=after, newest_first=newest_first, family=family)
        held = (self._sessions.get(row.id) for row in page.items)
        items = tuple(here.row if here else row for here, row in zip(held, page.items, strict=True))
        return dataclasses.replace(page, items=items)

    async def close_session(self, owner: Owner, session_id: str) -> SessionRow:
        """End it and delete its files; its executions can still be read. Twice is once. Raises `SessionMissing`."""
        row = await self.session(owner, session_id)
        if row.status == "active" or session_id in self._sessions:
            session = await self._held(owner, session_id)
            await session.end("closed")
            row = session.row
        await self.store.drop_files(session_id)
        return row

    async def retire_session(self, owner: Owner, session_id: str) -> None:
        """End it as if it had been made for one run: its files stay for `file_retention_h`. Raises `SessionMissing`,
        `SessionClosed`, `SessionExpired`.
        """
        session = await self._held(owner, session_id)
        check_status(session.row)
        # Before its sandbox is gone: who is told the answer now is not to find it open in the server's next life.
        try:
            await self.store.update_session(session_id, status="closed", ended_at=time.time())
        finally:
            self._end_behind(session)

    def _end_behind(self, session: DurableSession) -> None:
        """End it behind the back of whoever used it, who has the answer sooner and may ask for the next."""
        if held := self._slots.get(session.row.id):  # unless somebody has closed it meanwhile
            held.release()
        self._parts.background.spawn(session.end("closed"), f"end {session.row.id}")

    def background(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Run it to its end, also when whoever waits for it is cancelled; the node waits for it at its own."""
        return self._parts.background.begin(work, name)

    def work(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """As `background`, but it may take long: what still goes on when the node stops is cancelled."""
        return self._works.keep(self.background(work, name))

    async def _held(self, owner: Owner, session_id: str) -> DurableSession:
        """The session, in memory. One that has ended can be had, too. Raises `SessionMissing`."""
        if (held := self._sessions.get(session_id)) is not None and held.row.owner == owner.id:
            return held
        async with self._opening:
            row = await self.session(owner, session_id)
            if (held := self._sessions.get(session_id)) is not None:
                return held
            workspace = await Workspace.load(self.store, self._files, owner.id, session_id)
            session = DurableSession(self._parts, row, workspace)
            if row.status == "active":
                self._sessions[session_id] = session
                session.on_end(self._forget)
            return session

    # Executions.

    async def run(
        self,
        owner: Owner,
        code: str | bytes,
        *,
        timeout: float | None = None,
        image: str | None = None,
        memory_mb: int | None = None,
        files: Sequence[Upload] = (),
        once: Once | None = None,
    ) -> EventLog:
        """One fresh sandbox, one execution, gone; what it stored stays readable for `file_retention_h`.

        Raises what `open_session` and `execute` raise.
        """
        text, seconds = checked_code(code), self.engine.checked_timeout(timeout)
        async with self._claims.one_with(owner, once) as claim:
            if claim is not None:
                return await self._replay(owner, claim)
            slot = await self._take_execution(owner)
            try:
                session = await self._begin(owner, image, memory_mb, None, {}, files, single=True)
                return await self._accept(owner, session, text, seconds, once, slot, single=True)
            except BaseException:
                self._give_back(slot, unused=True)
                raise

    async def execute(
        self,
        owner: Owner,
        session_id: str,
        code: str | bytes,
        *,
        timeout: float | None = None,
        once: Once | None = None,
        begun: bool = False,
        functions: Functions | None = None,
    ) -> EventLog:
        """Accept an execution; it goes on whether or not anybody reads the log. timeout: seconds. begun: it is part of
        work that was accepted before, and goes on during a drain. functions: those that the code may call; see
        `answer`.

        Raises `InvalidCode`, `InvalidLimits`, `SessionMissing`, `SessionClosed`, `SessionExpired`, `QueueFull`,
        `RateLimited`, `Overloaded`, `IdempotencyConflict`.
        """
        text, seconds = checked_code(code), self.engine.checked_timeout(timeout)
        session = await self._held(owner, session_id)
        async with self._claims.one_with(owner, once) as claim:
            if claim is not None:
                return await self._replay(owner, claim)
            slot = await self._take_execution(owner, begun=begun)
            try:
                return await self._accept(owner, session, text, seconds, once, slot, functions=functions, begun=begun)
            except BaseException:
                self._give_back(slot, unused=True)
                raise

    async def _accept(
        self,
        owner: Owner,
        session: DurableSession,
        code: str,
        timeout: float,
        once: Once | None,
        slot: Slot,
        *,
        single: bool = False,
        functions: Functions | None = None,
        begun: bool = False,
    ) -> EventLog:
        def done(execution: Execution | None) -> None:
            self._give_back(slot)
            if execution is not None:
                self.metrics.execution(execution.status, execution.duration_ms / 1000)
            if single:
                self._end_behind(session)

        claim = claimer(owner, once, session.row.id)
        try:
            accepted = await session.execute(code, timeout, functions=functions, begun=begun, claim=claim, done=done)
        except BaseException:
            if single:
                await session.end("closed")
            raise
        if isinstance(accepted, EventLog):
            return accepted
        self._give_back(slot, unused=True)
        if single:
            await session.end("closed")
        return await self._replay(owner, accepted)

    async def _take_execution(self, owner: Owner, *, begun: bool = False) -> Slot:
        if owner.limits.stored_bytes is not None:  # a program may write more; the next one does not begin
            self.quota.check_stored(owner, await self.store.stored_bytes(owner.id))
        if not begun:
            self._check_admitting()
        slot = self.quota.take_execution(owner)
        self._running += 1
        self._idle.clear()
        return slot

    def _give_back(self, slot: Slot, *, unused: bool = False) -> None:
        if slot.release(unused=unused):
            self._running -= 1
            self._rest()

    @contextlib.contextmanager
    def underway(self) -> Iterator[None]:
        """Within the block a chat runs, for whose end a drain waits. Raises `Draining`, `Overloaded`."""
        self._check_admitting()
        self._chats += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._chats -= 1
            self._rest()

    def _rest(self) -> None:
        if not self._running and not self._chats:
            self._idle.set()

    async def follow(self, owner: Owner, session_id: str, execution_id: str) -> EventLog:
        """The log of an execution that runs, or has ended. Raises `SessionMissing`, `ExecutionMissing`."""
        row = await self.session(owner, session_id)
        # Not the session's: one that is closed is forgotten before the ends of its executions are written.
        if (log := self._parts.in_flight.logs.get(execution_id)) is not None and log.session_id == row.id:
            return log
        found = await self.execution(owner, session_id, execution_id)
        if found.execution is None:
            raise ExecutionMissing(f"execution {execution_id} is not followed on this server")
        return EventLog.of(found.execution, found.created_at)

    async def execution(self, owner: Owner, session_id: str, execution_id: str) -> ExecutionRow:
        """Raises `ExecutionMissing`, `SessionMissing`."""
        row = await self.store.execution(owner.id, session_id, execution_id)
        if row is None:
            await self.session(owner, session_id)
            raise ExecutionMissing(f"there is no execution {execution_id} in session {session_id}")
        return row

    async def executions(
        self, owner: Owner, session_id: str, *, limit: int, after: str | None = None, newest_first: bool = True
    ) -> Page[ExecutionRow]:
        """A page of a session's executions. Raises `SessionMissing`."""
        await self.session(owner, session_id)
        return await self.store.executions(owner.id, session_id, limit=limit, after=after, newest_first=newest_first)

    async def answer(self, owner: Owner, session_id: str, answers: Sequence[Answer]) -> int:
        """Answer calls of the program that runs; how many of them it was waiting for.

        They are in the execution's log, `follow(calls=True)`. Raises `SessionMissing`, `TooLarge`.
        """
        return await (await self._held(owner, session_id)).answer(answers)

    async def interrupt(self, owner: Owner, session_id: str, once: Once | None = None) -> None:
        """Raises `SessionMissing`, `SessionClosed`, `SessionExpired`, `IdempotencyConflict`."""
        session = await self._held(owner, session_id)
        async with self._claims.one_with(owner, once) as claim:
            if claim is None:
                await session.interrupt()
                await self._claims.add(owner, once, session_id)

    async def withdraw(self, owner: Owner, session_id: str, execution_id: str) -> None:
        """Interrupt this execution and no other; one that waits is cancelled. Raises as `interrupt` does."""
        await (await self._held(owner, session_id)).withdraw(execution_id)

    async def restart(self, owner: Owner, session_id: str, once: Once | None = None) -> None:
        """A fresh kernel over the same files. Raises as `interrupt` does."""
        session = await self._held(owner, session_id)
        async with self._claims.one_with(owner, once) as claim:
            if claim is None:
                await session.restart()
                await self._claims.add(owner, once, session_id)

    async def _replay(self, owner: Owner, claim: Claim) -> EventLog:
        session_id, _, execution_id = claim.resource.partition("/")
        if not execution_id:
            raise conflict()
        return await self.follow(owner, session_id, execution_id)

    # Files.

    async def files(self, owner: Owner, session_id: str) -> FileList:
        """The files; without id and digest where a running program has just written one, or it cannot be stored."""
        session = await self._held(owner, session_id)
        return await session.workspace.files()

    async def removed_file(self, owner: Owner, session_id: str, file_id: str) -> FileRow | None:
        """One that was removed lately, as it was. Raises `SessionMissing`."""
        return (await self._held(owner, session_id)).workspace.removed(file_id)

    async def file(self, owner: Owner, session_id: str, path: str) -> FileRow:
        """One file, stored as it is now. Raises `FileMissing`, `InvalidPath`, `SessionMissing`."""
        session = await self._held(owner, session_id)
        return await session.workspace.row(path)

    def pieces(self, row: FileRow, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of a stored file from `start` to before `end`, 1 MiB at a time. Raises `FileMissing`."""
        return self._files.pieces(row.digest, start, end)

    async def put_file(
        self,
        owner: Owner,
        session_id: str,
        path: str,
        pieces: AsyncIterable[bytes],
        size: int | None = None,
        *,
        fresh: bool = False,
        uploaded: bool = True,
        begun: bool = False,
    ) -> FileRow:
        """Store a file. size: in bytes, if it is known beforehand. fresh: under another name, if there is such a file.
        uploaded: it comes from the client, and not from what a program has put out. begun: it is part of work that was
        accepted before, and goes on during a drain.

        Raises `TooLarge`, `RateLimited`, `WorkspaceFull`, `InvalidPath`, `SessionMissing`, `SessionClosed`.
        """
        checked_path(path)
        if self._draining and uploaded and not begun:  # what programs put out belongs to work that goes on
            raise _draining()
        session = await self._held(owner, session_id)
        session.check_active()
        if size is not None and size > self._most_bytes(session):
            raise TooLarge(self._over(session))
        return await self._put(owner, session, path, pieces, fresh=fresh, uploaded=uploaded)

    async def _put(
        self,
        owner: Owner,
        session: DurableSession,
        path: str,
        pieces: AsyncIterable[bytes],
        *,
        fresh: bool = False,
        uploaded: bool = True,
    ) -> FileRow:
        put = partial(
            session.workspace.put,
            path,
            limit=self._most_bytes(session),
            over=self._over(session),
            limits=session.limits,
            fresh=fresh,
            uploaded=uploaded,
        )
        if owner.limits.stored_bytes is None:
            return await put(pieces)
        with self.quota.storing(owner) as room:
            room.begin(await self.store.stored_bytes(owner.id))

            async def counted() -> AsyncIterator[bytes]:
                async for piece in pieces:
                    room.take(len(piece))
                    yield piece

            row = await put(counted())
            room.keep()
            return row

    def _most_bytes(self, session: DurableSession) -> int:
        return min(self.settings.max_upload_mb * MIB, session.disk_bytes)

    def _over(self, session: DurableSession) -> str:
        limit = self._most_bytes(session) // MIB
        setting = "disk_mb" if self._most_bytes(session) == session.disk_bytes else "max_upload_mb"
        return f"a file may have {limit} MiB here; send less, or have {setting} raised"

    async def remove_file(self, owner: Owner, session_id: str, path: str) -> None:
        """Raises `FileMissing`, `InvalidPath`, `SessionMissing`, `SessionClosed`."""
        session = await self._held(owner, session_id)
        session.check_active()
        await session.workspace.remove(path)

    # How it is.

    @property
    def running(self) -> int:
        """Executions that run or wait."""
        return self._running

    @property
    def open_sessions(self) -> int:
        """Active sessions, asleep ones included."""
        return len(self._slots)

    @property
    def draining(self) -> bool:
        """Whether it takes no new work."""
        return self._draining

    async def health(self) -> Health:
        """Looks at every part that can fail. Raises nothing."""
        found = await self._checkup.health()
        return found.stopping() if self._draining else found

    def _check_admitting(self, *, begun: bool = False) -> None:
        if self._draining and not begun:
            raise _draining()
        if (words := self._memory.shortage()) is not None:
            raise Overloaded(f"{words}; try again later", 5.0)

    # What is over.

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self.sweep(time.time())
            except SandboxError as error:
                _logger.warning("sweep_failed", error=str(error))
            except Exception:  # the next one may go well, and without any nothing ever ends
                _logger.exception("sweep_failed")

    async def sweep(self, now: float) -> None:
        """Expire sessions that sleep, forget what has been kept long enough, free bytes that no row names.

        Before that, write down what could not be written when it happened. now: seconds since the epoch.
        """
        await self._parts.in_flight.retry()
        for session in [held for held in self._sessions.values() if held.row.status != "active"]:
            await self._sweep_away(session, "closed")
        for row in await self.store.active_sessions(self.name):
            held = self._sessions.get(row.id)
            if now > row.last_used_at + row.idle_timeout_s and (held is None or held.is_idle(now)):
                session = await self._held(Owner(row.owner, KeyLimits()), row.id)
                if session.is_idle(now):  # still, because loading it took a while
                    await self._sweep_away(session, "expired")
        await self._retention.enforce(now)

    async def _sweep_away(self, session: DurableSession, status: Literal["closed", "expired"]) -> None:
        try:
            await session.end(status)
        except SandboxError as error:  # the next sweep tries again; the others are not to wait for that
            _logger.warning("session_not_ended", session_id=session.row.id, error=str(error))


def _draining() -> Draining:
    return Draining("the server is about to stop; try again when it is back", 5.0)


def _admission(settings: Settings) -> Admission:
    budget = settings.memory_budget_mb or max(2 * memory_of_machine(), settings.memory_mb)
    left = budget - settings.pool_size * settings.memory_mb
    if left < settings.memory_mb:
        raise HostUnfit(
            f"{settings.pool_size} warm sandboxes of {settings.memory_mb} MiB leave no room for sessions in "
            f"{budget} MiB; set a smaller pool_size or memory_mb, or a larger memory_budget_mb"
        )
    return Admission(
        left,
        waiting=settings.max_waiting,
        waiting_per_owner=settings.max_waiting_per_key,
        max_wait_s=settings.max_wait_s,
    )


def _default_limits(settings: Settings) -> KeyLimits:
    stored = settings.key_stored_mb
    return KeyLimits(
        sessions=settings.key_sessions,
        running=settings.key_running,
        per_minute=settings.key_per_minute,
        stored_bytes=None if stored is None else stored * MIB,
    )


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
