"""Containment: one attack, one name, one test.

A probe is a few lines of Python. It runs in a sandbox, where it must fail in the way said here, and, where that is
cheap, on the host as root, where it must succeed: a probe that works nowhere proves nothing. What a sandbox says
about itself is believed only when it admits defeat; where it could lie, the host is asked.
"""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.execution import Limits, Status
from sandbox.runtime.embedded import seccomp
from sandbox.session import Session
from tests.host import Embedded, command, named, pids, status

PRELUDE = """
import contextlib, ctypes, errno, fcntl, glob, json, mmap, os, resource, signal, socket, struct, subprocess, sys
import tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def syscall(number, *arguments):
    wide = [item if isinstance(item, (bytes, ctypes.Array)) else ctypes.c_long(item) for item in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def in_child(function):
    # The outcome of something that a process cannot undo: an errno's name, "done", or the signal it died of.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                function()
                word = "done"
            except OSError as error:
                word = errno.errorcode.get(error.errno, str(error.errno))
            os.write(writer, word.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        word = file.read()
    _, status = os.waitpid(pid, 0)
    return word or signal.Signals(os.WTERMSIG(status)).name
"""
TRY = """
def probe():
{body}

try:
    print(probe() or "done")
except OSError as error:
    print(errno.errorcode.get(error.errno, error.errno))
"""
OUTSIDE = """
syscall(272, 0x20000 | 0x4000000)  # unshare(CLONE_NEWNS | CLONE_NEWUTS): a probe that succeeds must not harm the host
libc.mount(b"none", b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None)
"""


def script(probe: str) -> str:
    return TRY.format(body=textwrap.indent(textwrap.dedent(probe).strip(), "    "))


async def inside(session: Session, probe: str) -> str:
    """What the probe says in the sandbox: `done`, an errno's name, or words of its own."""
    execution = await session.execute(PRELUDE + script(probe), 20)
    assert execution.status is Status.OK, (execution.status, execution.reason, execution.error, execution.stderr)
    return execution.stdout.strip()


def outside(probe: str) -> str:
    """The same on the host as root, in a mount and host name namespace of its own."""
    code = PRELUDE + OUTSIDE + script(probe)
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.fixture
async def other(engine: Engine) -> Any:
    """Another session, of somebody else."""
    async with engine.session() as session:
        yield session


async def pid_of(session: Session) -> int:
    """The session's kernel, as the host numbers it."""
    name = secrets.token_hex(7)
    await inside(session, f"libc.prctl(15, b'{name}', 0, 0, 0)")
    [pid] = named(name)
    return pid


# Doors that have to be shut. Each: a probe, the answers that mean shut, and whether the host must answer otherwise.

