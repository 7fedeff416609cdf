"""Doors that have to be shut: requests to the operating system that a program has no business making."""

from dataclasses import dataclass

DENIED = ("EPERM", "ENOSYS")
SHUT = ("EPERM", "EACCES", "ENOSYS", "EAFNOSUPPORT", "EINVAL", "EPROTONOSUPPORT")
NO_FAMILY = ("EAFNOSUPPORT",)
GONE = ("ENOENT", "EACCES")


@dataclass(frozen=True, slots=True)
class Door:
    """One way to knock."""

    row: str
    """In the attack corpus."""
    probe: str
    shut: tuple[str, ...] = DENIED
    """Answers that mean that it is shut."""
    everywhere: bool = True
    """Whether it is open to root on every host; else a host that has no such door makes the test void."""
    wall: str | None = None
    """What it takes, where not every runtime has it: see `lacks`."""


TUNNEL = """
    def attempt():
        tun = os.open("/dev/net/tun", os.O_RDWR)
        if os.geteuid() == 0:
            syscall(272, 0x40000000)  # the host's network stays as it is
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"", 0x1001))  # TUNSETIFF
    return in_child(attempt)
"""
OWN_KERNEL = "settings of a process that the host's kernel decides"

NETWORK = {
    "a netlink socket": Door("A06", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", SHUT),
    "a packet socket": Door("A06", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)", SHUT),
    "a key management socket": Door("A06", "socket.socket(15, socket.SOCK_RAW, 2)", NO_FAMILY, everywhere=False),
    "an express data path socket": Door("A06", "socket.socket(44, socket.SOCK_RAW)", NO_FAMILY, everywhere=False),
    "a vsock socket": Door(
        "A05",
        "s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); s.bind((socket.VMADDR_CID_ANY, 50_000)); s.listen()",
        NO_FAMILY,
        everywhere=False,
    ),
    "a kernel crypto socket": Door(
        "A04", "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)", NO_FAMILY, everywhere=False
    ),
    "a bluetooth socket": Door("A04", "socket.socket(31, socket.SOCK_RAW, 1)", NO_FAMILY, everywhere=False),
    "a raw ICMP socket": Door("G10", "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)", SHUT),
    "a raw socket of version six": Door(
        "G10", "socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)", SHUT
    ),
    "a ping socket": Door(
        "G10", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)", SHUT, everywhere=False
    ),
    "a socket of a rare transport": Door(
        "A04", "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)", SHUT, everywhere=False
    ),
    "a tunnel device": Door("G10", TUNNEL, (*GONE, "EPERM"), everywhere=False),
}
NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x20000,
    "network": 0x40000000,
    "process": 0x20000000,
    "host name": 0x4000000,
    "message queue": 0x8000000,
    "control group": 0x2000000,
    "time": 0x80,
}
ISOLATION = {
    f"a {name} namespace": Door("A09", f"return in_child(lambda: syscall(272, {flag}))")
    for name, flag in NAMESPACES.items()
}
ISOLATION |= {
    f"a {name} namespace by clone": Door("A09", f"return in_child(lambda: syscall(56, {flag} | 17, 0, 0, 0, 0))")
    for name, flag in NAMESPACES.items()
    if name != "time"  # its flag is part of the exit signal's number, and clone has never known it
}
ISOLATION |= {
    "clone3": Door("A09", "syscall(435, bytes(88), 88)"),
    "its own namespace again by setns": Door(
        "A09", "syscall(308, os.open('/proc/self/ns/net', os.O_RDONLY), 0)", (*DENIED, "EACCES")
    ),
}
MOUNTS = {
    "mount": Door("A10", "syscall(165, b'none', b'/mnt', b'tmpfs', 0, 0)"),
    "a mount again with other flags": Door("A10", "syscall(165, b'none', b'/', b'', 0x1020, 0)"),
    "umount": Door("A10", "syscall(166, b'/proc', 2)"),
    "a new mount by file descriptor": Door("A10", "syscall(430, b'tmpfs', 0)"),
    "a mount's settings by file descriptor": Door("A10", "syscall(431, -1, 0, 0, 0, 0)"),
    "a mount from a file descriptor": Door("A10", "syscall(432, -1, 0, 0)"),
    "a mount picked up": Door("A10", "syscall(433, -100, b'/', 0)"),
    "a mount moved": Door("A10", "syscall(429, -100, b'/nonesuch', -100, b'/mnt', 0)"),
    "a mount's flags": Door("A10", "syscall(442, -100, b'/nonesuch', 0, bytes(32), 32)"),
    "a clone of a mount": Door("A10", "syscall(428, -100, b'/proc', 1)"),
    "pivot_root": Door("A10", "syscall(155, b'/mnt', b'/mnt')"),
    "chroot": Door("A10", "os.chroot('/')"),
}
OTHERS = {
    "tracing a child": Door("A12", "with held_child() as pid: syscall(101, 16, pid, 0, 0)"),
    "seizing a child": Door("A12", "with held_child() as pid: syscall(101, 0x4206, pid, 0, 0)"),
    "being traced": Door("A12", "return in_child(lambda: syscall(101, 0, 0, 0, 0))"),
    "tracing init": Door("A12", "return in_child(lambda: syscall(101, 0x4206, 1, 0, 1 << 31))", everywhere=False),
    "another process's memory": Door(
        "A13", "syscall(310, os.getpid(), struct.pack('QQ', 0, 0), 0, struct.pack('QQ', 0, 0), 0, 0)"
    ),
    "writing another process's memory": Door(
        "A13", "syscall(311, os.getpid(), struct.pack('QQ', 0, 0), 0, struct.pack('QQ', 0, 0), 0, 0)"
    ),
    "a descriptor of another process": Door("A13", "syscall(438, os.pidfd_open(os.getpid()), 0, 0)"),
    "comparing processes": Door("A13", "syscall(312, os.getpid(), os.getpid(), 0, 0, 0)"),
    "advice about another's memory": Door("A13", "syscall(440, os.pidfd_open(os.getpid()), 0, 0, 4, 0)"),
    "its own memory by file": Door(
        "A13", "open('/proc/self/mem', 'r+b').close()", GONE, wall="a kernel that cannot be looked into"
    ),
}
KERNEL = {
    "io_uring": Door("A07", "syscall(425, 1, bytes(120))", ("ENOSYS",)),
    "bpf": Door("A08", "syscall(321, 0, bytes(128), 128)"),
    "performance counters": Door("A08", "syscall(298, bytes(128), 0, -1, -1, 0)"),
    "userfaultfd": Door("A08", "syscall(323, 1)", everywhere=False),
    "secret memory": Door("A08", "syscall(447, 0)", everywhere=False),
    "the session keyring": Door("A11", "syscall(250, 0, -3, 0)"),
    "the user's keyring": Door("A11", "syscall(250, 0, -4, 1)"),
    "adding a key": Door("A11", "syscall(248, b'user', b'probe', b'x', 1, -2)"),
    "asking for a key": Door("A11", "syscall(249, b'user', b'probe', 0, -2)"),
    "a handle of a file": Door("A14", "syscall(303, -100, b'/', bytes(144), bytes(4), 0)"),
    "a file by its handle": Door("A14", "syscall(304, -100, bytes(16), 0)"),
    "splice": Door("A26", "a, b = os.pipe(); os.write(b, b'x'); c, d = os.pipe(); syscall(275, a, 0, d, 0, 1, 0)"),
    "a library's page in a pipe": Door(
        "A26", "a, b = os.pipe(); syscall(275, os.open('/usr/bin/env', os.O_RDONLY), 0, b, 0, 1, 0)"
    ),
    "tee": Door("A26", "a, b = os.pipe(); os.write(b, b'x'); c, d = os.pipe(); syscall(276, a, d, 1, 0)"),
    "vmsplice": Door("A26", "a, b = os.pipe(); syscall(278, b, bytes(16), 0, 0)"),
    "a fixed address layout": Door("A27", "syscall(135, 0x40000)"),
    "executable memory wherever it is readable": Door("A27", "syscall(135, 0x400000)"),
    "an old kernel's release number": Door("A27", "syscall(135, 0x20000)"),
    "asynchronous input and output": Door("A01", "syscall(206, 1, bytes(8))"),
    "a kernel module": Door("A01", "syscall(175, bytes(16), 16, b'')", everywhere=False),
    "the kernel log": Door("A01", "syscall(103, 10, 0, 0)"),
    "the clock": Door("A01", "time.clock_settime(time.CLOCK_REALTIME, time.time())", everywhere=False),
    "the host name": Door("A01", "socket.sethostname(socket.gethostname())"),
    "swap": Door("A01", "syscall(167, b'/nonesuch', 0)"),
    "quota": Door("A01", "syscall(179, 0x80000700, 0, 0, 0)", everywhere=False),
    "ports of the machine": Door("A01", "syscall(172, 3)", everywhere=False),
    "a descriptor table": Door("A01", "syscall(154, 1, bytes(16), 16)", everywhere=False),
    "input to a terminal": Door("A24", "fcntl.ioctl(0, 0x5412, b'x')"),
    "a command to the console": Door("A24", "fcntl.ioctl(0, 0x541C, b'x')"),
    "the thirty-two bit numbers of x32": Door(
        "A03", "return in_child(lambda: syscall(0x40000000 + 39))", ("ENOSYS", "SIGSYS"), everywhere=False
    ),
}
SHARED = {
    "System V shared memory": Door("F04", "syscall(29, 0, 4096, 0o1600)"),
    "a System V message queue": Door("F04", "syscall(68, 0, 0o1600)"),
    "a System V semaphore": Door("F04", "syscall(64, 0, 1, 0o1600)"),
    "a POSIX message queue": Door("F04", "syscall(240, b'probe', os.O_CREAT | os.O_RDWR, 0o600, 0)"),
    "watching files": Door("F06", "syscall(294, 0)", ("ENOSYS",)),
    "watching files, the old way": Door("F06", "syscall(253)", ("ENOSYS",)),
    "a file system watch for all": Door("F06", "syscall(300, 0, 0)"),
    "whether a page is in memory, by mapping": Door(
        "F07", "m = mmap.mmap(-1, 4096, 2); syscall(27, ctypes.addressof(ctypes.c_char.from_buffer(m)), 4096, bytes(1))"
    ),
    "whether a page is in memory, by count": Door(
        "F07",
        "syscall(451, os.open('/usr/bin/env', os.O_RDONLY), bytes(16), ctypes.create_string_buffer(40), 0)",
        everywhere=False,
    ),
    "whether a page is in memory, by a read that does not wait": Door(
        "F07",
        "buffer = bytearray(1); os.preadv(os.open('/usr/bin/env', os.O_RDONLY), [buffer], 0, os.RWF_NOWAIT)",
        (*DENIED, "ENOTSUP"),
    ),
    "another's keyring": Door("F08", "syscall(250, 0, -5, 0)"),
}
PRIVILEGE = {
    "root by setuid": Door("A15", "os.setuid(0)"),
    "root's group": Door("A15", "os.setgid(0)"),
    "supplementary groups": Door("A15", "os.setgroups([0])"),
    "init's uid": Door("A15", "return in_child(lambda: os.setresuid(40000, 40000, 40000))"),
    "root's files by fsuid": Door("A15", "syscall(122, 0)"),
    "capabilities": Door("A25", "syscall(126, struct.pack('Ii', 0x20080522, 0), struct.pack('6I', *[32] * 6))"),
    "a capability in the ambient set": Door("A25", "syscall(157, 47, 2, 5, 0, 0)", ("EPERM", "EINVAL"), False),
    "fewer security bits": Door("A25", "syscall(157, 28, 0, 0, 0, 0)", (*DENIED, "EINVAL")),
    "a device node": Door("A18", "os.mknod('/tmp/probe', 0o20666, os.makedev(1, 1)); os.unlink('/tmp/probe')"),
    "a FIFO": Door("B07", "os.mkfifo('/tmp/probe'); os.unlink('/tmp/probe')"),
    "locked memory": Door("C06", "syscall(149, bytes(4096), 4096)"),
    "all memory locked": Door("C06", "return in_child(lambda: syscall(151, 1))"),
    "a mapping that is locked": Door("C06", "mmap.mmap(-1, 1 << 20, flags=0x22 | 0x2000)", (*DENIED, "EAGAIN")),
    "a huge page": Door("C06", "mmap.mmap(-1, 2 << 20, flags=0x22 | 0x40000)", (*DENIED, "ENOMEM"), False, OWN_KERNEL),
    "real time scheduling": Door(
        "C12", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", (*DENIED, "EINVAL")
    ),
    "scheduling by deadline": Door(
        "C12",
        "return in_child(lambda: syscall(314, 0, struct.pack('IIQiIQQQ', 48, 6, 0, 0, 0, 10**6, 10**8, 10**8), 0))",
        everywhere=False,
    ),
    "more than its share of the processor": Door(
        "C12", "return in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))", (*DENIED, "EACCES"), wall=OWN_KERNEL
    ),
    "everybody's priority": Door("C12", "os.setpriority(os.PRIO_USER, os.getuid(), os.getpriority(0, 0))"),
    "a higher limit of descriptors": Door("C18", "syscall(160, 7, struct.pack('QQ', 4096, 4096))"),
    "a larger file size limit": Door("C17", "syscall(160, 1, struct.pack('QQ', 1 << 40, 1 << 40))"),
    "a smaller risk of being killed": Door(
        "C01",
        "os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'0')",
        GONE,
        wall="a risk of being killed that only grows",
    ),
}
DOORS = NETWORK | ISOLATION | MOUNTS | OTHERS | KERNEL | SHARED | PRIVILEGE
