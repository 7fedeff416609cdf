"""The root a program sees: nothing of the host to read, nothing that is shared to write, no device."""

import hashlib
import json
import secrets
import sys
from pathlib import Path

import pytest

from sandbox.session import Session
from tests.runtime.escape.doors import GONE
from tests.runtime.escape.lacks import SINGLE
from tests.runtime.escape.probes import canary, inside, outside_once, pid_of, told

SECRETS = """
    /etc/shadow /etc/gshadow /etc/sudoers /etc/machine-id /etc/ssh /proc/1/environ /proc/1/maps
    /proc/1/root /proc/1/cwd /proc/1/fd /proc/1/mem /proc/cmdline /proc/config.gz /proc/kallsyms /proc/kcore
    /proc/keys /proc/key-users /proc/kmsg /proc/modules /proc/interrupts /proc/iomem /proc/ioports /proc/timer_list
    /proc/slabinfo /proc/vmallocinfo /proc/pagetypeinfo /proc/kpagecount /proc/diskstats /proc/partitions /proc/swaps
    /proc/sched_debug /proc/sysrq-trigger /proc/bus /proc/scsi /proc/acpi /proc/driver /proc/pressure /proc/locks
    /proc/mdstat /proc/schedstat /proc/buddyinfo /proc/zoneinfo /sys/class /sys/firmware /sys/kernel
    /sys/devices /sys/module /sys/block /sys/bus /sys/dev /sys/power /sys/hypervisor
    /dev/mem /dev/kmsg /dev/kvm /dev/fuse /dev/vsock /dev/loop0 /dev/loop-control /dev/tty1 /dev/vda /dev/userfaultfd
    /dev/mapper /dev/hwrng /dev/cpu_dma_latency /dev/rtc0 /dev/port /dev/net /dev/snapshot /dev/uinput
    /run/docker.sock /var/run/docker.sock /run/systemd /run/dbus /run/containerd /run/podman /run/user /tmp/.X11-unix
    /root/.ssh /root/.bashrc /boot /lost+found
"""
"""Of no use to any program."""
DESCRIPTIONS = """
    /etc/fstab /etc/hostname /etc/resolv.conf /etc/os-release /proc/vmstat
    /proc/1/cmdline /proc/1/exe /proc/meminfo /proc/cpuinfo /proc/stat
    /proc/uptime /proc/loadavg /proc/version /proc/irq /proc/fs /proc/sys/kernel/core_pattern
    /proc/sys/kernel/hostname /proc/sys/kernel/random/boot_id /proc/sys/vm/overcommit_memory /sys/fs/cgroup
    /dev/ptmx /dev/pts /dev/tty /dev/console /run /run/sandbox /var /var/lib /var/log /home /srv /media
"""
"""What every container shows of its host, or of itself."""
OURS = "/opt/image /opt/sandbox /opt/sandbox/sandbox/guest/init.py"
"""Where a sandbox's own parts are read from, wherever they are."""


def content_of(paths: str) -> str:
    """A probe for the paths that have something in them: a byte, or a name."""
    return f"""
        found = []
        for path in {paths.split()}:
            with contextlib.suppress(OSError):
                if os.path.isdir(path):
                    something = os.listdir(path)
                else:
                    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                    try:
                        something = path.startswith("/dev/") or os.read(fd, 1)
                    finally:
                        os.close(fd)
                if something:
                    found.append(path)
        return json.dumps(found)
    """


