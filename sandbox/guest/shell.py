"""IPython's shell as kernels here have it: plain, without a terminal, and without a way out."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ipykernel.jsonutil import json_clean
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.async_helpers import _asyncio_runner, _pseudo_sync_runner
from IPython.core.compilerop import CachingCompiler
from IPython.core.error import UsageError
from IPython.core.events import EventManager
from traitlets import Instance

from sandbox.guest import lookups, packages, tracebacks
from sandbox.guest.shortcuts import Formatter, Transformer

_AWAITS = re.compile(r"\b(await|async)\b")
Cancelling = Callable[["asyncio.Task[Any]"], "contextlib.AbstractContextManager[None]"]


class Compiler(CachingCompiler):
    def __init__(self) -> None:
        super().__init__()
        # codeop's flags are for a prompt that waits for more lines: of a bracket left open in a cell they would have
        # the compiler say no more than "incomplete input".
        self.flags = 0

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return f"Cell In[{number}]"


class Events(EventManager):
    """IPython's takes an interrupt for a failure of the callback that it finds at work, and goes on with the cell."""

    def trigger(self, event: str, *args: Any, **kwargs: Any) -> None:
        for callback in tuple(self.callbacks[event]):
            try:
                callback(*args, **kwargs)
            except Exception:
                print(f"Error in callback {callback} (for {event}):")
                self.shell.showtraceback()


class Shell(ZMQInteractiveShell):
    """IPython's shell, plain: no colour, no pager, no pty, no way to end the kernel by leaving it."""

    input_transformer_manager = Instance(Transformer, ())
    events: EventManager

    def init_display_formatter(self) -> None:
        self.display_formatter = Formatter(parent=self)
        self.configurables.append(self.display_formatter)

    async def run_once(self, code: str, silent: bool, history: bool, cancelling: Cancelling) -> Any:
        """Run a cell, and return IPython's ExecutionResult.

        As `run_cell` and ipykernel do between them, who for each other's sake transform it twice and compile it four
        times. cancelling: what surrounds a cell that awaits.
        """
        self._last_traceback: list[str] = []
        self._last_traceback_during_displayhook = False
        if self.trio_runner or self.loop_runner is not _asyncio_runner:
            return self.run_cell(code, history, silent)  # %autoawait with another loop
        try:
            cell, failure = self.transform_cell(code), None
        except Exception:
            cell, failure = code, sys.exc_info()
        how = {"transformed_cell": cell, "preprocessing_exc_tuple": failure}
        running = self.run_cell_async(code, store_history=history, silent=silent, **how)
        result = None
        try:
            if _AWAITS.search(cell) and self.should_run_async(code, **how):
                task = asyncio.ensure_future(running)
                with cancelling(task):
                    result = await task
            else:
                result = _pseudo_sync_runner(running)
        finally:
            self.events.trigger("post_execute")
            if not silent:
                self.events.trigger("post_run_cell", result)
        return result

    def init_events(self) -> None:
        super().init_events()
        events = Events(self, self.events.callbacks)
        events.callbacks.update(self.events.callbacks)
        self.events = events

    def init_environment(self) -> None:
        os.environ.update(TERM="dumb", NO_COLOR="1", PAGER="cat", GIT_PAGER="cat")

    def init_user_ns(self) -> None:
        super().init_user_ns()
        # IPython's own would end the kernel; a program that leaves is done, and its session goes on.
        self.user_ns["exit"] = self.user_ns["quit"] = sys.exit

    def ask_exit(self) -> None:
        sys.exit()  # ipykernel's would stop the loop, under the next cell

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

    def print_pages(self) -> None:
        """Of `name?` and the like: from now on what is for a pager is printed."""

        def print_page(shell: Any, text: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
            print(text.get("text/plain", "") if isinstance(text, dict) else text)

        self.set_hook("show_in_pager", print_page, 0)

    def init_magics(self) -> None:
        super().init_magics()
        packages.register(self)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        try:
            kind, value, tb = self._get_exc_info(exc_tuple)
        except ValueError:
            print("No traceback available to show.", file=sys.stderr)
            return
        if issubclass(kind, SystemExit) and not value.code:
            self._last_traceback = []
        elif issubclass(kind, UsageError):
            self._showtraceback(kind, value, [f"UsageError: {tracebacks.safe_text(value)}"])
        else:
            self._showtraceback(kind, value, [tracebacks.render(kind, value, tb)])

    def showsyntaxerror(self, filename: str | None = None, running_compiled_code: bool = False) -> None:
        self.showtraceback()

    def _tee(self, channel: str) -> "contextlib.AbstractContextManager[None]":
        # IPython would keep all that is ever printed, for a history that nobody reads.
        return contextlib.nullcontext()

    def _format_exception_for_storage(self, exception: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # For a history that is off; IPython would render the whole traceback a second time, at length.
        return {}

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        stb = tracebacks.bounded(stb)
        hook = self.displayhook
        if getattr(hook, "msg", None) is not None:
            self._last_traceback_during_displayhook = True
        content = {"ename": tracebacks.name_of(etype), "evalue": tracebacks.safe_text(evalue), "traceback": stb}
        content["looked_in"], content["available"] = lookups.find(evalue, tracebacks.is_users)
        hook.session.send(hook.pub_socket, "error", json_clean(content), hook.parent_header, ident=b"error")
        self._last_traceback = stb
