"""The filter of system calls, judged by running it: every number, against the table that it was made from.

The machine that runs it here is a few lines, because the kernel's own tells nothing before it kills. That the kernel
comes to the same answers is what `tests/runtime/escape` shows, from inside a sandbox.
"""

import errno
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.runtime.docker.profile import profile
from sandbox.runtime.embedded import seccomp
from tests.fuzzing import bounded

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, KILL = "allow", "kill"
ARGUMENTS = st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 64), min_size=6, max_size=6)
INIT = 1
CLONE_PARENT = 0x8000
NEW_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)


class Machine:
    """Classic BPF as the kernel runs it over one system call, with the checks that its loader makes."""

    def __init__(self, program: bytes) -> None:
        assert len(program) % 8 == 0
        self._code = [struct.unpack_from("=HBBI", program, place) for place in range(0, len(program), 8)]
        assert 0 < len(self._code) <= 4096, "the kernel takes no longer one"
        for place, (operation, then, otherwise, _) in enumerate(self._code):
            assert operation in (0x20, 0x15, 0x35, 0x54, 0x06), "an instruction that the machine does not know"
            if operation in (0x15, 0x35):
                assert place + 1 + max(then, otherwise) < len(self._code), "a jump past the end"
        assert self._code[-1][0] == 0x06, "the last instruction is no return"

    def verdict(self, number: int, arguments: tuple[int, ...] = (0,) * 6, architecture: int = X86_64) -> str:
        """`allow`, `kill`, or the name of the errno."""
        data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *arguments)
        accumulator, place = 0, 0
        while True:
            operation, then, otherwise, value = self._code[place]
            place += 1
            if operation == 0x20:
                assert value in range(0, len(data), 4), "a load that the kernel would refuse"
                [accumulator] = struct.unpack_from("=I", data, value)
            elif operation == 0x54:
                accumulator &= value
            elif operation == 0x06:
                return _words(value)
            else:
                holds = accumulator == value if operation == 0x15 else accumulator >= value
                place += then if holds else otherwise


def _words(value: int) -> str:
    if value == 0x7FFF0000:
        return ALLOW
    if value == 0x80000000:
        return KILL
    assert value & 0xFFFF0000 == 0x00050000, hex(value)
    return errno.errorcode[value & 0xFFFF]


@pytest.fixture(scope="module")
def machine() -> Machine:
    """The filter of every kernel."""
    return Machine(seccomp.program())


NAMES = {number: name for name, number in seccomp.ALLOWED.items()}
CONDITIONAL = {"socket", "fcntl", "setsockopt", "clone", "personality", "prctl", "ioctl", "setpriority", "prlimit64"}
CONDITIONAL |= {*seccomp._SCHEDULING, *seccomp._SENDS}


def expected(number: int) -> str:
    """What the table says of a number without any condition."""
    if number in seccomp.ALLOWED.values():
        return ALLOW
    if number in seccomp.ABSENT.values() or number > seccomp.NEWEST:
        return "ENOSYS"
    return "EPERM"


@pytest.mark.attack("A01")
def test_every_number_is_answered_as_the_table_says(machine: Machine) -> None:
    judged = {number: machine.verdict(number) for number in range(2048) if NAMES.get(number) not in CONDITIONAL}
    assert judged == {number: expected(number) for number in judged}
    assert len(judged) == 2048 - len(CONDITIONAL)


@pytest.mark.attack("A01")
@bounded(150)
@given(number=st.integers(0, 0xFFFFFFFF) | st.integers(440, 548), arguments=ARGUMENTS)
def test_no_argument_opens_what_the_table_closes(machine: Machine, number: int, arguments: list[int]) -> None:
    verdict = machine.verdict(number, tuple(arguments))
    if number not in NAMES:
        assert verdict in ("EPERM", "ENOSYS")
    elif NAMES[number] not in CONDITIONAL:
        assert verdict == ALLOW


def test_where_memory_is_watched_none_is_shared_that_is_no_file() -> None:
    usual, watched = Machine(seccomp.program()), Machine(seccomp.program(nameless=False))
    mmap, private, shared, validated, anonymous = seccomp.ALLOWED["mmap"], 2, 1, 3, 0x20
    for flags in (private, shared, validated, private | anonymous):
        assert watched.verdict(mmap, (0, 0, 0, flags, 0, 0)) == ALLOW
    for flags in (shared | anonymous, validated | anonymous, shared | anonymous | 0x4000):
        assert watched.verdict(mmap, (0, 0, 0, flags, 0, 0)) == "EPERM"
        assert usual.verdict(mmap, (0, 0, 0, flags, 0, 0)) == ALLOW


