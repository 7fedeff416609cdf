"""PID 1 of a sandbox: reaper, relay between the kernel's link and the host's frames, keeper of the deadline.

One thread, one poll. It runs as a uid of its own, so a program can neither signal nor trace it; CAP_KILL lets it
end whatever the program started. The path of an execution: a frame EXECUTE arrives → the kernel is told to run the
code → text, results and errors are bounded and become frames → the kernel's reply, the last thing it says, ends it →
DONE tells what was seen. Where it can fail: the kernel dies (the spawner says so: DONE says `died`, everything else in
the sandbox is killed, a new kernel is asked for; what it had written and not sent is read from its memory); the
deadline passes (SIGINT, nudges lest it go unheard, SIGKILL after a grace); the host stops reading (the kernel is no
longer read, so it blocks, and the deadline goes on); the host goes away (we end, and with PID 1 the sandbox; one that
nobody has used yet may take its time, see `Policy.linger_s`).

(Long for one file: it is one loop, and that path is easier to follow in one place. What may pass is `bounds`' to say.)
"""

import contextlib
import json
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from sandbox.guest import bounds, pending
from sandbox.guest.deadline import Deadline
from sandbox.guest.frames import (
    MAX_WAITING,
    BadFrame,
    Decoder,
    Frame,
    decode_json,
    encode,
    encode_json,
    encode_rows,
)
from sandbox.guest.link import NUDGE, STREAMS, InitEnd, Message
from sandbox.guest.output import Spill, Text
from sandbox.guest.walk import Walk
from sandbox.guest.workspace import Refused, Workspace

GRACE_S = 2.0
"""Between SIGINT and SIGKILL."""
_NUDGE_S = 0.05
"""Between an interrupt and a nudge, and from one to the next."""
_SLACK_S = 0.25
"""So long after the deadline a reply may be read: it may have been there before, and who reads it is not always asked
at once. Whose reply comes later has not ended in time, and may itself have kept us from seeing that.
"""
_OUTBOX_FULL = 4 << 20
_PIPE_CHUNK = 256 << 10


class Spawner(Protocol):
    """Whoever can put a kernel into this sandbox: the launcher, or a zygote of our own."""

    def fileno(self) -> int:
        """Readable when `news` has something."""

    def request(self) -> None:
        """Ask for a kernel."""

    def news(self) -> "Born | Died | None":
        """What happened; None for nothing of interest. Raises `EOFError` when the spawner is gone."""

    def needed(self) -> set[int]:
        """Processes in this sandbox that making the next kernel takes; they outlive every kernel."""


@dataclass(frozen=True, slots=True)
class Born:
    """A contained kernel process waits on `link` for its start message."""

    pid: int
    """As seen in this sandbox."""
    link: socket.socket


@dataclass(frozen=True, slots=True)
class Died:
    """The kernel process ended."""

    status: int
    """A wait status."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What init enforces and what it tells its kernels."""

    workspace: str
    output_bytes: int
    results: int
    result_bytes: int
    spill_bytes: int
    env: dict[str, str]
    awaited: bool = False
    """Whether somebody waits for the first kernel."""
    linger_s: float = 0.0
    """How long it outlives the host while it rests and nobody has asked for anything: it holds no code and no files."""


@dataclass(slots=True)
class Running:
    """The execution in flight."""

    id: str
    deadline: Deadline
    stdout: Text
    stderr: Text
    before: Walk
    result_room: int
    """Bytes of rich results that may still be kept, in all."""
    functions: dict[str, Any]
    """Those of the caller's that it may call."""
    waiting: set[int] = field(default_factory=set)
    """Its calls that are not answered."""
    timed_out: bool = False
    interrupted: bool = False
    kill_at: float | None = None
    nudge_at: float = 0.0
    """When the next one is due, once it was interrupted."""
    begun: bool = False
    reply: dict[str, Any] | None = None
    read_results: int = 0
    """Also those of which nothing is kept: a program's time is not ours to spend."""
    dropped_results: int = 0
    """Also those of which some forms are."""
    error_sent: bool = False


