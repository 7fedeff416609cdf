"""The kernel behind the doors: its whole table, its old entrances, and what it remembers of us afterwards."""

import json
from pathlib import Path

import pytest

from sandbox.runtime.embedded import seccomp
from sandbox.session import Session
from tests.runtime.escape.probes import inside, outside_once, told

RETURN_PATHS = (335, 336)
"""uretprobe and uprobe: the kernel's own ways back from probes of itself, which no filter sees and which do nothing
from anywhere else."""
TABLE = sorted({*seccomp.ALLOWED.values(), *RETURN_PATHS})
OFF_THE_TABLE = f"""
    numbers = sorted(set(range(1024)) - set({TABLE}))
    # The kernel looks at the lower half of the register alone; who compared all of it would be passed.
    numbers += [(1 << 32) + number for number in numbers]
    def call_all():
        allowed = []
        for number in numbers:
            try:
                allowed.append((number, syscall(number, -1, -1, -1, -1, -1, -1)))
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOSYS):
                    allowed.append((number, error.errno))
        raise OSError(json.dumps(allowed))
    # In a child, because one that is let through may do anything to who calls it.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            call_all()
        except OSError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        answers = file.read()
    os.waitpid(pid, 0)
    return answers
"""
FILTERS = """
    accept = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(accept))
    passed = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for name, option in (("a socket's", 26), ("a port's", 51)):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, option, program)
                passed[name] = True
    held = ctypes.create_string_buffer(program)
    # prctl: no new privileges, then the filter.
    if in_child(lambda: (syscall(157, 38, 1, 0, 0, 0), syscall(157, 22, 2, held))) == "done":
        passed["a process's"] = True
    return json.dumps(passed)
"""
"""Filters in the kernel's own machine code. The control makes one of each."""
X32 = """
    numbers = [0, 1, 39, 41, 56, 59, 101, 165, 425, 511, *range(512, 548, 4), 547, 548, 1 << 30, 0x3FFFFFFF]
    passed = {}
    for number in numbers:
        answer = in_child(lambda: syscall(0x40000000 + number, -1, -1, -1, -1, -1, -1))
        if answer not in ("ENOSYS", "SIGSYS"):
            passed[number] = answer
    return json.dumps(passed)
"""
"""Numbers of x32: some that it shares, some of its own, and some that are nobody's; one child each, because a filter
may end who asks. All of them are in `tests/runtime/test_seccomp.py`."""
HARMLESS = (29, 64, 68, 149, 165, 179, 206, 248, 250, 253, 272, 275, 276, 278, 294, 298, 300, 303, 304, 308, 310, 312)
"""Numbers off the table that do nothing when their arguments are nonsense, even to root."""
INT_80 = """
    page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return in_child(call)
"""
FAMILIES = """
    made = set()
    for family in range(46):
        for kind in (1, 2, 3, 5):
            with contextlib.suppress(OSError):
                socket.socket(family, kind).close()
                made.add(family)
    return json.dumps(sorted(made))
"""


def complaints() -> str:
    """What the host's kernel thinks of itself: a bit for every kind of mishap since it was booted."""
    return Path("/proc/sys/kernel/tainted").read_text()


@pytest.mark.attack("A01", "J08")
async def test_a_system_call_off_the_table_is_refused(onlooker: Session) -> None:
    # Which calls belong on the table is judged by name, door by door.
    before = complaints()
    assert await told(onlooker, OFF_THE_TABLE) == []
    assert complaints() == before


@pytest.mark.attack("A01", "C01")
async def test_no_program_is_loaded_into_it(onlooker: Session) -> None:
    assert await told(onlooker, FILTERS) == {}
    assert set(json.loads(outside_once(FILTERS))) == {"a socket's", "a port's", "a process's"}


@pytest.mark.attack("A01")
def test_outside_most_of_them_are_answered(root: None) -> None:
    probe = f"""
        answers = [in_child(lambda: syscall(number, -1, -1, -1, -1, -1, -1)) for number in {HARMLESS}]
        return str(sum(answer not in ("EPERM", "ENOSYS") for answer in answers))
    """
    assert not set(HARMLESS) & {*seccomp.ALLOWED.values()}
    assert int(outside_once(probe)) > len(HARMLESS) * 3 // 4


@pytest.mark.attack("A03")
async def test_no_number_of_x32_is_answered(onlooker: Session) -> None:
    assert await told(onlooker, X32) == {}
    if outside_once("return in_child(lambda: syscall(0x40000000 + 39))") != "done":
        pytest.skip("void: this host's kernel has no such numbers")


@pytest.mark.attack("A02")
@pytest.mark.needs_wall("no entrance for thirty-two bit programs")
async def test_the_old_entry_for_thirty_two_bit_programs_is_deadly(onlooker: Session) -> None:
    assert await inside(onlooker, INT_80) in ("SIGSYS", "SIGSEGV")
    if outside_once(INT_80) != "done":
        pytest.skip("void: this host's kernel runs no thirty-two bit programs")


@pytest.mark.attack("A04")
async def test_sockets_come_in_three_families_only(onlooker: Session) -> None:
    assert await told(onlooker, FAMILIES) == [1, 2, 10]
    assert set(json.loads(outside_once(FAMILIES))) > {1, 2, 10}