@pytest.mark.attack("A03")
def test_every_number_of_x32_is_unknown(machine: Machine) -> None:
    assert {machine.verdict(0x40000000 + number) for number in range(2048)} == {"ENOSYS"}
    assert {machine.verdict(number) for number in range(0x40000000, 1 << 32, 0x0123457)} == {"ENOSYS"}
    assert machine.verdict(-1) == machine.verdict(0x80000000) == machine.verdict(0xFFFFFFFF) == "ENOSYS"


@pytest.mark.attack("A02")
@bounded(100)
@given(number=st.integers(0, 600), other=st.integers(0, 0xFFFFFFFF).filter(lambda it: it != X86_64) | st.just(I386))
def test_another_architecture_is_deadly_whatever_it_asks(machine: Machine, number: int, other: int) -> None:
    assert machine.verdict(number, architecture=other) == KILL


@pytest.mark.attack("A04")
def test_sockets_come_in_three_families(machine: Machine) -> None:
    def of(family: int) -> str:
        return machine.verdict(seccomp.ALLOWED["socket"], (family, 1, 0, 0, 0, 0))

    assert [family for family in range(1 << 12) if of(family) == ALLOW] == [1, 2, 10]
    assert of(seccomp.AF_NETLINK) == "EINVAL"
    assert {of(family) for family in range(64) if family not in (1, 2, 10, 16)} == {"EAFNOSUPPORT"}


@pytest.mark.attack("A04")
@bounded(200)
@given(family=st.integers(0, (1 << 64) - 1))
def test_the_upper_half_of_a_family_means_nothing(machine: Machine, family: int) -> None:
    # The kernel takes an int: a filter that compared the whole register would be passed by one bit above it.
    verdict = machine.verdict(seccomp.ALLOWED["socket"], (family, 1, 0, 0, 0, 0))
    assert (verdict == ALLOW) is (family & 0xFFFFFFFF in (1, 2, 10))


@pytest.mark.attack("A09")
@bounded(200)
@given(flags=st.integers(0, (1 << 32) - 1))
def test_no_flag_of_clone_makes_a_namespace_or_a_child_of_ones_parent(machine: Machine, flags: int) -> None:
    wants = any(flags & flag for flag in (*NEW_NAMESPACES, CLONE_PARENT))
    assert machine.verdict(seccomp.ALLOWED["clone"], (flags, 0, 0, 0, 0, 0)) == ("EPERM" if wants else ALLOW)


@pytest.mark.attack("A09")
@pytest.mark.parametrize("flag", NEW_NAMESPACES)
def test_each_kind_of_namespace_is_refused_to_clone(machine: Machine, flag: int) -> None:
    assert machine.verdict(seccomp.ALLOWED["clone"], (flag | 17, 0, 0, 0, 0, 0)) == "EPERM"
    assert machine.verdict(435) == "ENOSYS", "clone3, whose flags no filter can see"


def test_no_program_watches_files_and_init_may_hold_leases(machine: Machine) -> None:
    fcntl = seccomp.ALLOWED["fcntl"]
    for command in (1024, 1026, 1024 | 1 << 32):
        assert machine.verdict(fcntl, (0, command, 0, 0, 0, 0)) == "EPERM"
    assert machine.verdict(fcntl, (0, 1025, 0, 0, 0, 0)) == ALLOW
    init = Machine(seccomp.program(also_allow=(fcntl,)))
    assert init.verdict(fcntl, (0, 1024, 1, 0, 0, 0)) == ALLOW


