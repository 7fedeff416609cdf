"""What is raised where Python has nobody to give it to: in a finalizer, or in a callback of the collector."""

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


class Insistence:
    """Has an interrupt come again that came there: Python would print it, and the program would go on.

    Not where the program has a handler or a hook of its own, or as many threads as it may.
    """

    def __init__(self, handler: Callable[..., Any], auditor: Callable[..., Any], running: Callable[[], object]) -> None:
        """handler: of SIGINT, a function that raises; what a program makes up itself has not come through it.

        auditor: asked by Python before it tells of anything, and what that raises is told in its stead.
        running: what an interrupt is meant for. It comes to nothing else.
        """
        self._handler = handler.__code__
        self._telling = {Insistence._on_unraisable.__code__, auditor.__code__}
        self._running = running
        self._quiet = False
        """An interrupt is on its way again. What is raised meanwhile is not told: while one is told other threads have
        their turn, and of a program that does little else the interrupt would come just then, always."""

    def begin(self) -> None:
        """From now on."""
        sys.unraisablehook = self._on_unraisable

    def puts_off(self, frame: FrameType | None) -> bool:
        """Whether an interrupt that came at `frame` comes later instead, because there it would be swallowed."""
        return any(each.f_code in self._telling for each, _ in traceback.walk_stack(frame)) and self._comes_again()

    def _on_unraisable(self, unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt and self._came_by(unraisable) and self._comes_again():
            return
        if not self._quiet:
            sys.__unraisablehook__(unraisable)

    def _came_by(self, unraisable: Any) -> bool:
        return any(frame.f_code is self._handler for frame, _ in traceback.walk_tb(unraisable.exc_traceback))

    def _comes_again(self) -> bool:
        try:
            start_new_thread(self._interrupt, (self._running(),))
        except RuntimeError:  # no room for a thread
            return False
        self._quiet = True
        return True

    def _interrupt(self, meant: object) -> None:
        sleep(_LATER_S)
        main = threading.main_thread().ident
        if main is not None and self._running() is meant:
            pthread_kill(main, signal.SIGINT)
        self._quiet = False