SHUT = ("EPERM", "EACCES", "ENOSYS", "EAFNOSUPPORT", "EINVAL", "EPROTONOSUPPORT")
DENIED = ("EPERM", "ENOSYS")
GONE = ("ENOENT", "EACCES")
NETWORK = {
    "a netlink socket": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", SHUT, True),
    "a packet socket": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)", SHUT, True),
    "a vsock socket": ("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", ("EAFNOSUPPORT",), False),
    "a kernel crypto socket": ("socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)", ("EAFNOSUPPORT",), False),
    "a key management socket": ("socket.socket(15, socket.SOCK_RAW, 2)", ("EAFNOSUPPORT",), False),
    "an express data path socket": ("socket.socket(44, socket.SOCK_RAW)", ("EAFNOSUPPORT",), False),
    "a bluetooth socket": ("socket.socket(31, socket.SOCK_RAW, 1)", ("EAFNOSUPPORT",), False),
    "a raw ICMP socket": ("socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)", SHUT, True),
    "a ping socket": ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)", SHUT, False),
    "a tunnel device": ("open('/dev/net/tun', 'r+b', buffering=0)", GONE, False),
}
KERNEL = {
    "mount": ("syscall(165, b'none', b'/mnt', b'tmpfs', 0, 0)", DENIED, True),
    "umount": ("syscall(166, b'/proc', 2)", DENIED, True),
    "a new mount by file descriptor": ("syscall(430, b'tmpfs', 0)", DENIED, True),
    "a clone of a mount": ("syscall(428, -100, b'/proc', 1)", DENIED, True),
    "pivot_root": ("syscall(155, b'/mnt', b'/mnt')", DENIED, False),
    "chroot": ("os.chroot('/')", DENIED, True),
    "a user namespace": ("syscall(272, 0x10000000)", DENIED, True),
    "a mount namespace": ("syscall(272, 0x20000)", DENIED, True),
    "a network namespace": ("syscall(272, 0x40000000)", DENIED, True),
    "a process namespace": ("syscall(272, 0x20000000)", DENIED, True),
    "a namespace by clone": ("return in_child(lambda: syscall(56, 0x10000000 | 17, 0, 0, 0, 0))", DENIED, False),
    "clone3": ("syscall(435, bytes(88), 88)", DENIED, True),
    "its own namespace again by setns": (
        "syscall(308, os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
        (*DENIED, "EACCES"),
        True,
    ),
    "tracing a child": ("syscall(101, 16, os.getppid() or 1, 0, 0)", DENIED, False),
    "being traced": ("return in_child(lambda: syscall(101, 0, 0, 0, 0))", DENIED, True),
    "another process's memory": (
        "syscall(310, os.getpid(), struct.pack('QQ', 0, 0), 0, struct.pack('QQ', 0, 0), 0, 0)",
        DENIED,
        True,
    ),
    "a descriptor of another process": ("syscall(438, os.pidfd_open(os.getpid()), 0, 0)", DENIED, True),
    "comparing processes": ("syscall(312, os.getpid(), os.getpid(), 0, 0, 0)", DENIED, True),
    "a file by its handle": ("syscall(304, -100, bytes(16), 0)", DENIED, True),
    "bpf": ("syscall(321, 0, bytes(128), 128)", DENIED, True),
    "performance counters": ("syscall(298, bytes(128), 0, -1, -1, 0)", DENIED, True),
    "userfaultfd": ("syscall(323, 1)", DENIED, False),
    "io_uring": ("syscall(425, 1, bytes(120))", ("ENOSYS",), True),
    "asynchronous input and output": ("syscall(206, 1, bytes(8))", DENIED, True),
    "secret memory": ("syscall(447, 0)", DENIED, False),
    "the session keyring": ("syscall(250, 0, -3, 0)", DENIED, True),
    "adding a key": ("syscall(248, b'user', b'probe', b'x', 1, -2)", DENIED, True),
    "asking for a key": ("syscall(249, b'user', b'probe', 0, -2)", DENIED, True),
    "System V shared memory": ("syscall(29, 0, 4096, 0o1600)", DENIED, True),
    "a System V message queue": ("syscall(68, 0, 0o1600)", DENIED, True),
    "a System V semaphore": ("syscall(64, 0, 1, 0o1600)", DENIED, True),
    "a POSIX message queue": ("syscall(240, b'probe', os.O_CREAT | os.O_RDWR, 0o600, 0)", DENIED, True),
    "splice": ("a, b = os.pipe(); os.write(b, b'x'); c, d = os.pipe(); syscall(275, a, 0, d, 0, 1, 0)", DENIED, True),
    "tee": ("a, b = os.pipe(); os.write(b, b'x'); c, d = os.pipe(); syscall(276, a, d, 1, 0)", DENIED, True),
    "vmsplice": ("a, b = os.pipe(); syscall(278, b, bytes(16), 0, 0)", DENIED, True),
    "watching files": ("syscall(294, 0)", ("ENOSYS",), True),
    "a file system watch for all": ("syscall(300, 0, 0)", DENIED, True),
    "a kernel module": ("syscall(175, bytes(16), 16, b'')", DENIED, False),
    "the kernel log": ("syscall(103, 10, 0, 0)", DENIED, True),
    "the clock": ("time.clock_settime(time.CLOCK_REALTIME, time.time())", DENIED, False),
    "the host name": ("socket.sethostname(socket.gethostname())", DENIED, True),
    "swap": ("syscall(167, b'/nonesuch', 0)", DENIED, True),
    "quota": ("syscall(179, 0x80000700, 0, 0, 0)", DENIED, False),
    "a device node": ("os.mknod('/tmp/probe', 0o20666, os.makedev(1, 1)); os.unlink('/tmp/probe')", DENIED, True),
    "a FIFO": ("os.mkfifo('/tmp/probe'); os.unlink('/tmp/probe')", DENIED, True),
    "locked memory": ("syscall(149, bytes(4096), 4096)", DENIED, True),
    "ports of the machine": ("syscall(172, 3)", DENIED, False),
    "a descriptor table": ("syscall(154, 1, bytes(16), 16)", DENIED, False),
    "another personality": ("syscall(135, 0x40000)", DENIED, True),
    "input to a terminal": ("fcntl.ioctl(0, 0x5412, b'x')", DENIED, True),
    "the thirty-two bit numbers of x32": ("syscall(0x40000000 + 39)", ("ENOSYS",), False),
}
PRIVILEGE = {
    "root by setuid": ("os.setuid(0)", DENIED, True),
    "root's group": ("os.setgid(0)", DENIED, True),
    "supplementary groups": ("os.setgroups([0])", DENIED, True),
    "init's uid": ("return in_child(lambda: os.setresuid(40000, 40000, 40000))", DENIED, True),
    "root's files by fsuid": ("syscall(122, 0)", DENIED, True),
    "capabilities": ("syscall(126, struct.pack('Ii', 0x20080522, 0), struct.pack('6I', *[32] * 6))", DENIED, False),
    "a capability in the ambient set": ("syscall(157, 47, 2, 5, 0, 0)", ("EPERM", "EINVAL"), False),
    "real time scheduling": ("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", DENIED, True),
    "more than its share of the processor": ("os.setpriority(os.PRIO_PROCESS, 0, -5)", (*DENIED, "EACCES"), True),
    "a higher limit of descriptors": ("syscall(160, 7, struct.pack('QQ', 4096, 4096))", DENIED, True),
    "a larger file size limit": ("syscall(160, 1, struct.pack('QQ', 1 << 40, 1 << 40))", DENIED, True),
    "a smaller risk of being killed": ("open('/proc/self/oom_score_adj', 'w').write('0')", GONE, True),
    "its own memory by file": ("open('/proc/self/mem', 'r+b').close()", GONE, True),
}


