"""The kernel: an ordinary ipykernel in one thread, most of it built before the fork.

`Kernel.prepare()` runs in the zygote and makes everything that holds no socket, thread or randomness. `serve()` runs
after the fork: it makes the sockets, tells init where they are, and runs the loop. `python -m sandbox.guest.kernel
-f FILE` serves a Jupyter connection file instead, so that any Jupyter client can talk to this very kernel.
"""

import asyncio
import contextlib
import contextvars
import faulthandler
import functools
import glob
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import thread as pool_thread
from types import SimpleNamespace
from typing import Any, NoReturn

import zmq
from ipykernel.ipkernel import IPythonKernel
from ipykernel.jsonutil import json_clean
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core import logger as _logger  # noqa: F401  # the first cell would import it after the fork
from IPython.core.compilerop import CachingCompiler
from IPython.core.error import UsageError
from jupyter_client.session import Session
from tornado.ioloop import IOLoop
from tornado.platform import asyncio as _  # noqa: F401  # IOLoop would import it after the fork
from traitlets.config import Config
from zmq.eventloop.zmqstream import ZMQStream

from sandbox.guest import lookups, tracebacks
from sandbox.guest.calls import Calls
from sandbox.guest.rehearsal import touch
from sandbox.guest.streams import Output, Publisher

_FLUSH_SECONDS = 0.5
"""A wait for init's word before a process is started; without it the order of output is all that suffers."""
_SEND_QUEUE = 64
"""IOPub messages that may wait for a slow reader before the writer blocks."""
_NOTHING = contextlib.nullcontext()


class _Compiler(CachingCompiler):
    def __init__(self) -> None:
        super().__init__()
        # codeop's flags are for a prompt that waits for more lines: of a bracket left open in a cell they would have
        # the compiler say no more than "incomplete input".
        self.flags = 0

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return f"Cell In[{number}]"


