"""What is raised where Python has nobody to give it to: in a finalizer, or in a callback of the collector."""

import os
import signal
import sys
import threading
import traceback
from _thread import start_new_thread
from collections.abc import Callable
from signal import pthread_kill
from time import sleep
from types import FrameType
from typing import Any

_LATER_S = 0.001
"""For the finalizer to return. If the next one gets it, it comes once more."""
_PUT_OFF = 100
"""Times in a row, at most: what is told may never be told to its end."""


class Insistence:
    """Has an interrupt come again that came there: Python would print it, and the program would go on.

    Not where the program has a handler or a hook of its own, or as many threads as it may.
    """

    def __init__(self, handler: Callable[..., Any], auditor: Callable[..., Any], running: Callable[[], object]) -> None:
        """handler: of SIGINT, a function that raises; what a program makes up itself has not come through it.

        auditor: of (kernel, event, args). Asked by Python before it tells of anything, and what that raises is told in
            its stead.
        running: what an interrupt is meant for. It comes to nothing else.
        """
        self._handler = handler.__code__
        self._auditor = auditor.__code__
        self._running = running
        self._put_off = 0
        self._quiet: object = None
        """Something while an interrupt is on its way again. What is raised meanwhile is not told: while one is told
        other threads have their turn, and of a program that does little else it would come just then, always.
        """

    def begin(self) -> None:
        """From now on."""
        sys.unraisablehook = self._on_unraisable
        os.register_at_fork(after_in_child=self._tell)

    def puts_off(self, frame: FrameType | None) -> bool:
        """Whether an interrupt that came at `frame` comes later instead, because there it would be swallowed.

        May raise `RecursionError`, where there is no room on the stack.
        """
        while frame is not None and not self._tells(frame):
            frame = frame.f_back
        self._put_off = 0 if frame is None else self._put_off + 1
        return 0 < self._put_off <= _PUT_OFF and self._comes_again()

    def _tells(self, frame: FrameType) -> bool:
        if frame.f_code is self._auditor:
            return bool(frame.f_locals["event"] == "sys.unraisablehook")
        return frame.f_code is Insistence._on_unraisable.__code__

    def _on_unraisable(self, unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt and self._came_by(unraisable) and self._comes_again():
            return
        if self._quiet is None:
            sys.__unraisablehook__(unraisable)

    def _came_by(self, unraisable: Any) -> bool:
        return any(frame.f_code is self._handler for frame, _ in traceback.walk_tb(unraisable.exc_traceback))

    def _comes_again(self) -> bool:
        self._quiet = again = object()
        try:
            start_new_thread(self._interrupt, (self._running(), again))
        except RuntimeError:  # no room for a thread
            self._tell()
            return False
        return True

    def _tell(self) -> None:
        self._quiet = None

    def _interrupt(self, meant: object, again: object) -> None:
        try:
            sleep(_LATER_S)
            main = threading.main_thread().ident
            if main is not None and self._running() is meant:
                pthread_kill(main, signal.SIGINT)
        finally:
            if self._quiet is again:
                self._tell()