def doors(table: dict[str, tuple[str, tuple[str, ...], bool]]) -> Callable[[Any], Any]:
    return pytest.mark.parametrize(
        ("probe", "shut", "control"), [pytest.param(*entry, id=name) for name, entry in table.items()]
    )


class TestDoors:
    """Requests to the operating system that a program has no business making."""

    @doors(NETWORK | KERNEL | PRIVILEGE)
    async def test_it_is_refused(self, session: Session, probe: str, shut: tuple[str, ...], control: bool) -> None:
        if control:
            assert outside(probe) not in shut, "the probe fails on the host, too, so it proves nothing"
        assert await inside(session, probe) in shut

    async def test_a_system_call_off_the_table_is_refused(self, session: Session) -> None:
        # Which calls belong on the table is judged by name above. 335 and 336 are the kernel's own return path for
        # probes of itself: no filter ever sees them, and from anywhere else they do nothing.
        listed = sorted({*seccomp.ALLOWED.values(), 335, 336})
        probe = f"""
            allowed = []
            for number in sorted(set(range(470)) - set({listed})):
                answer = in_child(lambda: syscall(number, -1, -1, -1, -1, -1, -1))
                if answer not in ("EPERM", "ENOSYS"):
                    allowed.append((number, answer))
            return json.dumps(allowed)
        """
        assert json.loads(await inside(session, probe)) == []

    async def test_the_old_entry_for_thirty_two_bit_programs_is_deadly(self, session: Session) -> None:
        probe = """
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
            call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
            return in_child(call)
        """
        assert await inside(session, probe) in ("SIGSYS", "SIGSEGV")

    async def test_sockets_come_in_three_families_only(self, session: Session) -> None:
        probe = """
            made = set()
            for family in range(46):
                for kind in (1, 2, 3, 5):
                    with contextlib.suppress(OSError):
                        socket.socket(family, kind).close()
                        made.add(family)
            return json.dumps(sorted(made))
        """
        assert json.loads(await inside(session, probe)) == [1, 2, 10]
        assert set(json.loads(outside(probe))) > {1, 2, 10}


class TestNetwork:
    @pytest.mark.parametrize("address", ["8.8.8.8", "10.0.0.1", "172.17.0.1", "192.168.0.1", "169.254.169.254"])
    @pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
    async def test_no_address_is_reached(self, session: Session, address: str, kind: str) -> None:
        probe = f"socket.socket(socket.AF_INET, socket.{kind}).connect(({address!r}, 80))"
        assert await inside(session, probe) == "ENETUNREACH"

    @pytest.mark.parametrize("address", ["2001:4860:4860::8888", "fd00:ec2::254", "fe80::1%lo", "ff02::1"])
    async def test_no_address_of_version_six_is_reached(self, session: Session, address: str) -> None:
        probe = f"""
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"x", ({address!r}, 53))
        """
        assert await inside(session, probe) in ("ENETUNREACH", "EADDRNOTAVAIL", "EHOSTUNREACH")

    async def test_broadcast_and_multicast_go_nowhere(self, session: Session) -> None:
        probe = """
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                for address in ("255.255.255.255", "224.0.0.251"):
                    try:
                        sock.sendto(b"x", (address, 5353))
                        return "sent to " + address
                    except OSError as error:
                        assert error.errno == errno.ENETUNREACH
        """
        assert await inside(session, probe) == "done"

    async def test_the_hosts_own_ports_are_not_there(self, session: Session) -> None:
        with socket.create_server(("0.0.0.0", 0)) as server:
            probe = f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5).close()"
            assert outside(probe) == "done"
            assert await inside(session, probe) == "ECONNREFUSED"

    async def test_the_hosts_abstract_sockets_are_not_there(self, session: Session) -> None:
        name = f"\0canary-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
            server.listen()
            probe = f"with socket.socket(socket.AF_UNIX) as sock: sock.connect({name!r})"
            assert outside(probe) == "done"
            assert await inside(session, probe) == "ECONNREFUSED"

    async def test_its_only_interface_is_its_loopback(self, session: Session) -> None:
        probe = "return ' '.join(line.split(':')[0].strip() for line in open('/proc/self/net/dev').readlines()[2:])"
        assert await inside(session, probe) == "lo"

    async def test_names_are_not_resolved_and_nobody_waits_for_it(self, session: Session) -> None:
        probe = """
            try:
                return str(socket.getaddrinfo("example.com", 80))
            except socket.gaierror:
                return "unknown"
        """
        assert await inside(session, probe) == "unknown"

    async def test_its_own_loopback_works(self, session: Session) -> None:
        probe = """
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname()).close()
        """
        assert await inside(session, probe) == "done"