@pytest.mark.attack("A24", "A27")
def test_a_terminal_takes_no_input_and_a_process_keeps_its_personality(machine: Machine) -> None:
    for request in (0x5412, 0x541C):
        assert machine.verdict(seccomp.ALLOWED["ioctl"], (0, request, 0, 0, 0, 0)) == "EPERM"
        assert machine.verdict(seccomp.ALLOWED["ioctl"], (0, request | 1 << 32, 0, 0, 0, 0)) == "EPERM"
    assert machine.verdict(seccomp.ALLOWED["ioctl"], (0, 0x5401, 0, 0, 0, 0)) == ALLOW
    answers = {value: machine.verdict(seccomp.ALLOWED["personality"], (value, 0, 0, 0, 0, 0)) for value in (0, 0x40000)}
    assert set(answers.values()) == {"EPERM"}
    assert machine.verdict(seccomp.ALLOWED["personality"], (0xFFFFFFFF, 0, 0, 0, 0, 0)) == ALLOW


@pytest.mark.attack("A10", "C01")
def test_no_program_is_loaded_into_the_kernel(machine: Machine) -> None:
    setsockopt, prctl = seccomp.ALLOWED["setsockopt"], seccomp.ALLOWED["prctl"]
    for option in (26, 50, 51, 52):
        assert machine.verdict(setsockopt, (3, 1, option, 0, 0, 0)) == "EPERM", option
    assert machine.verdict(setsockopt, (3, 6, 31, 0, 0, 0)) == "EPERM"
    for option in range(80):
        assert machine.verdict(prctl, (option, 2, 0, 0, 0, 0)) == ("EPERM" if option == 22 else ALLOW), option
    assert machine.verdict(setsockopt, (3, 17, 100, 0, 0, 0)) == "EPERM"
    assert machine.verdict(setsockopt, (3, 1 << 32 | 1, 1 << 32 | 26, 0, 0, 0)) == "EPERM"
    assert machine.verdict(prctl, (1 << 32 | 22, 2, 0, 0, 0, 0)) == "EPERM"


@pytest.mark.attack("A10", "C01")
def test_sockets_have_the_options_of_the_table_and_no_others(machine: Machine) -> None:
    setsockopt = seccomp.ALLOWED["setsockopt"]
    allowed = {
        (level, option)
        for level in range(300)
        for option in range(140)
        if machine.verdict(setsockopt, (3, level, option, 0, 0, 0)) == ALLOW
    }
    assert allowed == {(level, option) for level, options in seccomp._OPTIONS.items() for option in options}
    for level, option in ((17, 1), (6, 14), (6, 38), (0, 35), (41, 20), (41, 32), (1, 25), (270, 1)):
        assert (level, option) not in allowed
    usual = {(1, socket.SO_REUSEADDR), (1, socket.SO_KEEPALIVE), (1, socket.SO_RCVBUF), (1, socket.SO_SNDBUF)}
    usual |= {(6, socket.TCP_NODELAY), (6, socket.TCP_KEEPIDLE), (41, socket.IPV6_V6ONLY), (0, socket.IP_TTL)}
    assert usual <= allowed
    assert machine.verdict(setsockopt, (3, 1 << 32 | 6, 1 << 32 | 14, 0, 0, 0)) == "EPERM"


