"""How a zygote lies in memory: the fewer and the larger its parts, the less each fork has to copy.

Most of a fork's time goes into the mappings of the libraries, of which there are hundreds, and into an entry for each
page of the interpreter's small objects. Neither is needed: here the objects of all imports come to lie side by side, so
that huge pages can hold them, and a library's file is mapped twice instead of five times.
"""

import contextlib
import ctypes
import mmap
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_ARENAS = 112 << 20
"""Bytes of small objects there is room for side by side, somewhat more than the image's libraries have. What they do
not need goes back to the system, as long as the interpreter has its own allocator for them."""
_ARENA = 1 << 20
"""Bytes that the interpreter asks the system for at once (`ARENA_SIZE` of `obmalloc.c`, since Python 3.10)."""
_LARGEST = 512
"""Bytes of the largest object that lies in an arena."""
_RTLD_DI_LINKMAP = 2
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_RELRO = 1, 2, 0x6474E552
_X, _W, _R = 1, 2, 4
"""Flags of a program header, which are not those of `mprotect`."""


@contextlib.contextmanager
def side_by_side() -> Iterator[None]:
    """Small objects made in here come to lie in one piece, and not in pieces between the libraries loaded meanwhile."""
    count = _ARENAS // _LARGEST
    objects: list[bytes | None] = [None] * count  # made first, because it lies in no arena itself
    for number in range(count):
        objects[number] = bytes(_LARGEST - b"".__sizeof__())
    # An arena is given back with its last object: of each we keep one, whatever address it begins at.
    kept = {id(each) // (_ARENA // 2): each for each in objects}
    del objects
    yield
    kept.clear()


def join_libraries() -> None:
    """Give neighbouring segments of each library that is loaded the same rights, so that the kernel joins them: its
    constants those of its code, its relocated tables those of its variables.

    What a library must not do to itself is no boundary here: a program can have any machine code run anyway.
    """
    for library in _libraries():
        code = [each for each in library.segments if each.flags == _R | _X]
        for segment in library.segments:
            if segment.flags == _R and any(each.bias == segment.bias and each.touches(segment) for each in code):
                _protect(segment.start, segment.end, mmap.PROT_READ | mmap.PROT_EXEC)
        for start, end in library.relocated:
            _protect(start, end, mmap.PROT_READ | mmap.PROT_WRITE)


class _Segment(NamedTuple):
    """A part of a library as it is mapped, in whole pages."""

    flags: int
    bias: int
    """What is added to a place in the file for the address. Only segments with the same can become one mapping."""
    start: int
    end: int

    def touches(self, other: "_Segment") -> bool:
        return self.end == other.start or other.end == self.start


class _Library(NamedTuple):
    segments: list[_Segment]
    relocated: list[tuple[int, int]]
    """From where to where the loader has taken the right to write away."""
    dynamic: int
    """Where its dynamic section is."""


class _Loaded(ctypes.Structure):
    """The part of `link_map` that the C library promises."""


_Loaded._fields_ = [
    ("base", ctypes.c_size_t),
    ("path", ctypes.c_char_p),
    ("dynamic", ctypes.c_void_p),
    ("next", ctypes.POINTER(_Loaded)),
    ("previous", ctypes.POINTER(_Loaded)),
]
_libc = ctypes.CDLL(None)


def _libraries() -> Iterator[_Library]:
    # Not by `dl_iterate_phdr`: what calls back needs memory that is written and executed, and every fork had it then.
    loaded = ctypes.POINTER(_Loaded)()
    asked = (ctypes.c_void_p(_libc._handle), _RTLD_DI_LINKMAP, ctypes.byref(loaded))
    if not hasattr(_libc, "dlinfo") or _libc.dlinfo(*asked):
        return
    while bool(loaded):
        # The program itself has no path, and the vDSO none that leads to a file.
        if (path := loaded.contents.path) and path.startswith(b"/"):
            with contextlib.suppress(OSError, struct.error), open(path, "rb") as file:
                library = _library(loaded.contents.base, file)
                if library.dynamic == loaded.contents.dynamic:  # else another file has taken its place meanwhile
                    yield library
        loaded = loaded.contents.next


def _library(base: int, file: BinaryIO) -> _Library:
    """By the program headers of its file, an ELF of 64 bits."""
    offset, size, count = struct.unpack("=32xQ14xHH", file.read(58))
    file.seek(offset)
    segments, relocated, dynamic = list[_Segment](), list[tuple[int, int]](), 0
    for kind, flags, where, address, _, _, length, _ in struct.iter_unpack("=IIQQQQQQ", file.read(size * count)):
        start, end = base + address, base + address + length
        if kind == _PT_LOAD:
            segments.append(_Segment(flags, address - where, _page(start), _page(end + mmap.PAGESIZE - 1)))
        elif kind == _PT_GNU_RELRO:  # a page that is so only in part keeps its rights
            relocated.append((_page(start), _page(end)))
        elif kind == _PT_DYNAMIC:
            dynamic = start
    return _Library(segments, relocated, dynamic)


def _page(address: int) -> int:
    return address // mmap.PAGESIZE * mmap.PAGESIZE


def _protect(start: int, end: int, rights: int) -> None:
    """Best effort: a system that has rules of its own may refuse."""
    if start < end:
        _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - start), rights)
