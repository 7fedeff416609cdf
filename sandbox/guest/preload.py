"""What comes before a kernel is one: the image's libraries, and the objects that take no descriptor and no thread."""

import gc
import os
import runpy
import sys
import threading
from collections.abc import Iterator
from importlib import import_module

from sandbox.guest.kernel import Kernel, link_font_cache
from sandbox.guest.randomness import generators
from sandbox.guest.rehearsal import check_descriptors, rehearse


class Preload:
    """A kernel and libraries: some from the beginning, the others with `rest`.

    Garbage is not collected before somebody enables that again.
    """

    def __init__(self, script: str, descriptors: set[int], *, common: bool, shared: bool) -> None:
        """Import what `script` imports, and build a kernel.

        The script may name modules as `COMMON`, of which it is likely that they are wanted, and as `LATER`, and cells
        to be rehearsed as `REHEARSAL`. descriptors: all that may be open. common: whether the former come first, too.
        shared: whether many sandboxes will be forked from this process, so that it is worth seconds to make each fork
        cheaper. Raises `RuntimeError` if a thread or another descriptor is left.
        """
        sys.argv = [""]
        # Put there by `-m`: the directory this process was started in is no place to import from.
        if os.getcwd() in sys.path:
            sys.path.remove(os.getcwd())
        gc.disable()
        link_font_cache()
        found = runpy.run_path(script)
        self._shared = shared
        self._cells = tuple(found.get("REHEARSAL", ()))
        self._modules = (*found.get("COMMON", ()), *found.get("LATER", ()))
        for module in found.get("COMMON", ()) if common else ():
            import_module(module)
        self.kernel = Kernel.prepare()
        self._settle(descriptors)

    def rest(self, descriptors: set[int]) -> Iterator[None]:
        """The rest, a step at a time: before each of them, and at the end, it can be forked.

        A module that cannot be imported is said to be missing, and left to the programs that want it. Raises
        `RuntimeError` as the constructor does.
        """
        if not self._shared:
            return
        rehearse(self.kernel, ())
        self._settle(descriptors)
        yield
        for module in self._modules:
            try:
                import_module(module)
            except ImportError as error:
                os.write(2, f"zygote: {module} is not preloaded: {error}\n".encode())
            self._settle(descriptors)
            yield
        rehearse(self.kernel, self._cells)
        gc.unfreeze()
        gc.collect()
        self._settle(descriptors)

    def _settle(self, descriptors: set[int]) -> None:
        check_descriptors(descriptors)
        if threading.active_count() != 1:
            names = ", ".join(thread.name for thread in threading.enumerate())
            raise RuntimeError(f"one thread is all that may be left, and there are: {names}")
        self.kernel.generators += generators()
        # Objects alive now are never traced again, so a fork's collections do not copy their pages.
        gc.freeze()
