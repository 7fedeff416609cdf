"""What comes before a kernel is one: the image's libraries, and the objects that take no descriptor and no thread."""

import gc
import os
import runpy
import sys
import threading

from sandbox.guest.kernel import Kernel, link_font_cache
from sandbox.guest.randomness import generators
from sandbox.guest.rehearsal import check_descriptors, rehearse


def preload(script: str, descriptors: set[int], *, shared: bool) -> Kernel:
    """Import what `script` imports, and build a kernel. Garbage is not collected before somebody enables that again.

    The script is told whether many sandboxes share this process as `SHARED`, and may name cells to be rehearsed, as
    `REHEARSAL`; a process that few will share rehearses nothing. Raises `RuntimeError` if a thread, or a descriptor
    beyond `descriptors`, is left over.
    """
    sys.argv = [""]
    # Put there by `-m`: the directory this process was started in is no place to import from.
    if os.getcwd() in sys.path:
        sys.path.remove(os.getcwd())
    gc.disable()
    link_font_cache()
    cells = runpy.run_path(script, {"SHARED": shared}).get("REHEARSAL", ())
    kernel = Kernel.prepare()
    if shared:
        rehearse(kernel, cells)
    check_descriptors(descriptors)
    if threading.active_count() != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise RuntimeError(f"one thread is all that may be left, and there are: {names}")
    kernel.generators = generators()
    # Objects alive now are never traced again, so a fork's collections do not copy their pages.
    gc.freeze()
    return kernel