LEAKS = """
    /etc/shadow /etc/gshadow /etc/sudoers /etc/hostname /etc/machine-id /etc/fstab /etc/resolv.conf /etc/ssh
    /etc/os-release /proc/1/environ /proc/1/cmdline /proc/1/maps /proc/1/root /proc/1/cwd /proc/1/fd /proc/1/exe
    /proc/1/mem /proc/cmdline /proc/config.gz /proc/kallsyms /proc/kcore /proc/keys /proc/key-users /proc/kmsg
    /proc/meminfo /proc/cpuinfo /proc/stat /proc/uptime /proc/loadavg /proc/version /proc/modules /proc/interrupts
    /proc/iomem /proc/ioports /proc/timer_list /proc/vmstat /proc/slabinfo /proc/diskstats /proc/partitions
    /proc/swaps /proc/sched_debug /proc/sysrq-trigger /proc/sys/kernel/core_pattern
    /proc/sys/kernel/hostname /proc/sys/kernel/random/boot_id /proc/sys/vm/overcommit_memory /proc/bus /proc/irq
    /proc/fs /proc/scsi /proc/acpi /proc/driver /proc/pressure /sys/class /sys/devices /sys/firmware /sys/fs/cgroup
    /sys/kernel /sys/module /dev/mem /dev/kmsg /dev/kvm /dev/fuse /dev/vsock /dev/loop0 /dev/loop-control /dev/ptmx
    /dev/pts /dev/tty /dev/vda /dev/userfaultfd /dev/mapper /dev/hwrng /dev/cpu_dma_latency /dev/rtc0 /dev/console
    /run /run/docker.sock /run/systemd /run/dbus /run/sandbox /run/containerd /var /var/run /var/lib /var/log
    /root/.ssh /root/.bashrc /home /boot /srv /media /opt/sandbox /opt/image /opt/sandbox/sandbox/guest/init.py
    /lost+found
"""


