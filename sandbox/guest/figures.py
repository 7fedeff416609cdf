"""Figures are shown inline, whatever backend a program asks for: there is no screen, and all can draw into files."""

from importlib import import_module
from typing import Any


def keep_inline() -> None:
    """From now on `matplotlib.use("Agg")` and the like change nothing: with them `show` would say nothing, to nobody.

    Figures that a cell leaves open are shown and closed at its end, as ever. For who has imported matplotlib.
    """
    matplotlib: Any = import_module("matplotlib")
    pyplot: Any = import_module("matplotlib.pyplot")
    switch, validated = pyplot.switch_backend, matplotlib.rcsetup.validate_backend

    def switch_backend(newbackend: str) -> None:
        if "inline" in str(validated(newbackend)):  # which may be matplotlib's mark for none
            switch(newbackend)

    def use(backend: str, *, force: bool = True) -> None:
        switch_backend(backend)

    pyplot.switch_backend, matplotlib.use = switch_backend, use
