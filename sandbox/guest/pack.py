"""The modules that a container's zygote imports, in one file.

Each start of a container imports a thousand modules, and for each Python looks into directories, opens a file and reads
it. In gVisor, where a system call costs many times what it costs elsewhere, that is a large part of a start.

    the length of the index (8 bytes) ─ the index: module to what it is and where its code lies ─ the code of each

It is written when the image is built, by importing what the zygote will. Where a module is said to come from, and what
it can be asked (its source, its resources), is as if it had been found in the usual way.
"""

import contextlib
import marshal
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from sandbox.guest import variables

_Entry = tuple[str, bool, int, int]
"""A module's file; whether it is a package; where its code begins, and its size: 0 for one that is not Python's."""
_LENGTH = 8


class _Loader(SourceFileLoader):
    """One that need not look for the code."""

    def __init__(self, name: str, path: str, pack: "_Pack") -> None:
        super().__init__(name, path)
        self._pack = pack

    def get_code(self, fullname: str) -> CodeType | None:
        return self._pack.code(fullname) or super().get_code(fullname)


class _Pack:
    """One that is open; a finder of modules."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        length = int.from_bytes(os.pread(fd, _LENGTH, 0))
        self._base = _LENGTH + length
        self._index: dict[str, _Entry] = marshal.loads(os.pread(fd, length, _LENGTH))

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """For `sys.meta_path`."""
        if name not in self._index:
            return None
        file, is_package, _, size = self._index[name]
        loader = _Loader(name, file, self) if size else ExtensionFileLoader(name, file)
        inside = [os.path.dirname(file)] if is_package else None
        return spec_from_file_location(name, file, loader=loader, submodule_search_locations=inside)

    def code(self, name: str) -> CodeType | None:
        """Of a module; None once this is closed."""
        if name not in self._index:
            return None
        _, _, offset, size = self._index[name]
        found: CodeType = marshal.loads(os.pread(self._fd, size, self._base + offset))
        return found

    def close(self) -> None:
        """What was imported from it stays."""
        self._index = {}
        os.close(self._fd)


@contextlib.contextmanager
def importing(path: str) -> Iterator[set[int]]:
    """Within the block modules that are packed in this file come from there; the descriptors that are open for that.

    Where there is no such file, they come from where they usually do.
    """
    try:
        pack = _Pack(fd := os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        yield set()
        return
    sys.meta_path.insert(0, pack)
    try:
        yield {fd}
    finally:
        sys.meta_path.remove(pack)
        pack.close()


def write(path: str, modules: Iterable[ModuleType]) -> None:
    """Pack those of the modules that are files; of a namespace, or of what is built in, there is nothing to pack."""
    index: dict[str, _Entry] = {}
    parts: list[bytes] = []
    offset = 0
    for spec in (getattr(module, "__spec__", None) for module in modules):
        if spec is None or not isinstance(spec.loader, SourceFileLoader | ExtensionFileLoader):
            continue
        code = spec.loader.get_code(spec.name)
        part = marshal.dumps(code) if code is not None else b""
        index[spec.name] = (spec.origin, spec.submodule_search_locations is not None, offset, len(part))
        parts.append(part)
        offset += len(part)
    head = marshal.dumps(index)
    Path(path).write_bytes(b"".join((len(head).to_bytes(_LENGTH), head, *parts)))


def _pack(path: str) -> None:
    """What a zygote imports until it forks."""
    os.environ |= variables.ZYGOTE
    from sandbox.guest.container import zygote

    zygote.prepared({0, 1, 2})
    import_module("sandbox.guest.zygote")
    write(path, list(sys.modules.values()))


if __name__ == "__main__":
    _pack(sys.argv[1])