class TestFiles:
    async def test_nothing_of_a_list_of_known_leaks_can_be_read(self, session: Session) -> None:
        probe = f"""
            found = []
            for path in {LEAKS.split()}:
                with contextlib.suppress(OSError):
                    if os.path.isdir(path):
                        os.listdir(path)
                    else:
                        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                    found.append(path)
            return json.dumps(found)
        """
        assert len(json.loads(outside(probe))) > 30
        assert json.loads(await inside(session, probe)) == []

    @pytest.mark.parametrize(
        "directory", ["/root", "/var/lib", "/tmp", "/run", "/dev/shm", "/etc", "/mnt", "/", "/srv"]
    )
    async def test_a_file_of_the_host_is_not_there(self, session: Session, directory: str) -> None:
        with canary(Path(directory)) as path:
            ways = [
                f"{way}{path}" for way in ("", "/proc/self/root", "/proc/1/root", "/proc/self/cwd/../..", "/.." * 20)
            ]
            ways += [f"/proc/self/fd/{fd}/..{'/..' * 9}{path}" for fd in range(20)]
            probe = f"""
                for path in {ways}:
                    with contextlib.suppress(OSError):
                        return open(path).read()
            """
            assert outside(probe) == path.read_text()
            assert await inside(session, probe) == "done"

    async def test_nothing_outside_its_three_directories_can_be_written(self, session: Session) -> None:
        name = f"canary-{secrets.token_hex(8)}"
        probe = f"""
            made = []
            for parent in ("/", "/mnt", "/usr", "/usr/bin", "/usr/lib", "/opt", "/opt/venv", sys.prefix, "/etc", "/dev",
                           "/proc", "/proc/self", sys.base_prefix, "/etc/alternatives", os.path.dirname(os.__file__)):
                for attempt in (lambda path: open(path, "w").close(), os.mkdir, lambda path: os.symlink("x", path)):
                    with contextlib.suppress(OSError):
                        attempt(os.path.join(parent, "{name}"))
                        made.append(parent)
            return json.dumps(made)
        """
        assert json.loads(await inside(session, probe)) == []

    async def test_libraries_cannot_be_changed(self, session: Session) -> None:
        probe = """
            import numpy
            changed = []
            for path in (numpy.__file__, os.__file__, sys.executable, "/bin/sh", "/etc/passwd"):
                for attempt in (lambda: open(path, "r+b").close(), lambda: os.truncate(path, 0),
                                lambda: os.chmod(path, 0o777), lambda: os.unlink(path), lambda: os.utime(path),
                                lambda: os.rename(path, "/tmp/x"), lambda: os.link(path, "/mnt/data/link")):
                    with contextlib.suppress(OSError):
                        attempt()
                        changed.append(path)
            return json.dumps(changed)
        """
        assert json.loads(await inside(session, probe)) == []

    async def test_its_own_files_cannot_be_executed(self, session: Session, tmp_path: Path) -> None:
        probe = """
            import shutil
            ran = []
            for directory in DIRECTORIES:
                path = os.path.join(directory, "probe")
                shutil.copy("/bin/true", path)
                for line in ([path], ["/lib64/ld-linux-x86-64.so.2", path]):
                    with contextlib.suppress(OSError):
                        if subprocess.run(line, capture_output=True).returncode == 0:
                            ran.append(line)
                os.unlink(path)
            return json.dumps(ran)
        """
        assert len(json.loads(outside(probe.replace("DIRECTORIES", repr([str(tmp_path)]))))) == 2
        assert (
            json.loads(await inside(session, probe.replace("DIRECTORIES", "['/mnt/data', '/tmp', '/dev/shm']"))) == []
        )

    async def test_no_mount_honours_set_user_bits_or_devices(self, session: Session) -> None:
        probe = "return open('/proc/self/mountinfo').read()"
        mounts = {line.split()[4]: line.split()[5].split(",") for line in (await inside(session, probe)).splitlines()}
        files = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
        assert {"/", "/usr", "/opt/venv", "/proc", "/tmp", "/dev/shm", "/mnt/data"} | files <= mounts.keys()
        assert {path for path, options in mounts.items() if "nosuid" not in options} == files
        assert {path for path, options in mounts.items() if "nodev" not in options} == files | {"/dev"}

    async def test_the_five_devices_are_what_they_say(self, session: Session) -> None:
        probe = """
            names = sorted(name for name in os.listdir("/dev") if not os.path.islink(f"/dev/{name}"))
            return " ".join(names)
        """
        assert await inside(session, probe) == "full null random shm urandom zero"


@contextlib.contextmanager
def canary(directory: Path) -> Iterator[Path]:
    """A file of the host with a secret in it."""
    path = directory / f"canary-{secrets.token_hex(8)}"
    path.write_text(secrets.token_hex(16))
    try:
        yield path
    finally:
        path.unlink()