def digest_of(path: Path) -> str:
    """What the host has there."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.attack("A19", "A18", "G06")
@pytest.mark.needs_wall("nothing in `/dev` and `/sys` but what is needed")
async def test_nothing_of_a_list_of_known_leaks_can_be_read(onlooker: Session, kind: str) -> None:
    assert len(json.loads(outside_once(content_of(SECRETS)))) > 20
    assert await told(onlooker, content_of(SECRETS)) == (["/proc/1/fd"] if kind == SINGLE else [])


@pytest.mark.attack("A19")
@pytest.mark.needs_wall("no description of the machine")
async def test_not_even_what_the_machine_is_can_be_read(onlooker: Session, kind: str) -> None:
    assert len(json.loads(outside_once(content_of(DESCRIPTIONS)))) > 10
    assert await told(onlooker, content_of(DESCRIPTIONS)) == (["/proc/1/cmdline"] if kind == SINGLE else [])


@pytest.mark.attack("A19")
@pytest.mark.needs_wall("none of our own modules to be read")
async def test_nothing_of_ours_can_be_read(onlooker: Session) -> None:
    assert await told(onlooker, content_of(OURS)) == []


@pytest.mark.attack("A19")
async def test_what_of_ours_can_be_read_says_nothing_of_where_it_is_from(onlooker: Session, kind: str) -> None:
    names = await told(onlooker, "return json.dumps(os.listdir('/opt/image') if os.path.isdir('/opt/image') else [])")
    # A container's are of the container; the embedded runtime's manifest is of the host.
    assert set(names) <= {"preload.py", *([] if kind.startswith("embedded") else ["manifest.json", "modules"])}


@pytest.mark.attack("A19")
@pytest.mark.parametrize("directory", ["/root", "/var/lib", "/tmp", "/run", "/dev/shm", "/etc", "/mnt", "/", "/srv"])
async def test_a_file_of_the_host_is_not_there(onlooker: Session, directory: str) -> None:
    with canary(Path(directory)) as path:
        ways = [f"{way}{path}" for way in ("", "/proc/self/root", "/proc/1/root", "/proc/self/cwd/../..", "/.." * 20)]
        ways += [f"/proc/self/fd/{fd}/..{'/..' * 9}{path}" for fd in range(20)]
        probe = f"""
            for path in {ways}:
                with contextlib.suppress(OSError):
                    return open(path).read()
        """
        assert outside_once(probe) == path.read_text()
        assert await inside(onlooker, probe) == "done"


@pytest.mark.attack("A23")
async def test_no_descriptor_leads_out_of_the_root(onlooker: Session) -> None:
    with canary(Path("/srv")) as path:
        probe = f"""
            for fd in range(4096):
                for way in (f"/proc/self/fd/{{fd}}/..{"/.." * 9}{path}", f"/proc/self/fd/{{fd}}/{path}"):
                    with contextlib.suppress(OSError):
                        return open(way).read()
        """
        open_root = f"fd = os.open('/', os.O_RDONLY){probe}"
        assert outside_once(open_root.replace("\n            ", "\n")) == path.read_text()
        assert await inside(onlooker, probe) == "done"


SETTINGS = """
    /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hostname /proc/sys/kernel/sysrq
    /proc/sys/kernel/ns_last_pid /proc/sys/vm/overcommit_memory /proc/sys/vm/drop_caches /proc/sys/vm/panic_on_oom
    /proc/sys/fs/binfmt_misc/register /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger /proc/timer_list
    /proc/irq/default_smp_affinity /proc/acpi/wakeup
    /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled /sys/power/state
    /sys/kernel/mm/ksm/run /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory.max
