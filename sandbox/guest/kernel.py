"""The kernel: an ordinary ipykernel in one thread, most of it built before the fork.

`Kernel.prepare()` runs in the zygote and makes everything that holds no descriptor, thread or randomness. `serve()`
runs after the fork: it greets init over their link and runs the loop. What ipykernel would publish as Jupyter
messages goes over the link; `guest.jupyter` has the same kernel speak to any Jupyter client.
"""

import asyncio
import contextlib
import contextvars
import faulthandler
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import thread as pool_thread
from typing import Any, NoReturn

from ipykernel.ipkernel import IPythonKernel
from IPython.core import logger as _logger  # noqa: F401  # the first cell would import it after the fork
from jupyter_client.session import Session
from tornado.ioloop import IOLoop
from tornado.platform import asyncio as _  # noqa: F401  # IOLoop would import it after the fork
from traitlets.config import Config

from sandbox.guest import figures, pending, tracebacks
from sandbox.guest.adoption import adopt_process, audit, flush
from sandbox.guest.calls import Calls
from sandbox.guest.link import NUDGE, STREAMS, KernelEnd, Message
from sandbox.guest.link_session import LinkSession
from sandbox.guest.mapped import Mapped
from sandbox.guest.randomness import reseed
from sandbox.guest.rehearsal import touch
from sandbox.guest.shell import Compiler, Shell
from sandbox.guest.streams import Output, execution_of
from sandbox.guest.unraisable import Insistence

_SETTLE_S = 0.5
"""A wait for init's word before a process is started; without it the order of output is all that suffers."""
_TURN_S = 0.001
"""How long a thread may keep the interpreter that others want, instead of Python's 5 ms: an interrupt waits for its
turn with all of a program's threads that compute."""