class TestOtherSessions:
    async def test_files_are_not_shared(self, session: Session, other: Session) -> None:
        name = f"canary-{secrets.token_hex(8)}"
        places = [f"{directory}/{name}" for directory in ("/mnt/data", "/tmp", "/dev/shm")]
        probe = f"return ' '.join(path for path in {places} if os.path.exists(path))"
        await inside(session, f"for path in {places}: open(path, 'w').close()")
        assert await inside(session, probe) == " ".join(places)
        assert await inside(other, probe) == "done"

    async def test_processes_are_not_seen(self, session: Session, other: Session) -> None:
        await inside(session, "subprocess.Popen(['sleep', '1000'])")
        probe = "return ' '.join(name for name in os.listdir('/proc') if name.isdigit())"
        assert len((await inside(session, probe)).split()) == 2
        assert await inside(other, probe) == "2"

    async def test_abstract_sockets_are_not_shared(self, session: Session, other: Session) -> None:
        connect = "with socket.socket(socket.AF_UNIX) as sock: sock.connect('\\0meeting')"
        listen = "global s; s = socket.socket(socket.AF_UNIX); s.bind('\\0meeting'); s.listen()"
        await inside(session, listen)
        assert await inside(session, connect) == "done"
        assert await inside(other, connect) == "ECONNREFUSED"

    async def test_ports_are_not_shared(self, session: Session, other: Session) -> None:
        connect = "socket.create_connection(('127.0.0.1', 5000), 5).close()"
        await inside(session, "global s; s = socket.create_server(('127.0.0.1', 5000))")
        assert await inside(session, connect) == "done"
        assert await inside(other, connect) == "ECONNREFUSED"

    async def test_shared_memory_is_not_shared(self, session: Session, other: Session) -> None:
        attach = "from multiprocessing import shared_memory; shared_memory.SharedMemory('meeting')"
        make = "global m; from multiprocessing import shared_memory; m = shared_memory.SharedMemory('meeting', True, 9)"
        await inside(session, make)
        assert await inside(session, attach) == "done"
        assert await inside(other, attach) == "ENOENT"

    async def test_a_lock_on_a_library_is_not_felt(self, session: Session, other: Session) -> None:
        lock = "global f; f = open(json.__file__); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        again = "g = open(json.__file__); fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert await inside(session, lock) == "done"
        assert await inside(session, again) == "EAGAIN"
        assert await inside(other, again) == "done"

    async def test_a_lock_on_a_library_is_not_felt_by_the_host(self, session: Session) -> None:
        await inside(session, "global f; f = open('/usr/bin/env'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)")
        assert outside("f = open('/usr/bin/env'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)") == "done"

    async def test_no_two_have_the_same_uid_even_one_after_the_other(self, engine: Engine, session: Session) -> None:
        uids = [status(await pid_of(session))["Uid"]]
        for _ in range(5):
            async with engine.session() as later:
                uids.append(status(await pid_of(later))["Uid"])
        assert len({uid for words in uids for uid in words}) == 6
        assert all(int(words[0]) >= 0x70000000 for words in uids)

    async def test_random_numbers_are_not_the_same(self, session: Session, other: Session) -> None:
        probe = """
            import numpy, random, secrets, ssl, uuid
            from scipy import stats
            from sklearn.utils import check_random_state
            with tempfile.NamedTemporaryFile() as file:
                name = file.name
            return json.dumps({
                "random": random.random(), "Random": random.Random().random(), "SystemRandom": secrets.token_hex(),
                "numpy": numpy.random.rand(), "default_rng": numpy.random.default_rng().random(),
                "RandomState": numpy.random.RandomState().rand(), "scipy": stats.norm.rvs(),
                "sklearn": check_random_state(None).rand(), "uuid1": uuid.uuid1().hex, "uuid4": uuid.uuid4().hex,
                "node": uuid.getnode(), "tempfile": name, "mktemp": tempfile.mktemp(), "ssl": ssl.RAND_bytes(8).hex(),
                "urandom": os.urandom(8).hex(),
            })
        """
        ours, theirs = json.loads(await inside(session, probe)), json.loads(await inside(other, probe))
        assert {name for name in ours if ours[name] == theirs[name]} == set()

    async def test_what_one_changes_in_a_module_the_next_does_not_see(self, session: Session, engine: Engine) -> None:
        await inside(session, "import numpy, builtins; numpy.canary = builtins.canary = 1")
        async with engine.session() as later:
            assert await inside(later, "import numpy; return str(hasattr(numpy, 'canary'))") == "False"


