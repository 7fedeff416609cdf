"""What comes before a kernel is one: the image's libraries, and the objects that take no descriptor and no thread."""

import gc
import os
import runpy
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Literal

from sandbox.guest.figures import link_font_cache
from sandbox.guest.kernel import Kernel
from sandbox.guest.layout import join_libraries, side_by_side
from sandbox.guest.randomness import generators
from sandbox.guest.rehearsal import check_descriptors, recall, rehearse

Extent = Literal["little", "common", "all"]
"""How much is imported, from what the script itself does, which is ready soonest, to all that it names; with all of it,
cells are rehearsed and memory is put in order, too, which is worth seconds to a process that many are forked from."""


def preload(script: str, descriptors: set[int], extent: Extent) -> Kernel:
    """Run `script`, import what it names, and build a kernel. Garbage is not collected before somebody enables that.

    The script may name modules as `COMMON` and `LATER`, and cells to be rehearsed as `REHEARSAL`. Raises `RuntimeError`
    if a thread, or a descriptor beyond `descriptors`, is left over.
    """
    sys.argv = [""]
    # Put there by `-m`: the directory this process was started in is no place to import from.
    if os.getcwd() in sys.path:
        sys.path.remove(os.getcwd())
    gc.disable()
    if extent == "all":
        with side_by_side():
            kernel = _prepare(script, ("COMMON", "LATER"), rehearsed=True)
        join_libraries()
    else:
        kernel = _prepare(script, ("COMMON",) if extent == "common" else (), rehearsed=False)
    check_descriptors(descriptors)
    if threading.active_count() != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise RuntimeError(f"one thread is all that may be left, and there are: {names}")
    kernel.generators = generators()
    if extent == "all":
        recall(kernel)
    # Objects alive now are never traced again, so a fork's collections do not copy their pages.
    gc.freeze()
    return kernel


def _prepare(script: str, lists: Sequence[str], *, rehearsed: bool) -> Kernel:
    link_font_cache()
    found = runpy.run_path(script)
    for module in (module for name in lists for module in found.get(name, ())):
        import_module(module)
    kernel = Kernel.prepare()
    if rehearsed:
        rehearse(kernel, found.get("REHEARSAL", ()))
        gc.collect()
    return kernel