class Kernel(IPythonKernel):
    """ipykernel's kernel without its threads and sockets: the main thread's loop serves the link to init."""

    shell_class = Shell
    compiler_class = Compiler

    @classmethod
    def prepare(cls) -> "Kernel":
        """Build what survives a fork. No socket, no thread, no file descriptor."""
        session = LinkSession.linked()
        kernel = cls._build(session, session.link, session.link)
        kernel.shell.print_pages()  # a page is for Jupyter's clients, of which here is none
        return kernel

    @classmethod
    def _build(cls, session: Session, publisher: Any, link: KernelEnd) -> "Kernel":
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        config.InteractiveShell.xmode = "Context"
        config.Completer.use_jedi = False
        # Its import is 60 % of ipykernel's own start-up; a kernel without it has no debugger.
        modules: dict[str, Any] = sys.modules
        modules["debugpy"] = None
        kernel: Kernel = cls.instance(config=config, session=session, iopub_socket=publisher, log=_log())
        del modules["debugpy"]
        kernel.link = link
        memory = pending.private()
        kernel.outputs = [
            Output(name, fd, memory[name], kernel.publish_text, kernel.current_parent)
            for fd, name in enumerate(STREAMS, 1)
        ]
        kernel.calls = Calls(kernel.publish_calls)
        kernel.mapped = Mapped(os.getcwd())
        kernel.shell.displayhook.get_execution_count = lambda: kernel.execution_count
        if "matplotlib" in sys.modules:
            kernel.shell.enable_matplotlib("inline")
            figures.keep_inline()
        warnings.filterwarnings("ignore", message="To exit: use 'exit'")
        _follow_threads(kernel)
        kernel._insistence = Insistence(cls.on_sigint, audit, lambda: kernel._cell)
        kernel._insistence.begin()
        return kernel

    link: KernelEnd
    outputs: list[Output]
    calls: Calls
    mapped: Mapped
    generators: tuple[Any, ...] = ()
    """Of random numbers, that all forks would share."""
    _insistence: Insistence
    _cell: "asyncio.Task[None] | None" = None
    """That runs, or ran last."""
    settled: int | None = None
    """Readable once init has seen what was sent before `flushed`."""
    _functions: Mapping[str, Sequence[str]] = {}
    """Of the caller's, for the cell that runs."""

    @property
    def _supports_kernel_subshells(self) -> bool:
        return False

    # What init asks for.

    def start(self) -> None:
        """Have the main thread's loop serve the link."""
        self.io_loop = IOLoop.current()
        self._cell_context = contextvars.copy_context()
        self.io_loop.add_handler(self.link.fileno(), self._on_link, IOLoop.READ)

    def _on_link(self, *event: Any) -> None:
        try:
            for message in self.link.receive():
                if message.kind == "execute":
                    self._on_execute(message)
                elif message.kind == "answer":
                    self.calls.answer(json.loads(message.content))
        except EOFError:
            self.io_loop.stop()

    def _on_execute(self, message: Message) -> None:
        running = self.run(message.execution, **json.loads(message.content))
        # One context for all cells: a context variable set in one is there in the next.
        self._cell = asyncio.create_task(running, context=self._cell_context)
        self._cell.add_done_callback(insist)

    async def run(
        self, execution: str, code: str, functions: Mapping[str, Sequence[str]], history: bool = True
    ) -> None:
        """Run a cell, and reply when all that it said has been sent."""
        async with self._main_asyncio_lock:
            self.set_parent([], _request(execution, code))
            self._functions = functions
            reply: dict[str, Any] | None = None
            # Of two interrupts the second may come anywhere until they are ignored again: nowhere may it end the loop.
            try:
                try:
                    self.pre_handler_hook()
                    reply = await self.do_execute(code, False, history)
                finally:
                    self.post_handler_hook()
            except KeyboardInterrupt as error:  # on the way to the cell, or back
                self.post_handler_hook()
                reply = reply or self._failed_around(error)
            with contextlib.suppress(Exception):  # of the tools that a program may have broken
                self.mapped.on_end()
            flush()
            self.link.send("reply", execution, self.session.pack(_told(reply)))

    # What init is told.

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        """Init knows what it has asked for and when it began."""

    def publish_text(self, stream: str, start: int, data: bytes, parent: Any) -> None:
        """Text on behalf of the execution in `parent`."""
        self.link.send_text(stream, execution_of(parent), start, data)

    def publish_calls(self, calls: list[list[Any]], parent: Any) -> None:
        """Functions that the execution in `parent` waits for. What it has printed before comes before."""
        flush()
        self.session.send(None, "wants", {"calls": calls}, parent)

    def current_parent(self) -> Any:
        """The request that the calling thread works for: threads belong to the execution that started them."""
        return getattr(threading.current_thread(), "sandbox_parent", None) or self.get_parent("shell")

    def settle(self) -> None:
        """Wait until init has what was printed: what a new process writes to the descriptors comes after it."""
        flush()
        if self.settled is None:
            return
        with contextlib.suppress(OSError):
            self.link.send("flushed", "-", b"{}")
            ready, _, _ = select.select([self.settled], [], [], _SETTLE_S)
            if ready:
                os.read(self.settled, 1)

    # The cell.

    async def shell_channel_thread_main(self, msg: Any) -> None:
        raise NotImplementedError("there is no shell channel thread")

    def pre_handler_hook(self) -> None:
        signal.signal(signal.SIGINT, self.on_sigint)

    def post_handler_hook(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def on_sigint(self, number: int, frame: Any) -> None:
        """Signal handler, while a cell runs."""
        try:
            is_put_off = self._insistence.puts_off(frame)
        except RecursionError:  # the program's frames leave no room to look
            is_put_off = False
        if not is_put_off:
            signal.default_int_handler(number, frame)

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: "asyncio.Task[Any]") -> Iterator[None]:
        """Around a cell that awaits. ipykernel's own does not wake a loop that has nothing else to do."""
        loop = asyncio.get_running_loop()

        def on_sigint(number: int, frame: Any) -> None:
            if asyncio.current_task(loop) is future:  # it computes; in any other task an exception would end the loop
                self.on_sigint(number, frame)
            else:
                loop.call_soon_threadsafe(future.cancel)

        before = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def raw_input(self, prompt: str = "") -> str:
        raise EOFError("input() has nobody to ask in this sandbox; put the value into the code or a file")

    def getpass(self, prompt: str = "", *args: Any, **kwargs: Any) -> str:
        raise EOFError("getpass() has nobody to ask in this sandbox; put the value into the code or a file")

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: Any = None,
        cell_id: Any = None,
    ) -> dict[str, Any]:
        """Run a cell. A fork made by the cell ends with the cell, as it would at the end of a script."""
        pid = os.getpid()
        status = 1
        try:
            self._forward_input(allow_stdin)
            try:
                with self._lent():
                    self.link.send("begun", execution_of(self.get_parent("shell")), b"{}")
                    result = await self.shell.run_once(code, silent, store_history, self._cancel_on_sigint)
            finally:
                self._restore_input()
            reply = self._reply_of(result, user_expressions or {})
            status = 0 if reply["status"] == "ok" else 1
        except (Exception, KeyboardInterrupt) as error:
            reply = self._failed_around(error)
        finally:
            if os.getpid() != pid:
                os._exit(status)
        self._mend_streams()
        if reply["status"] == "error" and reply["ename"] == "SystemExit" and reply["evalue"] in ("", "0", "None"):
            # Leaving with success is not a failure.
            reply = {"status": "ok", "execution_count": reply["execution_count"], "payload": [], "user_expressions": {}}
        return reply

    def _failed_around(self, error: BaseException) -> dict[str, Any]:
        """Not raised by the cell but around it, where a program broke something: ipykernel would answer nothing."""
        reply: dict[str, Any] = {"status": "error", "execution_count": self.execution_count, **_named(error)}
        return reply | {"traceback": _told_plainly(error)}

    def _reply_of(self, result: Any, expressions: dict[str, str]) -> dict[str, Any]:
        shell = self.shell
        reply = {"status": "ok", "execution_count": shell.execution_count - 1, "user_expressions": {}}
        if result.success and not shell._last_traceback_during_displayhook:
            reply["user_expressions"] = shell.user_expressions(expressions)
        else:
            error = result.error_in_exec if result.error_before_exec is None else result.error_before_exec
            reply |= {"status": "error", **_named(error)}
            reply["traceback"] = shell._last_traceback or []
        reply["payload"] = shell.payload_manager.read_payload()
        shell.payload_manager.clear_payload()
        return reply

    def _lent(self) -> "contextlib.AbstractContextManager[None]":
        if not self._functions:
            return contextlib.nullcontext()
        return self.calls.lent(self._functions, self.get_parent("shell"), self.shell.user_ns)

    def _mend_streams(self) -> None:
        """A program may have closed its streams or put None there; ipykernel cannot do without."""
        for output in self.outputs:
            try:
                getattr(sys, output.name).flush()
            except Exception:
                setattr(sys, output.name, output)