@dataclass(slots=True)
class Live:
    """The kernel in being, from its birth on."""

    pid: int
    link: InitEnd
    ready: bool = False
    """Whether it has said `hello`."""
    deaf: bool = False
    """Whether it has closed its end of the link."""
    doomed: bool = False
    """Whether it was killed: what is to be run from now on is for the next one."""
    pipes: dict[int, str] = field(default_factory=dict)
    """Read ends of the kernel's descriptors 1 and 2, by stream name."""
    acknowledge: int = -1
    """A pipe: a byte for every `flushed`."""
    pending: int = -1
    """Its text that has not been sent; see `guest.pending`."""
    told: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    """Where each stream is: what is sent twice counts once."""


class Relay:
    """The state of one sandbox's init."""

    def __init__(self, source: int, sink: int, spawner: Spawner, policy: Policy) -> None:
        for fd in (source, sink):
            os.set_blocking(fd, False)
        self._source, self._sink = source, sink
        self._spawner = spawner
        self._policy = policy
        self._workspace = Workspace(policy.workspace)
        self._decoder = Decoder()
        self._outbox = bytearray()
        self._kernel: Live | None = None
        self._running: Running | None = None
        self._waiting: dict[str, Any] | None = None
        """An EXECUTE that came before a kernel was ready."""
        self._kernels = 0
        """How many it has had."""
        self._restarts = 0
        """The number of the last that it was asked for."""
        self._answered = 0
        """That of the last before the kernel, or the one on its way, was requested."""
        self._deaths_in_a_row = 0
        self._used = False

    def run(self) -> NoReturn:
        """Relay until the host or the spawner goes away; then end, and with PID 1 the whole sandbox."""
        # Orphans are ours, and nobody asks how they ended: with this the system buries them without waking us.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody opens what arrives
        self._spawner.request()
        with contextlib.suppress(EOFError, ConnectionError, BadFrame):
            while True:
                self._turn()
        os._exit(0)

    def _turn(self) -> None:
        poller = select.poll()
        channel = {self._source: select.POLLIN}
        if self._outbox:
            channel[self._sink] = channel.get(self._sink, 0) | select.POLLOUT
        for fd, flags in channel.items():
            poller.register(fd, flags)
        poller.register(self._spawner.fileno(), select.POLLIN)
        kernel = self._kernel
        if kernel is not None:
            for fd, flags in self._kernel_events(kernel).items():
                poller.register(fd, flags)
        events = dict(poller.poll(self._milliseconds()))
        # Readable, or (a pipe without writers shows only that) at its end.
        if events.get(self._source, 0) & ~select.POLLOUT:
            self._on_channel()
        if kernel is not None:
            self._on_kernel(kernel, events)
        if self._spawner.fileno() in events:
            self._on_spawner()
        self._keep_time()
        self._flush()

    def _kernel_events(self, kernel: Live) -> dict[int, int]:
        events = {}
        # A host that does not read must not make us hoard: leave the kernel blocked on its full link instead.
        if len(self._outbox) < _OUTBOX_FULL:
            events.update(dict.fromkeys(kernel.pipes, select.POLLIN))
            if not kernel.deaf and (kernel.ready or not kernel.doomed):
                events[kernel.link.fileno()] = select.POLLIN
        if kernel.link.blocked and not kernel.deaf:
            events[kernel.link.fileno()] = events.get(kernel.link.fileno(), 0) | select.POLLOUT
        return events

    # Time.

    def _milliseconds(self) -> int | None:
        running = self._running
        if running is None:
            return None
        moments = []
        if running.kill_at is not None:
            moments += [running.kill_at, running.nudge_at]
        elif running.deadline.since is None:
            moments.append(running.deadline.moment)
        return max(0, int((min(moments) - time.monotonic()) * 1000) + 1) if moments else None

    def _keep_time(self) -> None:
        running = self._running
        if running is None:
            return
        now = time.monotonic()
        if running.reply is not None:
            if not running.interrupted or running.reply.get("status") == "ok":
                running.timed_out |= running.deadline.left(now) < -_SLACK_S
            self._end(died=None)
        elif running.kill_at is not None:
            if now >= running.kill_at:
                running.kill_at = now + GRACE_S
                self._kill_all()
            elif now >= running.nudge_at:
                running.nudge_at = now + _NUDGE_S
                self._nudge()
        elif running.deadline.left(now) <= 0:
            running.timed_out = True
            self._interrupt(running)

    def _interrupt(self, running: Running) -> None:
        if running.kill_at is None:
            self._send_interrupt(running)

    def _send_interrupt(self, running: Running) -> None:
        now = time.monotonic()
        running.kill_at, running.nudge_at = now + GRACE_S, now + _NUDGE_S
        _signal_all(signal.SIGINT)

    def _nudge(self) -> None:
        if self._kernel is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._kernel.pid, NUDGE)

    def _kill_all(self, but: frozenset[int] = frozenset()) -> None:
        spared = self._spawner.needed() | but
        if not spared:
            _signal_all(signal.SIGKILL)
            return
        # All at once and first, or what forks faster than we can list would get away.
        _signal_all(signal.SIGSTOP)
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(ProcessLookupError):
                if pid != 1:
                    os.kill(pid, signal.SIGCONT if pid in spared else signal.SIGKILL)

    # The host.

    def _on_channel(self) -> None:
        try:
            data = os.read(self._source, 1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            if not self._used and self._kernel is not None and self._kernel.ready:
                time.sleep(self._policy.linger_s)
            raise EOFError
        frames = self._decoder.feed(data)
        self._used |= not frames or any(kind is not Frame.INHERIT for kind, _ in frames)
        for kind, body in frames:
            self._on_frame(kind, body)

    def _on_frame(self, kind: Frame, body: bytes) -> None:
        value, payload = decode_json(body)
        if kind is Frame.EXECUTE:
            self._execute(value)
        elif kind is Frame.INTERRUPT:
            self._on_interrupt()
        elif kind is Frame.RESTART:
            self._restarts = value["number"]
            if self._kernel is None:  # one that is on its way has run nothing, and is as good as another
                self._answered = self._restarts
            self._deaths_in_a_row = 0
            self._kill_all()
        elif kind is Frame.KILL:
            if self._kernel is not None:
                self._kernel.doomed = True
            self._deaths_in_a_row = 0
            self._kill_all()
        elif kind is Frame.CALL:
            self._call(value, payload)
        elif kind is Frame.ANSWER:
            self._answer(value)
        elif kind is Frame.INHERIT:
            self._on_inherited(value["number"])
        else:
            raise BadFrame(f"the host sent {kind.name}")

    def _on_inherited(self, number: int) -> None:
        if self._used or self._kernel is None or not self._kernel.ready:
            raise EOFError
        self._send(encode_json(Frame.READY, {"restarts": self._answered, "inherit": number}))

    def _on_interrupt(self) -> None:
        if self._running is not None:
            self._running.interrupted = True
            self._interrupt(self._running)
        elif self._waiting is not None:
            running = self._prepare(self._waiting)
            running.interrupted = True
            self._waiting, self._running = None, running
            self._end(died=None)

    def _call(self, request: dict[str, Any], payload: bytes) -> None:
        to = {"call": request.get("call")}
        try:
            if request.get("op") == "list":
                told, rows = self._workspace.listing()
                self._send(encode_rows(Frame.LISTING, to | told, rows))
            else:
                answer, data = self._workspace.call(request, payload)
                self._send(encode_json(Frame.REPLY, to | answer, data))
        except Refused as error:
            self._send(encode_json(Frame.REPLY, to | {"error": {"kind": error.kind, "text": str(error)}}))

    def _answer(self, value: dict[str, Any]) -> None:
        running, kernel, now = self._running, self._kernel, time.monotonic()
        if running is None or kernel is None:
            return  # the program has ended meanwhile
        answers = [answer for answer in value["answers"] if answer[0] in running.waiting]
        running.waiting -= {number for number, _, _ in answers}
        if any(how == "late" for _, how, _ in answers):
            running.deadline.give_up(now)
        elif not running.waiting:
            running.deadline.go_on(now)
        kernel.link.answer(answers)

    def _send(self, frame: bytes) -> None:
        self._outbox += frame

    def _flush(self) -> None:
        while self._outbox:
            try:
                sent = os.write(self._sink, memoryview(self._outbox)[: 1 << 20])
            except BlockingIOError:
                return
            del self._outbox[:sent]

    # The spawner.

    def _on_spawner(self) -> None:
        news = self._spawner.news()
        if isinstance(news, Born):
            self._born(news)
        elif isinstance(news, Died):
            self._died(news.status)

    def _born(self, news: Born) -> None:
        self._kernels += 1
        told = {"env": self._policy.env, "awaited": self._policy.awaited and self._kernels == 1}
        told |= {"workspace": self._policy.workspace, "result_bytes": self._policy.result_bytes}
        with contextlib.suppress(ConnectionError):  # dead already; the spawner will say so
            news.link.send(json.dumps(told).encode())
        self._kernel = Live(news.pid, InitEnd(news.link))

    def _died(self, status: int) -> None:
        kernel, self._kernel = self._kernel, None
        self._kill_all()
        if kernel is not None:
            self._drain(kernel)
            for message in pending.leftovers(kernel.pending):
                self._on_text(kernel, message)
            self._close(kernel)
        if self._running is not None:
            self._end(died=status)
        # A kernel that cannot even start (no memory left, say) must not be tried for ever: the host gives up first.
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > 3:
            raise EOFError
        self._answered = self._restarts
        self._spawner.request()

    def _close(self, kernel: Live) -> None:
        kernel.link.close()
        for fd in [*kernel.pipes, kernel.acknowledge, kernel.pending]:
            if fd >= 0:
                os.close(fd)

    # The kernel.

    def _on_kernel(self, kernel: Live, events: dict[int, int]) -> None:
        # Descriptors before messages: what a subprocess wrote was there before the kernel's next words.
        for fd in list(kernel.pipes):
            if fd in events:
                self._read_pipe(kernel, fd)
        happened = events.get(kernel.link.fileno(), 0)
        if happened & select.POLLOUT:
            kernel.link.flush()
        if happened & ~select.POLLOUT:
            if kernel.ready:
                self._hear(kernel, 64)
            elif not kernel.doomed:
                self._greet(kernel)

    def _hear(self, kernel: Live, packets: int) -> None:
        try:
            for message in kernel.link.receive(packets):
                self._on_message(kernel, message)
        except EOFError:
            # It is about to end, or the program has taken the link from it; then there is nothing to wait for, except
            # by what is running: it may have become another program, which its descriptors still lead to.
            kernel.deaf = True
            if self._running is None:
                self._kill_all()

    def _greet(self, kernel: Live) -> None:
        fds = kernel.link.greeting()
        if len(fds) != 4:  # it died on the way; the spawner will say so
            kernel.deaf = True
            for fd in fds:
                os.close(fd)
            return
        for fd, name in zip(fds, STREAMS, strict=False):
            os.set_blocking(fd, False)
            kernel.pipes[fd] = name
        kernel.acknowledge, kernel.pending = fds[2:]
        os.set_blocking(kernel.acknowledge, False)
        kernel.ready = True
        self._deaths_in_a_row = 0
        self._send(encode_json(Frame.READY, {"restarts": self._answered}))
        self._start_waiting()

    def _read_pipe(self, kernel: Live, fd: int) -> bool:
        try:
            data = os.read(fd, _PIPE_CHUNK)
        except BlockingIOError:
            return False
        if not data:
            os.close(fd)
            del kernel.pipes[fd]
            return False
        self._text(kernel.pipes[fd], data)
        return True

    def _text(self, name: str, data: bytes) -> None:
        running = self._running
        if running is not None:  # else: a leftover of an execution that has ended, and nobody's output now
            (running.stdout if name == "stdout" else running.stderr).write(data)

    def _on_message(self, kernel: Live, message: Message) -> None:
        if message.kind == "flushed":
            # The kernel is about to start a process that writes to the pipes; what it printed before is now with us.
            with contextlib.suppress(OSError):
                os.write(kernel.acknowledge, b".")
            return
        if message.kind in STREAMS:
            self._on_text(kernel, message)
            return
        running = self._running
        if running is None or message.execution != running.id or running.reply is not None:
            return  # after its reply a kernel says nothing more, and what is read then would be read in nobody's time
        if message.kind in ("display_data", "update_display_data", "execute_result"):
            self._result(running, message)
        elif message.kind == "error":
            self._error(running, message)
        elif message.kind == "begun":
            self._begun(running)
        elif message.kind == "wants" and running.functions:
            self._wants(running, message)
        elif message.kind == "reply":
            running.reply = message.read(bounds.MAX_SAID)

    def _begun(self, running: Running) -> None:
        """From now on the kernel hears an interrupt, also one that it was sent before."""
        if not running.begun and running.kill_at is not None:
            self._send_interrupt(running)
        running.begun = True

    def _on_text(self, kernel: Live, message: Message) -> None:
        told, again = kernel.told[message.kind], 0
        if message.start <= told:  # else it leaves a gap, and all that comes later would pass for said already
            again = told - message.start
            kernel.told[message.kind] = max(told, message.start + len(message.content))
        if self._running is not None and message.execution == self._running.id:
            self._text(message.kind, message.content[again:])

    def _result(self, running: Running, message: Message) -> None:
        if running.read_results >= self._policy.results:
            running.dropped_results += 1
            return
        content = message.read(bounds.max_result(self._policy.result_bytes))
        running.read_results += 1
        kept, size, left_out = bounds.result(content, min(self._policy.result_bytes, running.result_room))
        running.dropped_results += left_out
        if not kept:
            return
        running.result_room -= size
        count = content.get("execution_count") if message.kind == "execute_result" else None
        self._send(encode_json(Frame.RESULT, {"data": kept, "execution_count": count}))

    def _error(self, running: Running, message: Message) -> None:
        if not running.error_sent:
            self._send_error(running, message.read(bounds.MAX_SAID))

    def _send_error(self, running: Running, content: dict[str, Any]) -> None:
        running.error_sent = True
        self._send(encode_json(Frame.ERROR, bounds.error(content)))

    def _wants(self, running: Running, message: Message) -> None:
        """Calls of the caller's functions. What an honest kernel would not send is dropped: nobody waits for it."""
        calls = message.read(bounds.MAX_CALLS).get("calls")
        told = []
        for call in calls if isinstance(calls, list) else ():
            if len(running.waiting) < MAX_WAITING and bounds.is_call(call, running.functions, running.waiting):
                running.waiting.add(call[0])
                told.append(call)
        if told:
            running.deadline.stop(time.monotonic())
            self._send(encode_json(Frame.WANTS, {"calls": told}))

    # The execution.

    def _execute(self, value: dict[str, Any]) -> None:
        if self._running is not None or self._waiting is not None:
            raise BadFrame("EXECUTE while another execution is in flight")
        self._waiting = value
        self._start_waiting()

    def _start_waiting(self) -> None:
        kernel, value = self._kernel, self._waiting
        if value is None or kernel is None or not kernel.ready or kernel.deaf or kernel.doomed:
            return
        if not _lives(kernel.pid):
            # The news of its death is on its way, and then a kernel that this can run on. But where only its first
            # thread has ended there is no news before the others have, and none at all from a zygote that was stopped.
            self._kill_all()
            return
        self._waiting = None
        self._discard_leftovers(kernel)
        self._running = self._prepare(value)
        kernel.link.execute(self._running.id, str(value["code"]), self._running.functions)
        self._send(encode_json(Frame.STARTED, {"id": self._running.id}))

    def _prepare(self, value: dict[str, Any]) -> Running:
        execution_id, timeout = str(value["id"]), float(value["timeout"])
        before = self._workspace.walk()
        return Running(
            execution_id,
            Deadline(time.monotonic() + timeout),
            self._text_of(execution_id, "stdout", Frame.STDOUT),
            self._text_of(execution_id, "stderr", Frame.STDERR),
            before,
            result_room=4 * self._policy.result_bytes,
            functions=value.get("functions") or {},
        )

    def _text_of(self, execution_id: str, name: str, kind: Frame) -> Text:
        def emit(text: str) -> None:
            if text:
                self._send(encode(kind, text.encode()))

        spill = Spill(self._policy.workspace, f"{execution_id}.{name}.txt", self._policy.spill_bytes)
        return Text(self._policy.output_bytes, emit, spill)

    def _discard_leftovers(self, kernel: Live) -> None:
        for fd in list(kernel.pipes):
            for _ in range(16):
                if not self._read_pipe(kernel, fd):
                    break

    def _drain(self, kernel: Live) -> None:
        """What the kernel said last is still on its way; bounded, because a leftover may talk for ever."""
        for fd in list(kernel.pipes):
            for _ in range(64):
                if not self._read_pipe(kernel, fd):
                    break
        if kernel.ready and not kernel.deaf:
            self._hear(kernel, 1024)

    def _end(self, died: int | None) -> None:
        running = self._running
        assert running is not None
        if died is None and self._kernel is not None:
            self._drain(self._kernel)
        reply = running.reply or {}
        if died is None and reply.get("status") == "error" and not running.error_sent:
            self._send_error(running, reply)
        self._running = None
        if died is None and self._kernel is not None and (running.timed_out or running.interrupted):
            # Nothing but the kernel goes on running.
            self._kill_all(but=frozenset({self._kernel.pid}))
        running.stdout.end()
        running.stderr.end()
        after = self._workspace.walk()
        ending = {
            "id": running.id,
            "died": died,
            "reply": reply.get("status"),
            "execution_count": reply.get("execution_count"),
            "timed_out": running.timed_out,
            "interrupted": running.interrupted,
            "dropped": [running.stdout.dropped, running.stderr.dropped, running.dropped_results],
            "workspace": after.mark(),
        }
        self._send(encode_rows(Frame.DONE, ending, _changes(running.before, after)))


def _changes(before: Walk, after: Walk) -> list[list[Any]]:
    """Rows of the files that are not what they were."""
    changes = list[list[Any]]()
    for path, seen in sorted(after.files.items()):
        if path not in before.files and before.sight.tells_of(path):
            changes.append([path, seen.size, "created"])
        elif before.files.get(path) != seen:
            changes.append([path, seen.size, "changed"])
    gone = sorted(before.files.keys() - after.files.keys())
    return changes + [[path, 0, "removed"] for path in gone if after.sight.tells_of(path)]


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # its name may be any bytes
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _signal_all(number: int) -> None:
    # As PID 1, -1 is everybody else in this sandbox, as Ctrl-C is everybody in a terminal's foreground.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def run(source: int, sink: int, spawner: Spawner, policy: Policy) -> NoReturn:
    """Be the init of a sandbox whose containment is done. The host writes to `source` and reads from `sink`.

    Both may be one descriptor, of a socket.
    """
    Relay(source, sink, spawner, policy).run()
