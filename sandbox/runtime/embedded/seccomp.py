"""The system calls a program may make: one table, and the BPF made from it.

The table is an allow-list that a full science workload and a live ipykernel passed. What is left out on purpose:
ptrace, process_vm_*, pidfd_getfd, kcmp (peeking); bpf, perf_event_open, keyctl and friends; mount, setns, unshare,
chroot, pivot_root; open_by_handle_at; splice, tee, vmsplice (page-cache bugs); mknod; SysV and POSIX message
queues; mlock; the setuid family; io_setup; modify_ldt; clocks and modules. `sched_setscheduler` and
`sched_setparam` stay because libzmq asserts without them; they are harmless with RLIMIT_RTPRIO 0.
"""

import os
import struct
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Written name:number so that the numbers need no header file at run time.
_ALLOWED_X86_64 = """
read:0 write:1 open:2 close:3 stat:4 fstat:5 lstat:6 poll:7 lseek:8 mmap:9 mprotect:10 munmap:11 brk:12
rt_sigaction:13 rt_sigprocmask:14 rt_sigreturn:15 ioctl:16 pread64:17 pwrite64:18 readv:19 writev:20 access:21
pipe:22 select:23 sched_yield:24 mremap:25 msync:26 madvise:28 dup:32 dup2:33 pause:34 nanosleep:35 getitimer:36
alarm:37 setitimer:38 getpid:39 sendfile:40 socket:41 connect:42 accept:43 sendto:44 recvfrom:45 sendmsg:46
recvmsg:47 shutdown:48 bind:49 listen:50 getsockname:51 getpeername:52 socketpair:53 setsockopt:54 getsockopt:55
clone:56 fork:57 vfork:58 execve:59 exit:60 wait4:61 kill:62 uname:63 fcntl:72 flock:73 fsync:74 fdatasync:75
truncate:76 ftruncate:77 getdents:78 getcwd:79 chdir:80 fchdir:81 rename:82 mkdir:83 rmdir:84 creat:85 link:86
unlink:87 symlink:88 readlink:89 chmod:90 fchmod:91 fchown:93 lchown:94 umask:95 gettimeofday:96 getrlimit:97
getrusage:98 sysinfo:99 times:100 getuid:102 getgid:104 geteuid:107 getegid:108 setpgid:109 getppid:110
getpgrp:111 setsid:112 getgroups:115 getresuid:118 getresgid:120 getpgid:121 getsid:124 capget:125
rt_sigpending:127 rt_sigtimedwait:128 rt_sigqueueinfo:129 rt_sigsuspend:130 sigaltstack:131 utime:132
personality:135 statfs:137 fstatfs:138 getpriority:140 setpriority:141 sched_setparam:142 sched_getparam:143
sched_setscheduler:144 sched_getscheduler:145 sched_get_priority_max:146 sched_get_priority_min:147
sched_rr_get_interval:148 prctl:157 arch_prctl:158 setrlimit:160 gettid:186 fsetxattr:190 getxattr:191
lgetxattr:192 fgetxattr:193 listxattr:194 llistxattr:195 flistxattr:196 fremovexattr:199 tkill:200 time:201
futex:202 sched_setaffinity:203 sched_getaffinity:204 epoll_create:213 getdents64:217 set_tid_address:218
restart_syscall:219 fadvise64:221 timer_create:222 timer_settime:223 timer_gettime:224 timer_getoverrun:225
timer_delete:226 clock_gettime:228 clock_getres:229 clock_nanosleep:230 exit_group:231 epoll_wait:232
epoll_ctl:233 tgkill:234 utimes:235 waitid:247 openat:257 mkdirat:258 newfstatat:262 unlinkat:263 renameat:264
linkat:265 symlinkat:266 readlinkat:267 fchmodat:268 faccessat:269 pselect6:270 ppoll:271 set_robust_list:273
get_robust_list:274 sync_file_range:277 utimensat:280 epoll_pwait:281 timerfd_create:283 eventfd:284
fallocate:285 timerfd_settime:286 timerfd_gettime:287 accept4:288 eventfd2:290 epoll_create1:291 dup3:292
pipe2:293 preadv:295 pwritev:296 rt_tgsigqueueinfo:297 recvmmsg:299 prlimit64:302 sendmmsg:307 getcpu:309
sched_getattr:315 renameat2:316 getrandom:318 memfd_create:319 execveat:322 membarrier:324 copy_file_range:326
statx:332 rseq:334 pidfd_send_signal:424 pidfd_open:434 close_range:436 faccessat2:439 epoll_pwait2:441
"""