@pytest.mark.attack("A10", "C01")
@pytest.mark.parametrize(("name", "at"), [("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)])
def test_nothing_is_sent_that_waits_for_more(machine: Machine, name: str, at: int) -> None:
    def sent(flags: int) -> str:
        return machine.verdict(seccomp.ALLOWED[name], tuple(flags if index == at else 1 << 15 for index in range(6)))

    assert {flags: sent(flags) for flags in (0, 0x40, 0x4000, 1 << 47)} == dict.fromkeys(
        (0, 0x40, 0x4000, 1 << 47), ALLOW
    )
    assert sent(0x8000) == sent(0xC040) == sent(1 << 32 | 0x8000) == "EPERM"


@pytest.mark.attack("D05", "C12")
def test_init_keeps_its_limits_its_priority_and_its_processors(machine: Machine) -> None:
    for name, arguments in {
        "prlimit64": (INIT, 7),
        "sched_setaffinity": (INIT, 8),
        "sched_setparam": (INIT, 0),
        "sched_setscheduler": (INIT, 0),
        "setpriority": (0, INIT),
    }.items():
        padded = (*arguments, 0, 0, 0, 0)
        assert machine.verdict(seccomp.ALLOWED[name], padded) == "EPERM", name
        own = tuple(0 if each == INIT else each for each in padded)
        assert machine.verdict(seccomp.ALLOWED[name], own) == ALLOW, name
    for which in (1, 2):  # a group, a user: init may be one of them
        assert machine.verdict(seccomp.ALLOWED["setpriority"], (which, 0, 0, 0, 0, 0)) == "EPERM"


def test_what_init_may_do_more_is_one_call(machine: Machine) -> None:
    openat2 = seccomp.ABSENT["openat2"]
    inits = Machine(seccomp.program(also_allow=(openat2,)))
    more = [number for number in range(601) if inits.verdict(number) != machine.verdict(number)]
    assert more == [openat2]
    assert inits.verdict(openat2) == ALLOW


@pytest.mark.attack("A08", "A10", "A11", "A12", "A13", "A14", "A26")
def test_the_calls_that_were_left_out_on_purpose_are_still_out(machine: Machine) -> None:
    named = {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312,
        "bpf": 321, "perf_event_open": 298, "add_key": 248, "request_key": 249, "keyctl": 250, "userfaultfd": 323,
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308, "unshare": 272, "open_tree": 428,
        "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "mount_setattr": 442,
        "name_to_handle_at": 303, "open_by_handle_at": 304, "splice": 275, "tee": 276, "vmsplice": 278, "mknod": 133,
        "mknodat": 259, "mq_open": 240, "msgget": 68, "shmget": 29, "semget": 64, "mlock": 149, "mlockall": 151,
        "mlock2": 325, "setuid": 105, "setresuid": 117, "setgroups": 116, "setfsuid": 122, "capset": 126,
        "io_setup": 206, "io_uring_setup": 425, "memfd_secret": 447, "modify_ldt": 154, "clock_settime": 227,
        "init_module": 175, "finit_module": 313, "kexec_load": 246, "swapon": 167, "reboot": 169, "fanotify_init": 300,
        "inotify_init1": 294, "process_madvise": 440, "mbind": 237, "mincore": 27, "remap_file_pages": 216,
    }  # fmt: skip
    verdicts = {name: machine.verdict(number) for name, number in named.items()}
    assert {name for name, verdict in verdicts.items() if verdict not in ("EPERM", "ENOSYS")} == set()


# Docker's form of the same table.


def _docker_rules() -> Iterator[tuple[str, Mapping[str, object]]]:
    for rule in json.loads(profile())["syscalls"]:
        for name in rule["names"]:
            yield name, rule


@pytest.mark.attack("J08", "A01")
def test_dockers_form_allows_what_the_table_allows_and_no_more() -> None:
    told = json.loads(profile())
    assert (told["defaultAction"], told["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", errno.EPERM)
    assert told["architectures"] == ["SCMP_ARCH_X86_64"], "another ABI would be a way around every argument"
    allowed = {name for name, rule in _docker_rules() if rule["action"] == "SCMP_ACT_ALLOW"}
    assert allowed == {*seccomp.ALLOWED, "openat2"}, "openat2 is init's"
    for name, rule in _docker_rules():
        if rule["action"] == "SCMP_ACT_ALLOW" and name in seccomp.CONDITIONS:
            assert rule["args"], f"{name} is allowed whatever its arguments"
    absent = {name for name, rule in _docker_rules() if rule.get("errnoRet") == errno.ENOSYS}
    assert absent == {*seccomp.ABSENT} - {"openat2"}


def test_no_name_or_number_is_twice_in_the_table() -> None:
    numbers = [*seccomp.ALLOWED.values(), *seccomp.ABSENT.values()]
    assert len(numbers) == len(set(numbers))
    assert not seccomp.ALLOWED.keys() & seccomp.ABSENT.keys()
    for table in (seccomp._ALLOWED_X86_64, seccomp._ABSENT_X86_64):
        names = [entry.partition(":")[0] for entry in table.split()]
        assert len(names) == len(set(names))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the table is of x86_64")
def test_every_name_has_the_number_that_this_machine_has_for_it() -> None:
    header = next((path for path in HEADERS if os.path.exists(path)), None)
    if header is None:
        pytest.skip("no unistd_64.h: apt-get install linux-libc-dev")
    with open(header) as file:
        told = {words[1].removeprefix("__NR_"): int(words[2]) for words in map(str.split, file) if len(words) == 3}
    ours = seccomp.ALLOWED | seccomp.ABSENT
    assert {name: number for name, number in ours.items() if told.get(name, number) != number} == {}
    # A header may be older than the youngest names of the table.
    assert len(ours.keys() - told.keys()) < 8


HEADERS = ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h")