class Shell(ZMQInteractiveShell):
    """IPython's shell, plain: no colour, no pager, no pty, no way to end the kernel by leaving it."""

    def init_environment(self) -> None:
        os.environ.update(TERM="dumb", NO_COLOR="1", PAGER="cat", GIT_PAGER="cat")

    def init_user_ns(self) -> None:
        super().init_user_ns()
        # IPython's own would end the kernel; a program that leaves is done, and its session goes on.
        self.user_ns["exit"] = self.user_ns["quit"] = sys.exit

    def enable_matplotlib(self, gui: Any = None) -> Any:
        # `%matplotlib notebook`, `widget`, `tk`: nobody is there to click, and inline figures are what is meant.
        return super().enable_matplotlib("inline")

    def enable_gui(self, gui: Any = None) -> None:
        if gui not in (None, "", "none", "inline", "asyncio"):
            raise UsageError(f"there is no screen for {gui} here; figures are shown inline")

    def system(self, command: str) -> None:
        """`!command`: its output streamed, without the pty that IPython would open."""
        if command.rstrip().endswith("&"):
            raise OSError("background processes are not supported by !; use subprocess.Popen")
        sys.stdout.flush()
        sys.stderr.flush()
        expanded = self.var_expand(command, depth=1)
        self.user_ns["_exit_code"] = subprocess.call(expanded, shell=True, stdin=subprocess.DEVNULL)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        try:
            kind, value, tb = self._get_exc_info(exc_tuple)
        except ValueError:
            print("No traceback available to show.", file=sys.stderr)
            return
        if issubclass(kind, SystemExit) and not value.code:
            self._last_traceback: list[str] = []
        elif issubclass(kind, UsageError):
            self._showtraceback(kind, value, [f"UsageError: {value}"])
        else:
            self._showtraceback(kind, value, [tracebacks.render(kind, value, tb)])

    def showsyntaxerror(self, filename: str | None = None, running_compiled_code: bool = False) -> None:
        self.showtraceback()

    def _format_exception_for_storage(self, exception: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # For a history that is off; IPython would render the whole traceback a second time, at length.
        return {}

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        hook = self.displayhook
        if getattr(hook, "msg", None) is not None:
            self._last_traceback_during_displayhook = True
        content = {"ename": etype.__name__, "evalue": tracebacks.safe_text(evalue), "traceback": stb}
        content["looked_in"], content["available"] = lookups.find(evalue, tracebacks.is_users)
        hook.session.send(hook.pub_socket, "error", json_clean(content), hook.parent_header, ident=b"error")
        self._last_traceback = stb


class Kernel(IPythonKernel):
    """ipykernel's kernel without its threads: shell and control are served by the main thread's loop."""

    shell_class = Shell
    compiler_class = _Compiler

    @classmethod
    def prepare(cls) -> "Kernel":
        """Build what survives a fork. No socket, no thread, no file descriptor."""
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        config.InteractiveShell.xmode = "Context"
        config.Completer.use_jedi = False
        publisher = Publisher()
        # Its import is 60 % of ipykernel's own start-up; a kernel without it has no debugger.
        modules: dict[str, Any] = sys.modules
        modules["debugpy"] = None
        kernel: Kernel = cls.instance(config=config, session=Session(key=b""), iopub_socket=publisher, log=_log())
        del modules["debugpy"]
        kernel.publisher = publisher
        kernel._execute_sleep = 0.0
        # do_execute asks which thread owns the shell channel.
        kernel.shell_channel_thread = SimpleNamespace(parent_thread=threading.main_thread())
        kernel.outputs = [
            Output(name, fd, kernel.publish_stream, kernel.current_parent)
            for name, fd in (("stdout", 1), ("stderr", 2))
        ]
        kernel.calls = Calls(kernel.publish_calls)
        kernel.shell.displayhook.get_execution_count = lambda: kernel.execution_count
        if "matplotlib" in sys.modules:
            kernel.shell.enable_matplotlib("inline")
        warnings.filterwarnings("ignore", message="To exit: use 'exit'")
        _follow_threads(kernel)
        return kernel

    publisher: Publisher
    link: socket.socket | None = None
    """To init, which answers on it that it has seen what was published. None for other clients."""
    outputs: list[Output]
    calls: Calls
    subscriptions: ZMQStream
    """Who begins to listen to the publisher's socket."""

    @property
    def _supports_kernel_subshells(self) -> bool:
        return False

    # Init knows what it has asked for and when it began; other clients are told as Jupyter has it.

    def _publish_execute_input(self, *args: Any) -> None:
        if self.link is None:
            super()._publish_execute_input(*args)

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        if self.link is None or status != "busy":
            super()._publish_status(status, channel, parent)

    def publish_stream(self, name: str, text: str, parent: Any) -> None:
        """A stream message on behalf of the execution in `parent`."""
        content = {"name": name, "text": text}
        self.session.send(self.publisher, "stream", content, parent, ident=b"stream." + name.encode())

    def publish_calls(self, calls: list[list[Any]], parent: Any) -> None:
        """Functions that the execution in `parent` waits for. What it has printed before comes before."""
        _flush()
        self.session.send(self.publisher, "wants", {"calls": calls}, parent, ident=b"wants")

    def current_parent(self) -> Any:
        """The request that the calling thread works for: threads belong to the execution that started them."""
        return getattr(threading.current_thread(), "sandbox_parent", None) or self.get_parent("shell")

    def start(self) -> None:
        """Register the dispatchers; both channels are served by the main thread's loop."""
        self.io_loop = IOLoop.current()
        self._control_lock = asyncio.Lock()
        self._cell_context = contextvars.copy_context()
        self.control_handlers["answer"] = self._on_answer
        self.control_stream.on_recv(self.dispatch_control, copy=False)
        self.shell_stream.on_recv(self._on_shell, copy=False)
        self._publish_status("starting", "shell")

    def _on_shell(self, message: Any) -> None:
        # One context for all cells: a context variable set in one is there in the next.
        self._request = asyncio.create_task(self.shell_main(None, message), context=self._cell_context)
        self._request.add_done_callback(_insist)

    def _on_answer(self, stream: Any, ident: Any, message: Any) -> None:
        self.calls.answer(message["content"]["answers"])

    async def shell_channel_thread_main(self, msg: Any) -> None:
        raise NotImplementedError("there is no shell channel thread")

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        # A client that wants it: requests that are already here when one fails are answered, not run.
        self._aborting = True
        self.shell_stream.flush()
        self.io_loop.add_callback(self._stop_aborting)

    def _stop_aborting(self) -> None:
        self._aborting = False

    def pre_handler_hook(self) -> None:
        self.saved_sigint_handler = signal.signal(signal.SIGINT, self.publisher.on_sigint)

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: "asyncio.Task[Any]") -> Iterator[None]:
        """Around a cell that awaits. ipykernel's own does not wake a loop that has nothing else to do."""
        loop = asyncio.get_running_loop()

        def on_sigint(number: int, frame: Any) -> None:
            if asyncio.current_task(loop) is future:  # it computes; in any other task an exception would end the loop
                self.publisher.on_sigint(number, frame)
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

    async def do_execute(self, code: str, silent: bool, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run a cell. A fork made by the cell ends with the cell, as it would at the end of a script."""
        pid = os.getpid()
        status = 1
        try:
            with self._lent(kwargs.get("cell_meta")):
                reply: dict[str, Any] = await super().do_execute(code, silent, *args, **kwargs)
            status = 0 if reply["status"] == "ok" else 1
        except Exception as error:
            # Not raised by the cell but around it, where a program broke something: ipykernel would answer nothing.
            reply = {"status": "error", "execution_count": self.execution_count, "ename": type(error).__name__}
            reply |= {"evalue": tracebacks.safe_text(error), "traceback": traceback.format_exception(error)}
        finally:
            if os.getpid() != pid:
                os._exit(status)
        self._mend_streams()
        if reply["status"] == "error" and reply["ename"] == "SystemExit" and reply["evalue"] in ("", "0", "None"):
            # Leaving with success is not a failure.
            reply = {"status": "ok", "execution_count": reply["execution_count"], "payload": [], "user_expressions": {}}
        return reply

    def _lent(self, metadata: Any) -> "contextlib.AbstractContextManager[None]":
        """Functions of the caller's, if init names any for this cell."""
        functions = metadata.get("functions") if metadata and self.link is not None else None
        if not functions:
            return _NOTHING
        return self.calls.lent(functions, self.get_parent("shell"), self.shell.user_ns)

    def _mend_streams(self) -> None:
        """A program may have closed its streams or put None there; ipykernel cannot do without."""
        for output in self.outputs:
            try:
                getattr(sys, output.name).flush()
            except Exception:
                setattr(sys, output.name, output)

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        self.io_loop.call_later(0.05, self.io_loop.stop)
        return {"status": "ok", "restart": restart}


def _log() -> logging.Logger:
    """Errors of the kernel itself, apart from whatever logging the program sets up."""
    log = logging.getLogger("sandbox.kernel")
    log.propagate = False
    log.setLevel(logging.ERROR)
    log.addHandler(logging.StreamHandler(sys.__stderr__))
    return log


def _insist(request: "asyncio.Task[None]") -> None:
    """A request that failed outside the program would never be answered: better no kernel than a silent one."""
    if not request.cancelled() and request.exception() is not None:
        traceback.print_exception(request.exception(), file=sys.__stderr__)
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


def reseed() -> None:
    """Give this fork randomness of its own; every child of one zygote starts with the same state."""
    random.seed(os.urandom(32))
    if "numpy" in sys.modules:
        sys.modules["numpy.random"].seed([int.from_bytes(os.urandom(4), "little") for _ in range(4)])
    for module, name in ((uuid, "_last_timestamp"), (uuid, "_node"), (tempfile, "_name_sequence")):
        setattr(module, name, None)


def link_font_cache() -> None:
    """Give matplotlib the image's ready-made font list; without it every process would scan for seconds."""
    directory = os.environ.get("MPLCONFIGDIR")
    if directory:
        os.makedirs(directory, exist_ok=True)
        for path in _FONT_LISTS:
            with contextlib.suppress(FileExistsError):
                os.symlink(path, os.path.join(directory, os.path.basename(path)))


_FONT_LISTS = tuple(glob.glob(f"{sys.prefix}/share/matplotlib/fontlist-*.json"))


def _import_from_workspace() -> None:
    """Make modules in the working directory importable, after the standard library, as Jupyter does."""
    libraries = (i for i, entry in enumerate(sys.path) if entry.endswith("site-packages"))
    sys.path.insert(next(libraries, len(sys.path)), "")


def _adopt_process(kernel: Kernel) -> None:
    """Everything in the prepared kernel that remembers a process."""
    _import_from_workspace()
    kernel.ident = str(uuid.uuid4())
    kernel.session.pid = os.getpid()
    kernel.session.session = uuid.uuid4().hex
    for output in kernel.outputs:
        output.adopt()
    kernel._stdout, kernel._stderr = kernel.outputs
    sys.stdout, sys.stderr = kernel.outputs
    os.register_at_fork(before=_flush, after_in_child=lambda: _forget(kernel))
    sys.addaudithook(lambda event, args: _settle(kernel) if _is_settled_before(event, args) else None)
    for name in ("_exit", "abort"):  # no audit event tells of these
        setattr(os, name, _settled_before(kernel, getattr(os, name)))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _forget(kernel: Kernel) -> None:
    kernel.publisher.detach()
    for output in kernel.outputs:
        output.after_fork_in_child()


_SPAWNS = frozenset({"subprocess.Popen", "os.system", "os.posix_spawn"})
_SIGNALS = frozenset({"os.kill", "os.killpg"})


def _is_settled_before(event: str, args: tuple[Any, ...]) -> bool:
    # Signal 0 only asks whether a process is there, maybe in a loop.
    return event in _SPAWNS or (event in _SIGNALS and args[1] != 0)


def _settle(kernel: Kernel) -> None:
    """Wait until init has what was printed: a child writes to the descriptors directly, a death sends nothing more."""
    if os.getpid() != kernel.session.pid:
        return
    _flush()
    if kernel.link is None:
        return
    with contextlib.suppress(Exception):  # nothing that a program broke may stand before its own end
        kernel.session.send(kernel.publisher, "flushed", {}, kernel.get_parent("shell"), ident=b"flushed")
        kernel.link.recv(1)


def _settled_before(kernel: Kernel, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def settled(*args: Any, **kwargs: Any) -> Any:
        _settle(kernel)
        return function(*args, **kwargs)

    return settled


def _bind(kernel: Kernel, context: "zmq.Context[zmq.Socket[bytes]]", endpoints: dict[str, str]) -> None:
    loop = IOLoop.current()
    sockets = {}
    for name, kind in (("shell", zmq.ROUTER), ("control", zmq.ROUTER), ("iopub", zmq.XPUB)):
        sockets[name] = context.socket(kind)
        sockets[name].linger = 1000
        if name == "iopub":
            # Block rather than drop: lost output, or a lost `idle`, would be a lie.
            sockets[name].setsockopt(zmq.XPUB_NODROP, 1)
            sockets[name].setsockopt(zmq.SNDHWM, _SEND_QUEUE)
        sockets[name].bind(endpoints[name])
    kernel.publisher.attach(sockets["iopub"])
    kernel.shell_stream = ZMQStream(sockets["shell"], loop)
    kernel.control_stream = ZMQStream(sockets["control"], loop)
    kernel.subscriptions = ZMQStream(sockets["iopub"], loop)
    kernel.subscriptions.on_recv(lambda frames: _welcome(kernel, frames))


def _welcome(kernel: Kernel, frames: list[bytes]) -> None:
    """Tell a new subscriber that it is subscribed: what is published from now on reaches it."""
    for frame in frames:
        if frame[:1] == b"\x01":
            kernel.session.send(
                kernel.publisher, "iopub_welcome", {"subscription": frame[1:].decode()}, ident=frame[1:] or None
            )


def _serve(kernel: Kernel) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.start()
    # A subscription that came while we published is known to the socket, but its descriptor no longer says so.
    kernel.io_loop.add_callback(kernel.subscriptions.flush, zmq.POLLIN)
    kernel.io_loop.start()


def serve(kernel: Kernel, link: socket.socket) -> NoReturn:
    """Become init's kernel. `link` is a stream to init: one JSON line in, one JSON line with two descriptors out."""
    request = json.loads(link.makefile("rb").readline())
    os.environ.clear()
    os.environ.update(request["env"])
    kernel.shell.init_environment()
    link_font_cache()
    reseed()
    readers = []
    for fd in (1, 2):
        reader, writer = os.pipe()
        os.dup2(writer, fd)
        os.close(writer)
        readers.append(reader)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _adopt_process(kernel)
    faulthandler.enable(file=2)  # a crash in native code says where it was
    touch(kernel)
    endpoints = {name: f"ipc://@{name}-{uuid.uuid4().hex}" for name in ("shell", "control", "iopub")}
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    _bind(kernel, context, endpoints)
    socket.send_fds(link, [json.dumps(endpoints).encode() + b"\n"], readers)
    for reader in readers:
        os.close(reader)
    link.settimeout(_FLUSH_SECONDS)
    kernel.link = link
    _serve(kernel)
    os._exit(0)


def main(argv: list[str]) -> None:
    """Serve a Jupyter connection file: `-f FILE`."""
    from ipykernel.heartbeat import Heartbeat

    with open(argv[argv.index("-f") + 1]) as file:
        connection = json.load(file)
    kernel = Kernel.prepare()
    kernel.session.key = connection["key"].encode()
    _adopt_process(kernel)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    address = f"{connection['transport']}://{connection['ip']}:"
    _bind(kernel, context, {name: address + str(connection[f"{name}_port"]) for name in ("shell", "control", "iopub")})
    heartbeat = Heartbeat(zmq.Context(), (connection["transport"], connection["ip"], connection["hb_port"]))
    heartbeat.start()
    _serve(kernel)


if __name__ == "__main__":
    main(sys.argv)