# Callers have fall-backs for a missing call, and may treat EPERM as a fault: pretend to be an older kernel.
_ABSENT_X86_64 = """
inotify_init:253 inotify_add_watch:254 inotify_rm_watch:255 inotify_init1:294 seccomp:317 userfaultfd:323
preadv2:327 pwritev2:328 io_uring_setup:425 io_uring_enter:426 io_uring_register:427 clone3:435 openat2:437
landlock_create_ruleset:444 landlock_add_rule:445 landlock_restrict_self:446 memfd_secret:447 futex_waitv:449
cachestat:451 statmount:457 listmount:458
"""

ARCHITECTURES = {"x86_64": 0xC000003E}
NEWEST = 451
"""Numbers above this are younger than the table: ENOSYS."""

_EPERM, _EINVAL, _ENOSYS, _EPROTONOSUPPORT, _EAFNOSUPPORT = 1, 22, 38, 93, 97
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000

_AF_UNIX, _AF_INET, _AF_INET6, AF_NETLINK = 1, 2, 10, 16
_PROTOCOLS = (0, 6, 17)
"""Of the internet's sockets: whatever fits the type, TCP, UDP. Not the ping sockets that some daemons open to all, nor
transports that nobody asks for and few have looked into."""
_REFUSED_CLONES = 0x7E028000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}, where NEWTIME shares its bit with the exit signal; and CLONE_PARENT, whose
children would be the zygote's, outside: it would have to bury them, and count them among its kernels."""
_TYPING = (0x5412, 0x541C)
"""TIOCSTI, TIOCLINUX: input for a terminal that others read."""
_PR_SET_SECCOMP = 22
_WATCHING = (1024, 1026)
"""F_SETLEASE, with which a program could keep init from its files; F_NOTIFY, which tells of other files' uses."""
_OWNING = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: a descriptor that sends signals, also to whom the program could send none."""
_OWNING_BY_IOCTL = (0x8901, 0x8902)
"""FIOSETOWN, SIOCSPGRP."""
_OPTIONS = {
    0: (1, 2, 8, 10, 11, 12, 13, 24, 32, 33, 34),
    1: (2, 5, 6, 7, 8, 9, 10, 12, 13, 15, 16, 18, 19, 20, 21, 29, 35, 66, 67),
    6: (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 18, 23, 25, 30, 36),
    41: (16, 17, 18, 19, 23, 25, 26, 49, 51, 66, 67),
}
"""Of sockets, by level (IP, SOL_SOCKET, TCP, IPv6): buffers, times, addresses, what is sent when, and what is told of
packets. All others are refused. Many keep memory that no control group is charged for, or is one pool for all of the
host: compiled filters, keys of signed TCP, groups of multicast, flow labels of IPv6, datagrams that UDP_CORK holds.
TLS and IPsec in the kernel are for nobody who reaches no network."""
_SHARED_ANONYMOUS = 0x21
"""MAP_SHARED and MAP_ANONYMOUS."""
_MSG_MORE = 0x8000
"""A datagram that waits for its rest is held in memory that no control group is charged for."""
_SENDS = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument the flags are."""
_PRIO_PROCESS = 0
_SCHEDULING = ("sched_setaffinity", "sched_setparam", "sched_setscheduler")
_SIGNALLING = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open")
_X32_BIT = 0x40000000


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds when an argument, masked, is this value."""

    argument: int
    value: int
    mask: int | None = None


CONDITIONS: Mapping[str, tuple[Condition, ...]] = {
    "socket": (Condition(0, _AF_UNIX), Condition(0, _AF_INET), Condition(0, _AF_INET6)),
    "clone": (Condition(0, 0, _REFUSED_CLONES),),
    "personality": (Condition(0, 0xFFFFFFFF),),
}
"""These calls are allowed when any of their conditions holds."""

# struct seccomp_data: int nr; u32 arch; u64 ip; u64 args[6], little endian.
_NR, _ARCH = 0, 4


def _argument(index: int) -> int:
    return 16 + 8 * index


def _numbers(table: str) -> dict[str, int]:
    return {name: int(number) for name, _, number in (entry.partition(":") for entry in table.split())}


ALLOWED = _numbers(_ALLOWED_X86_64)
ABSENT = _numbers(_ABSENT_X86_64)

_Instruction = tuple[int, int, int, int]


def _load(offset: int) -> _Instruction:
    return (0x20, 0, 0, offset)  # BPF_LD | BPF_W | BPF_ABS


def _equals(value: int, then: int, otherwise: int) -> _Instruction:
    return (0x15, then, otherwise, value)  # BPF_JMP | BPF_JEQ | BPF_K


def _at_least(value: int, then: int, otherwise: int) -> _Instruction:
    return (0x35, then, otherwise, value)  # BPF_JMP | BPF_JGE | BPF_K


def _and(mask: int) -> _Instruction:
    return (0x54, 0, 0, mask)  # BPF_ALU | BPF_AND | BPF_K


def _return(value: int) -> _Instruction:
    return (0x06, 0, 0, value)  # BPF_RET | BPF_K


def _only_for(number: int, block: list[_Instruction]) -> list[_Instruction]:
    """`block`, skipped for every other call. The accumulator holds the number before and after the skip."""
    return [_equals(number, 0, len(block)), *block]


def _allowed_if(conditions: Iterable[Condition], otherwise: Iterable[_Instruction]) -> list[_Instruction]:
    block: list[_Instruction] = []
    for condition in conditions:
        block.append(_load(_argument(condition.argument)))
        if condition.mask is not None:
            block.append(_and(condition.mask))
        block += [_equals(condition.value, 0, 1), _return(_ALLOW)]
    return [*block, *otherwise]


def _argument_rules(free: Container[int]) -> list[_Instruction]:
    allow, deny = _return(_ALLOW), _return(_ERRNO | _EPERM)
    # libzmq aborts the process on EAFNOSUPPORT for netlink and tolerates EINVAL.
    no_family = [_equals(AF_NETLINK, 0, 1), _return(_ERRNO | _EINVAL), _return(_ERRNO | _EAFNOSUPPORT)]
    setsockopt = [instruction for level in _OPTIONS for instruction in _allowed_options(level)]
    # Where init has the program's uid, its limits and its priority would be the program's to change; and in gVisor it
    # can be stopped, and then hears neither of a deadline nor of the host's end.
    setpriority = [_load(_argument(0)), _equals(_PRIO_PROCESS, 1, 0), deny]
    rules = {name: _allowed_if(CONDITIONS[name], [deny]) for name in ("clone", "personality")}
    rules |= {"socket": [*_protocol(), *_allowed_if(CONDITIONS["socket"], no_family)]}
    rules |= {"ioctl": [*_refused(1, (*_TYPING, *_OWNING_BY_IOCTL)), allow]}
    rules |= {"prctl": [*_refused(0, (_PR_SET_SECCOMP,)), allow]}
    rules |= {"fcntl": [*_refused(1, (*_WATCHING, *_OWNING)), allow]}
    rules |= {"setsockopt": [*setsockopt, deny]}
    rules |= {name: _allowed_if([Condition(flags, 0, _MSG_MORE)], [deny]) for name, flags in _SENDS.items()}
    rules |= {"setpriority": [*setpriority, *_but_for_init(1)]}
    rules |= {name: _but_for_init(0) for name in ("prlimit64", *_SCHEDULING, *_SIGNALLING)}
    bound = [(ALLOWED[name], block) for name, block in rules.items() if ALLOWED[name] not in free]
    return [instruction for number, block in bound for instruction in _only_for(number, block)]


def _refused(argument: int, values: Sequence[int]) -> list[_Instruction]:
    """Refuses these; goes on with all others."""
    known = [_equals(value, len(values) - index, 0) for index, value in enumerate(values, 1)]
    known[-1] = _equals(values[-1], 0, 1)
    return [_load(_argument(argument)), *known, _return(_ERRNO | _EPERM)]


def _refused_together(argument: int, bits: int) -> list[_Instruction]:
    """Refuses whatever has all of these bits."""
    return [_load(_argument(argument)), _and(bits), _equals(bits, 0, 1), _return(_ERRNO | _EPERM), _return(_ALLOW)]


def _allowed_options(level: int) -> list[_Instruction]:
    """Allows those of the level; goes on with all others."""
    options = _OPTIONS[level]
    known = [_equals(option, len(options) - index, 0) for index, option in enumerate(options, 1)]
    known[-1] = _equals(options[-1], 0, 1)
    block = [_load(_argument(2)), *known, _return(_ALLOW)]
    return [_load(_argument(1)), _equals(level, 0, len(block)), *block]


def _protocol() -> list[_Instruction]:
    """Refuses the internet's sockets of another protocol than TCP and UDP; goes on with all else."""
    refuse = _return(_ERRNO | _EPROTONOSUPPORT)
    known = [_equals(protocol, len(_PROTOCOLS) - index, 0) for index, protocol in enumerate(_PROTOCOLS)]
    check = [_load(_argument(2)), *known, refuse]
    internet = [_load(_argument(0)), _equals(_AF_INET, 1, 0), _equals(_AF_INET6, 0, len(check))]
    return [*internet, *check]


