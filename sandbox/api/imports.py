"""Modules that take long to import, for whoever has something else to do meanwhile."""

import asyncio
import gc
import sys
from importlib import import_module
from types import ModuleType

_TURN_S = 0.0005
"""How long an import may keep the loop waiting, which has others to see to, instead of Python's 5 ms."""


async def imported(name: str) -> ModuleType:
    """The module, imported in a thread. One at a time."""
    return await asyncio.to_thread(_imported, name)


def _imported(name: str) -> ModuleType:
    turn = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    gc.disable()  # nothing of this is garbage, and to find that out takes a fifth of the time
    try:
        return import_module(name)
    finally:
        gc.enable()
        sys.setswitchinterval(turn)
