"""Modules that take long to import, for whoever has something else to do meanwhile."""

import asyncio
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
    try:
        return import_module(name)
    finally:
        sys.setswitchinterval(turn)
