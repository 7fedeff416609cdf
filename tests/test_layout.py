"""How a zygote lies in memory, in an interpreter of the test's own."""

import subprocess
import sys
import textwrap

_PROGRAM = """
import gc, mmap, os, ssl, sqlite3, ctypes, decimal, json, zlib

from sandbox.guest.layout import join_libraries, side_by_side

def mappings():
    with open("/proc/self/maps") as file:
        for line in file:
            addresses, rights, _, _, inode, *path = line.split()
            start, end = (int(each, 16) for each in addresses.split("-"))
            yield start, end, rights, path[0] if inode != "0" else ""

def between_libraries():
    # Each is a mapping, and keeps the next arena from the one before.
    kept = []
    for number in range(40):
        kept += [str(number * 1000 + each) * 20 for each in range(5000)], mmap.mmap(-1, 5 << 20)
    return kept

def pieces(kept):
    anonymous = [(start, end) for start, end, _, path in mappings() if not path]
    objects = {id(each) >> 20 << 20 for some in kept[::2] for each in some}
    return len({at for at in anonymous for each in objects if at[0] <= each + (1 << 19) < at[1]})

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE
"""


def program(text: str) -> list[str]:
    """What it prints."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM) + textwrap.dedent(text)], stdout=subprocess.PIPE, text=True
    )
    assert ran.returncode == 0
    return ran.stdout.split()


def test_objects_of_many_imports_lie_side_by_side() -> None:
    told = program("""
        apart = between_libraries()
        with side_by_side():
            together = between_libraries()
        print(pieces(apart), pieces(together))
    """)
    apart, together = map(int, told)
    assert apart > 10
    assert together <= apart // 3


def test_what_is_not_needed_for_objects_goes_back_to_the_system() -> None:
    told = program("""
        before = resident()
        with side_by_side():
            within = resident()
        print(within - before, resident() - before)
    """)
    within, after = map(int, told)
    assert within > 100 << 20
    assert after < 8 << 20


def test_a_library_whose_file_is_another_one_by_now_is_left_alone() -> None:
    told = program("""
        import importlib.machinery, importlib.util, shutil, sys, tempfile

        def rights(path):
            return sorted(rights for _, _, rights, at in mappings() if at.startswith(path))

        with tempfile.TemporaryDirectory() as directory:
            mine = f"{directory}/_decimal.so"
            shutil.copy(sys.modules["_decimal"].__file__, mine)
            ctypes.CDLL(mine)
            before = rights(mine)
            for other in (sys.modules["_ssl"].__file__, "/etc/hostname", os.devnull):
                with open(other, "rb") as file, open(f"{directory}/next", "wb") as another:
                    another.write(file.read())
                os.rename(f"{directory}/next", mine)
                join_libraries()
                print(len(before) > 3 and rights(mine) == before)
    """)
    assert told == ["True"] * 3


def test_a_library_has_two_mappings_and_works_as_before() -> None:
    told = program("""
        def libraries():
            found = {}
            for _, _, rights, path in mappings():
                if ".so" in path and rights != "---p":
                    found.setdefault(path, []).append(rights)
            return found

        before = libraries()
        join_libraries()
        after = libraries()
        assert sqlite3.connect(":memory:").execute("select sqlite_version()").fetchone()
        assert ssl.create_default_context() and decimal.Decimal(2).sqrt() and zlib.compress(b"x")
        import _elementtree, lzma  # is mapped now, and bound to those
        assert lzma.decompress(lzma.compress(b"x")) == b"x"
        assert not any(rights[1:3] == "wx" for all in after.values() for rights in all)
        print(sum(map(len, before.values())), sum(map(len, after.values())), len(before))
    """)
    before, after, count = map(int, told)
    assert count > 10
    assert before >= 4 * count
    assert after <= 2.2 * count, "some of the system's libraries are laid out so that they cannot be joined"