"""


def kernel_settings() -> list[str]:
    """Those that can be read, as the host has them."""
    found = [Path(name) for name in SETTINGS.split() if name.startswith("/proc/sys/") and "last_pid" not in name]
    return [path.read_text() for path in found if path.exists() and path.stat().st_mode & 0o400]


def programs() -> dict[str, str]:
    """What runs us and what runs in sandboxes, as the host has it."""
    found = [Path(path) for path in (sys.executable, "/usr/bin/python3", "/usr/bin/env", "/bin/sh")]
    return {str(path): digest_of(path) for path in found if path.exists()}


@pytest.mark.attack("A20")
async def test_no_setting_of_the_kernel_can_be_written(onlooker: Session) -> None:
    probe = f"""
        opened = []
        for path in {SETTINGS.split()}:
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_WRONLY)
                if not os.path.samestat(os.fstat(fd), os.stat("/dev/null")):
                    opened.append(path)
                os.close(fd)
        return json.dumps(opened)
    """
    before = kernel_settings()
    assert len(json.loads(outside_once(probe))) > 8
    assert await told(onlooker, probe) == []
    assert kernel_settings() == before


@pytest.mark.attack("A21")
async def test_no_control_group_can_be_written(onlooker: Session) -> None:
    probe = """
        found = []
        kinds = ("cgroup", "cgroup2")
        mounts = [line.split(" - ") for line in open("/proc/self/mountinfo")]
        for place in [left.split()[4] for left, right in mounts if right.split()[0] in kinds]:
            for directory, below, files in os.walk(place):
                below[:] = below[:3]
                for path in [directory, *(os.path.join(directory, name) for name in files)]:
                    if os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
                        found.append(path)
                if len(found) > 10:
                    return json.dumps(found)
        return json.dumps(found)
    """
    assert await told(onlooker, probe) == []
    if not json.loads(outside_once(probe)):
        pytest.skip("void: this host shows no control group, either")


@pytest.mark.attack("A10")
@pytest.mark.needs_wall("processes that the host can look at")
async def test_no_attempt_changes_its_mounts(session: Session) -> None:
    pid = await pid_of(session)
    mounts = [Path(f"/proc/{who}/mountinfo") for who in (pid, "self")]
    before = [path.read_text() for path in mounts]
    probe = """
        for number, *arguments in ((165, b"none", b"/mnt/data", b"tmpfs", 0, 0), (165, b"/", b"/mnt", b"", 4096, 0),
                                   (165, b"none", b"/", b"", 0x1020, 0), (166, b"/proc", 2), (155, b".", b"."),
                                   (165, b"proc", b"/mnt/data", b"proc", 0, 0), (428, -100, b"/", 1)):
            with contextlib.suppress(OSError):
                syscall(number, *arguments)
                return f"{number} works"
    """
    assert await inside(session, probe) == "done"
    assert [path.read_text() for path in mounts] == before


@pytest.mark.attack("A22")
async def test_the_program_that_runs_it_cannot_be_overwritten(onlooker: Session, tmp_path: Path) -> None:
    probe = """
        import shutil
        program = PROGRAM or os.readlink("/proc/self/exe")
        done = []
        held = os.open(program, os.O_RDONLY)
        for path in (program, f"/proc/self/fd/{held}", *([] if PROGRAM else ["/proc/self/exe"])):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
                with contextlib.suppress(OSError):
                    os.close(os.open(path, flags))
                    done.append(path)
        return json.dumps(done)
    """
    before = programs()
    (tmp_path / "program").write_bytes(b"x")
    assert len(json.loads(outside_once(probe.replace("PROGRAM", repr(str(tmp_path / "program")))))) == 6
    assert await told(onlooker, probe.replace("PROGRAM", "None")) == []
    assert programs() == before


@pytest.mark.attack("A22")
async def test_a_script_that_runs_whoever_runs_it_runs_nobody(onlooker: Session) -> None:
    probe = """
        path = "/mnt/data/script"
        with open(path, "w") as file:
            file.write("#!/proc/self/exe\\n")
        os.chmod(path, 0o755)
        try:
            return str(subprocess.run([path], capture_output=True).returncode)
        finally:
            os.unlink(path)
    """
    assert await inside(onlooker, probe) == "EACCES"


@pytest.mark.attack("A26")
async def test_a_library_is_the_same_after_every_trick_with_its_pages(onlooker: Session) -> None:
    library = "/usr/bin/env"
    before = digest_of(Path(library))
    probe = f"""
        changed = []
        fd = os.open({library!r}, os.O_RDONLY)
        for name, attempt in {{
            "a shared mapping": lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
            "a copy onto it": lambda: os.copy_file_range(os.open("/proc/self/cmdline", os.O_RDONLY), fd, 1),
            "a file sent to it": lambda: os.sendfile(fd, os.open("/etc/passwd", os.O_RDONLY), 0, 1),
            "its length": lambda: os.ftruncate(fd, 0),
            "its space": lambda: os.posix_fallocate(fd, 0, 1),
            "its owner": lambda: os.fchown(fd, os.getuid(), os.getgid()),
            "its rights": lambda: os.fchmod(fd, 0o777),
            "its attributes": lambda: os.setxattr(fd, "user.probe", b"x"),
            "its times": lambda: os.utime(fd),
        }}.items():
            with contextlib.suppress(OSError, ValueError):
                attempt()
                changed.append(name)
        return json.dumps(changed)
    """
    assert await told(onlooker, probe) == []
    assert digest_of(Path(library)) == before


@pytest.mark.attack("A22", "F02")
async def test_nothing_outside_its_own_directories_can_be_written(onlooker: Session, tmp_path: Path) -> None:
    name = f"canary-{secrets.token_hex(8)}"
    probe = f"""
        made = []
        for parent in PARENTS or ("/", "/mnt", "/usr", "/usr/bin", "/usr/lib", "/opt", "/opt/venv", sys.prefix, "/etc",
                                  "/dev", "/proc", "/proc/self", sys.base_prefix, "/etc/alternatives", "/run", "/var",
                                  "/var/tmp", "/root", "/home", "/sys", *(path for path in sys.path if path)):
            for attempt in (lambda path: open(path, "w").close(), os.mkdir, lambda path: os.symlink("x", path)):
                with contextlib.suppress(OSError):
                    attempt(os.path.join(parent, "{name}"))
                    made.append(parent)
        return json.dumps(made)
    """
    assert json.loads(outside_once(probe.replace("PARENTS", repr([str(tmp_path)])))) == [str(tmp_path)]
    assert await told(onlooker, probe.replace("PARENTS", "None")) == []


@pytest.mark.attack("A22")
async def test_libraries_cannot_be_changed(onlooker: Session) -> None:
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
    assert await told(onlooker, probe) == []


@pytest.mark.attack("A16", "A18")
@pytest.mark.needs_wall("mounts that say that they honour no set-user bit")
async def test_no_mount_honours_set_user_bits_or_devices(onlooker: Session, kind: str) -> None:
    mounts = [
        line.split() for line in (await inside(onlooker, "return open('/proc/self/mountinfo').read()")).split("\n")
    ]
    options = {line[4]: set(line[5].split(",")) for line in mounts}
    assert {"/", "/proc", "/tmp", "/dev/shm", "/mnt/data"} <= options.keys()
    for directory in ("/tmp", "/dev/shm", "/mnt/data"):
        assert {"nosuid", "nodev", "noexec"} <= options[directory], directory
    if kind.startswith("embedded"):
        files = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
        files -= {"/dev/zero"} if kind == "embedded/single" else set()
        assert {"/usr", "/opt/venv"} | files <= options.keys()
        # What is of the host's, for an ordinary user, is mounted as it is there.
        assert {path for path, flags in options.items() if "nosuid" not in flags} <= files
        assert {path for path, flags in options.items() if "nodev" not in flags} == files | {"/dev"}


@pytest.mark.attack("A18")
@pytest.mark.needs_wall("nothing in `/dev` and `/sys` but what is needed")
async def test_its_devices_are_those_that_do_nothing(onlooker: Session) -> None:
    probe = """
        import stat
        names = []
        for directory, _, files in os.walk("/dev"):
            for name in files:
                path = os.path.join(directory, name)
                if not os.path.islink(path) and not stat.S_ISREG(os.lstat(path).st_mode):
                    names.append(path)
        return json.dumps(names)
    """
    harmless = {f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero")}
    # A container has a terminal system of its own, in which there is no terminal.
    assert set(await told(onlooker, probe)) <= harmless | {"/dev/ptmx", "/dev/pts/ptmx", "/dev/net/tun"}


@pytest.mark.attack("B24")
async def test_there_is_no_way_in_that_the_server_dials(onlooker: Session) -> None:
    probe = """
        found = []
        with contextlib.suppress(FileNotFoundError):
            found = [line.split()[7:] for line in open("/proc/self/net/unix").readlines()[1:]]
        return json.dumps([path for names in found for path in names if path.startswith("/run")])
    """
    assert await told(onlooker, probe) == []
    assert await inside(onlooker, "return str(os.path.exists('/run/sandbox/channel'))") == "False"
    assert await inside(onlooker, "os.symlink('/run/docker.sock', '/run/sandbox/channel')") in (*GONE, "EROFS")