def _named(error: BaseException) -> dict[str, str]:
    return {"ename": tracebacks.name_of(type(error)), "evalue": tracebacks.safe_text(error)}


def _request(execution: str, code: str) -> dict[str, Any]:
    """What IPython and ipykernel believe they have been sent."""
    header = {"msg_id": execution, "msg_type": "execute_request", "session": "init", "username": "sandbox"}
    header |= {"date": "2000-01-01T00:00:00Z", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    return {"header": header, "msg_id": execution, "parent_header": {}, "metadata": {}, "content": content}


def _told(reply: Mapping[str, Any]) -> dict[str, Any]:
    names = ("status", "execution_count", "ename", "evalue", "traceback")
    return {name: reply[name] for name in names if name in reply}


def _log() -> logging.Logger:
    """Errors of the kernel itself, apart from whatever logging the program sets up."""
    log = logging.getLogger("sandbox.kernel")
    log.propagate = False
    log.setLevel(logging.ERROR)
    log.addHandler(logging.StreamHandler(sys.__stderr__))
    return log


def _told_plainly(error: BaseException | None) -> list[str]:
    # Without what it came from: that may be the program's, and break when it is looked at.
    with contextlib.suppress(Exception):
        return tracebacks.bounded(traceback.format_exception(error, chain=False))
    return []


def insist(request: "asyncio.Task[None]") -> None:
    """A request that failed outside the program would never be answered: better no kernel than a silent one."""
    if not request.cancelled() and request.exception() is not None:
        try:
            print(*_told_plainly(request.exception()), sep="", file=sys.__stderr__)
        finally:
            os._exit(70)


_POOL_WORKER = getattr(pool_thread, "_worker")  # noqa: B009  # private, and the only mark that such a thread has


def _follow_threads(kernel: Kernel) -> None:
    """Remember which execution started a thread, so that what it prints later is not the next one's output."""
    start = threading.Thread.start

    def start_for_parent(thread: threading.Thread) -> None:
        # A pool's workers serve whoever submits to them, not the execution that happened to start them.
        if getattr(thread, "_target", None) is not _POOL_WORKER:
            vars(thread)["sandbox_parent"] = kernel.current_parent()
        start(thread)

    setattr(threading.Thread, "start", start_for_parent)  # noqa: B010  # a method is being replaced, on purpose


def serve(kernel: Kernel, link: socket.socket) -> NoReturn:
    """Become init's kernel. `link` is a pair of packets with init, which says first what the environment is, whether
    somebody waits, where the files are, and how large a result may be.
    """
    told = json.loads(link.recv(1 << 16))
    _become_environment(told["env"])
    kernel.shell.init_environment()
    with contextlib.suppress(OSError):  # something of the program's may be in the way, and then it is its own
        figures.link_font_cache()
    reseed(kernel.generators)
    pipes = [_redirect(1), _redirect(2)]
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    adopt_process(kernel)
    sys.setswitchinterval(_TURN_S)
    faulthandler.enable(file=2)  # a crash in native code says where it was
    if not told["awaited"]:
        touch(kernel)
    kernel.settled, acknowledge = os.pipe()
    memory, fd = pending.shared()
    for output in kernel.outputs:
        output.gather_in(memory[output.name])
    kernel.link.attach(link)
    kernel.session.room, kernel.mapped = told["result_bytes"], Mapped(told["workspace"])
    kernel.link.hello([*pipes, acknowledge, fd])
    for each in (*pipes, acknowledge, fd):
        os.close(each)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(NUDGE, _on_nudge)
    kernel.start()
    kernel.io_loop.start()
    os._exit(0)


def _on_nudge(number: int, frame: Any) -> None:
    """Whatever else has come is seen now."""


def _become_environment(wanted: Mapping[str, str]) -> None:
    """Most of it is the zygote's, too, and to write it all would copy pages for nothing."""
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _redirect(fd: int) -> int:
    """Make a descriptor the writing end of a pipe, and return the other."""
    reader, writer = os.pipe()
    os.dup2(writer, fd)
    os.close(writer)
    return reader
