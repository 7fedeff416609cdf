"""What is raised in a finalizer or a callback of the collector, where Python has nobody to give it to."""

import _thread
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

_LATER_S = 0.001
"""For the finalizer to return. If the next one gets it, it comes once more."""


def insist_on_interrupts(handler: Callable[..., Any], running: Callable[[], object]) -> None:
    """From now on an interrupt that came there comes again: Python would print it, and the program would go on.

    Not where the program has a handler or a hook of its own, or as many threads as it may, nor if it comes while the
    hook tells of something else.

    handler: of SIGINT, a function that raises. What a program makes up itself has not come through it.
    running: what it was meant for. It comes to nothing else.
    """

    def on_unraisable(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt and _came_by(handler, unraisable):
            try:
                _thread.start_new_thread(_interrupt, (running, running()))
                return
            except RuntimeError:  # no room for a thread
                pass
        sys.__unraisablehook__(unraisable)

    sys.unraisablehook = on_unraisable


def _came_by(handler: Callable[..., Any], unraisable: Any) -> bool:
    return any(frame.f_code is handler.__code__ for frame, _ in traceback.walk_tb(unraisable.exc_traceback))


def _interrupt(running: Callable[[], object], meant: object) -> None:
    time.sleep(_LATER_S)
    main = threading.main_thread().ident
    if main is not None and running() is meant:
        signal.pthread_kill(main, signal.SIGINT)