def _but_for_init(argument: int) -> list[_Instruction]:
    """Allowed unless the argument, a process id, is PID 1's."""
    return [_load(_argument(argument)), _equals(1, 0, 1), _return(_ERRNO | _EPERM), _return(_ALLOW)]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted half-open runs of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def _membership(numbers: Iterable[int], verdict: int) -> list[_Instruction]:
    program: list[_Instruction] = []
    for low, high in _ranges(numbers):
        program += [_at_least(low, 0, 2), _at_least(high, 1, 0), _return(verdict)]
    return program


def program(also_allow: Iterable[int] = (), absent: Iterable[int] = (), *, nameless: bool = True) -> bytes:
    """The filter as an array of struct sock_filter.

    `also_allow`: numbers that our own init needs beyond the table, or whatever the arguments; `absent`: numbers of the
    table that are not there all the same; `nameless`: whether memory may be shared that is no file. Raises
    `NotImplementedError` on an architecture that has no table.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise NotImplementedError(f"there is no seccomp table for {machine}; x86_64 is supported")
    extra, hidden = set(also_allow), set(absent)
    instructions = [
        _load(_ARCH),
        _equals(ARCHITECTURES[machine], 1, 0),
        _return(_KILL_PROCESS),
        _load(_NR),
        _at_least(_X32_BIT, 0, 1),
        _return(_ERRNO | _ENOSYS),
        *_argument_rules(extra),
        *([] if nameless else _only_for(ALLOWED["mmap"], _refused_together(3, _SHARED_ANONYMOUS))),
        *_membership((set(ALLOWED.values()) | extra) - hidden, _ALLOW),
        *_membership((set(ABSENT.values()) - extra) | hidden, _ERRNO | _ENOSYS),
        _at_least(NEWEST + 1, 0, 1),
        _return(_ERRNO | _ENOSYS),
        _return(_ERRNO | _EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