class TestProcess:
    async def test_its_kernel_is_contained_as_the_host_sees_it(self, session: Session) -> None:
        pid = await pid_of(session)
        seen = status(pid)
        assert {seen[f"Cap{name}"][0] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (seen["NoNewPrivs"], seen["Seccomp"], seen["Groups"]) == (["1"], ["2"], [])
        for name in ("mnt", "net", "ipc", "uts", "cgroup", "pid", "user"):
            assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        assert len(seen["NSpid"]) == 2

    async def test_its_children_are_as_contained(self, session: Session) -> None:
        name = secrets.token_hex(7)
        await inside(
            session,
            f"""
            child = subprocess.Popen(['bash', '-c', 'exec -a {name} sleep 1000'])
            command = f"/proc/{{child.pid}}/cmdline"
            while not os.path.exists(command) or not open(command).read().startswith({name!r}):
                os.sched_yield()
            """,
        )
        [pid] = [pid for pid in pids() if command(pid)[:1] == [name]]
        seen = status(pid)
        assert {seen[f"Cap{name}"][0] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (seen["NoNewPrivs"], seen["Seccomp"], seen["Groups"]) == (["1"], ["2"], [])

    async def test_a_set_user_program_gains_nothing(self, session: Session) -> None:
        probe = """
            path = next(path for path in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/chage") if os.path.exists(path))
            assert os.stat(path).st_mode & 0o4000
            null = subprocess.DEVNULL
            child = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=null, stderr=null)
            # Until its execve is over it is as undumpable as its parent, and this /proc does not show such.
            while not os.path.exists(f"/proc/{child.pid}/status") and child.poll() is None:
                os.sched_yield()
            [line] = [line for line in open(f"/proc/{child.pid}/status") if line.startswith("Uid")]
            child.kill()
            child.wait()
            return str(set(line.split()[1:]) == {str(os.getuid())})
        """
        assert await inside(session, probe) == "True"

    async def test_init_and_its_descriptors_cannot_be_seen(self, session: Session) -> None:
        assert await inside(session, "os.listdir('/proc/1')") == "ENOENT"
        assert await inside(session, "os.listdir('/proc/1/fd')") == "ENOENT"

    async def test_init_cannot_be_signalled(self, session: Session) -> None:
        probe = """
            answers = set()
            for number in (0, 1, 2, 9, 15, 19):
                try:
                    os.kill(1, number)
                    answers.add("sent")
                except OSError as error:
                    answers.add(errno.errorcode[error.errno])
            return " ".join(answers)
        """
        assert await inside(session, probe) == "EPERM"

    async def test_the_zygote_has_no_number_to_be_reached_by(self, session: Session) -> None:
        assert await inside(session, "return str(os.getppid())") == "0"

    async def test_no_descriptor_is_inherited(self, engine: Engine, tmp_path: Path) -> None:
        probe = """
            kinds = set()
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(FileNotFoundError):
                    kinds.add(os.readlink(f"/proc/self/fd/{name}").partition(":[")[0])
            return json.dumps(sorted(kinds))
        """
        canary = os.open(tmp_path, os.O_RDONLY)
        os.set_inheritable(canary, True)
        try:
            async with engine.session(limits=Limits(memory_mb=300)) as fresh:
                kinds = json.loads(await inside(fresh, probe))
        finally:
            os.close(canary)
        own = {"/memfd:pending (deleted)"}  # its unsent text
        assert set(kinds) <= {"/dev/null", "pipe", "socket", "anon_inode"} | own

    async def test_its_sockets_lead_to_nobody_but_init(self, session: Session) -> None:
        probe = """
            peers = set()
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    with socket.socket(fileno=os.dup(int(name))) as sock:
                        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM:
                            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                            peers.add(struct.unpack("3i", credentials)[0])
            return json.dumps(sorted(peers))
        """
        # Its own pid, init's, and 0 for a listening socket that nobody is at the other end of.
        assert set(json.loads(await inside(session, probe))) <= {0, 1, 2}

    async def test_kill_everybody_kills_nobody_else(self, session: Session, other: Session) -> None:
        await inside(other, "global child; child = subprocess.Popen(['sleep', '1000'])")
        probe = "subprocess.Popen(['sleep', '1000']); os.kill(-1, signal.SIGKILL)"
        assert await inside(session, probe) == "done"
        assert await inside(other, "return str(child.poll())") == "None"

    async def test_its_environment_holds_nothing_of_the_servers(self, session: Session) -> None:
        found = json.loads(await inside(session, "return json.dumps(dict(os.environ))"))
        allowed = {"HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "PWD", "TMPDIR", "TERM", "PAGER", "GIT_PAGER"}
        allowed |= {"MPLBACKEND", "MPLCONFIGDIR", "IPYTHONDIR", "XDG_CACHE_HOME", "PLOTLY_RENDERER", "NO_COLOR"}
        allowed |= {"PYTHONDONTWRITEBYTECODE", "JE_ARROW_MALLOC_CONF"}
        allowed |= {f"{name}_NUM_THREADS" for name in ("OPENBLAS", "OMP", "MKL", "NUMEXPR")}
        assert found.keys() - allowed == set()
        raw = await inside(session, "return open('/proc/self/environ').read()")
        assert not set(raw.split("\0")) & {
            f"{name}={value}" for name, value in os.environ.items() if name not in allowed
        }

    async def test_no_secret_of_the_server_is_in_the_memory_it_was_forked_from(
        self, monkeypatch: pytest.MonkeyPatch, root: None, python_image: object
    ) -> None:
        secret = secrets.token_hex(16)
        monkeypatch.setenv("CANARY_API_KEY", secret)
        async with Engine.open(Settings(pool_size=0)) as engine:
            await engine.pool.fill()
            host = Embedded.below(os.getpid())
            helpers = [host.launcher, *host.zygotes()]
            assert len(helpers) == 2
            assert holds(os.getpid(), secret)
            assert not any(holds(pid, secret) for pid in helpers)


def holds(pid: int, secret: str) -> bool:
    """Whether a process has the secret anywhere in its writable memory or its environment."""
    needle = secret.encode()
    if needle in Path(f"/proc/{pid}/environ").read_bytes():
        return True
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, permissions = line.split()[:2]
            start, end = (int(address, 16) for address in addresses.split("-"))
            if not permissions.startswith("rw"):
                continue
            with contextlib.suppress(OSError, OverflowError):
                memory.seek(start)
                if needle in memory.read(end - start):
                    return True
    return False


class TestMemory:
    async def test_many_processes_together_stay_below_the_cap(self, session: Session) -> None:
        code = """
            import os, signal
            children = []
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    hoard = bytearray(64 << 20)
                    signal.pause()
                children.append(pid)
            for pid in children:
                os.waitpid(pid, 0)
        """
        execution = await session.execute(textwrap.dedent(code), 2)
        assert execution.peak_memory_bytes <= 512 << 20
        assert (await session.execute("1")).status is Status.OK

    @pytest.mark.parametrize(
        "take",
        [
            pytest.param("m = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1", id="shared mapping"),
            pytest.param(
                "fds = [os.memfd_create(str(i)) for i in range(20)]\nfor fd in fds: os.write(fd, bytes(64 << 20))",
                id="memory files",
            ),
            pytest.param("x = bytearray(1 << 30)", id="heap"),
        ],
    )
    async def test_no_kind_of_memory_escapes_the_cap(self, session: Session, take: str) -> None:
        execution = await session.execute(f"import mmap, os, resource\n{take}", 20)
        assert execution.status is Status.OOM
        assert execution.peak_memory_bytes <= 512 << 20

    async def test_the_memory_of_the_dead_is_given_back(self, session: Session) -> None:
        for _ in range(3):
            execution = await session.execute("x = bytearray(1 << 30)")
            assert (execution.status, execution.state_lost) == (Status.OOM, True)
        execution = await session.execute("x = bytearray(300 << 20)")
        assert execution.status is Status.OK

    async def test_its_other_directories_have_a_floor_and_a_ceiling(self, session: Session) -> None:
        for directory in ("/tmp", "/dev/shm"):
            probe = f"with open('{directory}/big', 'wb') as f:\n    for _ in range(600): f.write(bytes(1 << 20))"
            assert await inside(session, probe) == "ENOSPC"
            assert await inside(session, f"os.unlink('{directory}/big')") == "done"


class TestDisk:
    async def test_bytes_are_capped(self, session: Session) -> None:
        probe = "with open('/mnt/data/big', 'wb') as f:\n    for _ in range(600): f.write(bytes(1 << 20))"
        assert await inside(session, probe) in ("ENOSPC", "EFBIG")
        [file] = await session.list()
        assert 200 << 20 < file.size <= 256 << 20

    async def test_many_files_do_not_get_around_it(self, session: Session) -> None:
        probe = """
            written = 0
            try:
                for number in range(600):
                    with open(f"/mnt/data/{number}", "wb", buffering=0) as f:
                        written += f.write(bytes(1 << 20))
            except OSError as error:
                assert error.errno == errno.ENOSPC
            return str(written >> 20)
        """
        assert 200 <= int(await inside(session, probe)) <= 256

    async def test_the_number_of_files_is_capped(self, session: Session) -> None:
        probe = """
            for number in range(20_000):
                try:
                    open(f"/mnt/data/{number}", "w").close()
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    return str(number)
        """
        assert 8_000 <= int(await inside(session, probe)) <= 8_192

    async def test_the_number_of_directories_is_capped(self, session: Session) -> None:
        probe = """
            for number in range(20_000):
                try:
                    os.mkdir(f"/mnt/data/{number}")
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    return str(number)
        """
        assert 8_000 <= int(await inside(session, probe)) <= 8_192

    async def test_a_hole_is_not_larger_than_the_disk(self, session: Session) -> None:
        assert (
            await inside(session, "os.truncate(os.open('/mnt/data/hole', os.O_CREAT | os.O_RDWR), 10 << 40)") == "EFBIG"
        )


class TestProcesses:
    async def test_their_number_is_capped(self, session: Session) -> None:
        probe = """
            children = []
            try:
                while len(children) < 1000:
                    pid = os.fork()
                    if pid == 0:
                        signal.pause()
                    children.append(pid)
            except BlockingIOError:
                return str(len(children))
            finally:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        """
        assert 100 < int(await inside(session, probe)) < 128

    async def test_threads_count(self, session: Session) -> None:
        probe = """
            stop, threads = threading.Event(), []
            try:
                while len(threads) < 1000:
                    threads.append(threading.Thread(target=stop.wait))
                    threads[-1].start()
            except RuntimeError:
                return str(len(threads))
            finally:
                stop.set()
        """
        assert 100 < int(await inside(session, probe)) < 128

    async def test_descriptors_are_capped(self, session: Session) -> None:
        probe = """
            held = []
            try:
                while len(held) < 5000:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            finally:
                for fd in held:
                    os.close(fd)
        """
        assert await inside(session, probe) == "EMFILE"

    async def test_all_threads_together_get_no_more_than_their_share_of_time(self, session: Session) -> None:
        code = """
            import os, time
            for _ in range(3):
                if os.fork() == 0:
                    break
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                pass
        """
        execution = await session.execute(textwrap.dedent(code))
        assert execution.status is Status.OK
        assert execution.cpu_ms <= 1.2 * execution.duration_ms + 200
