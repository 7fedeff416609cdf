"""matplotlib's figures: shown inline, whatever backend a program asks for, and with fonts that nobody looks for."""

import contextlib
import glob
import os
import sys
from importlib import import_module
from typing import Any

_FONT_LISTS = tuple(glob.glob(f"{sys.prefix}/share/matplotlib/fontlist-*.json"))


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


def link_font_cache() -> None:
    """Give matplotlib the image's ready-made font list; without it every process would scan for seconds."""
    directory = os.environ.get("MPLCONFIGDIR")
    if directory:
        os.makedirs(directory, exist_ok=True)
        for path in _FONT_LISTS:
            with contextlib.suppress(FileExistsError):
                os.symlink(path, os.path.join(directory, os.path.basename(path)))
