"""What a program's process is: its rights, its descriptors, and whom of others it sees or reaches."""

import contextlib
import json
import os
import secrets
from pathlib import Path

import pytest

from sandbox.config import Settings
from sandbox.engine import Engine
from sandbox.session import Session
from tests.host import Embedded, command, pids, status
from tests.runtime.escape.doors import GONE
from tests.runtime.escape.probes import inside, outside_once, pid_of, told

CAPABILITIES = tuple(f"Cap{name}" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
STATUS = "return json.dumps({k: v.split() for k, _, v in (line.partition(':') for line in open('/proc/self/status'))})"


def is_contained(seen: dict[str, list[str]]) -> bool:
    """Whether `/proc/PID/status` shows no capability, a filter, and no way to more."""
    rights = {seen[name][0].lstrip("0") for name in CAPABILITIES if name in seen}
    return (rights, seen["NoNewPrivs"], seen["Seccomp"]) == ({""}, ["1"], ["2"])


@pytest.mark.attack("A25")
@pytest.mark.needs_wall("settings of a process that the host's kernel decides")
async def test_it_has_no_capability_and_a_filter_as_it_sees_itself(onlooker: Session) -> None:
    seen = await told(onlooker, STATUS)
    assert is_contained(seen)
    assert set(seen["Groups"]) <= set(seen["Gid"]), "a group of somebody else"
    assert not is_contained(json.loads(outside_once(STATUS)))


@pytest.mark.attack("A25", "A09")
@pytest.mark.needs_wall("processes that the host can look at")
async def test_it_is_contained_as_the_host_sees_it(session: Session, kind: str) -> None:
    pid = await pid_of(session)
    seen = status(pid)
    assert is_contained(seen)
    assert set(seen["Groups"]) <= set(seen["Gid"]), "a group of somebody else"
    own = {name for name in os.listdir("/proc/self/ns") if "children" not in name} - {"time"}
    shared = {name for name in own if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")}
    assert shared == (set() if kind.startswith("embedded") else {"user"})
    assert len(seen["NSpid"]) == 2


@pytest.mark.attack("A25")
@pytest.mark.needs_wall("processes that the host can look at")
async def test_its_children_are_as_contained(session: Session) -> None:
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
    assert is_contained(status(pid))


@pytest.mark.attack("A15")
async def test_no_program_that_sets_its_user_gains_anything(onlooker: Session) -> None:
    probe = """
        gained = set()
        for path in glob.glob("/usr/*bin/*"):
            if os.path.islink(path) or not os.path.isfile(path) or not os.stat(path).st_mode & 0o6000:
                continue
            null = subprocess.DEVNULL
            try:
                child = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=null, stderr=null)
            except OSError:
                continue
            # Until its execve is over it is as undumpable as its parent, and this /proc does not show such.
            while not os.path.exists(f"/proc/{child.pid}/status") and child.poll() is None:
                os.sched_yield()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                lines = [line for line in open(f"/proc/{child.pid}/status") if line.startswith(("Uid", "Gid"))]
                gained |= {id for line in lines for id in line.split()[1:]} - {str(os.getuid()), str(os.getgid())}
            child.kill()
            child.wait()
        return json.dumps(sorted(gained))
    """
    assert await told(onlooker, probe) == []


@pytest.mark.attack("A16")
async def test_its_own_program_that_sets_its_user_does_not_even_start(onlooker: Session, tmp_path: Path) -> None:
    probe = """
        import shutil
        path = os.path.join(DIRECTORY, "probe")
        shutil.copy("/usr/bin/id", path)
        os.chmod(path, 0o4755)
        try:
            return str(subprocess.run([path], stdout=-1).returncode)
        finally:
            os.unlink(path)
    """
    assert outside_once(probe.replace("DIRECTORY", repr(str(tmp_path)))) == "0"
    for directory in ("/mnt/data", "/tmp", "/dev/shm"):
        assert await inside(onlooker, probe.replace("DIRECTORY", repr(directory))) == "EACCES"


RUN = """
    import shutil
    ran = []
    for directory in DIRECTORIES:
        path = os.path.join(directory, "probe")
        shutil.copy("/bin/true", path)
        with contextlib.suppress(OSError):
            if subprocess.run([*LOADER, path], capture_output=True).returncode == 0:
                ran.append(directory)
        os.unlink(path)
    return json.dumps(ran)
"""
WRITABLE = ["/mnt/data", "/tmp", "/dev/shm"]


async def executed(onlooker: Session, directory: Path, loader: list[str]) -> list[str]:
    """Where a program of its own runs; on the host, where one must, it does."""
    probe = RUN.replace("LOADER", repr(loader))
    assert json.loads(outside_once(probe.replace("DIRECTORIES", repr([str(directory)])))) == [str(directory)]
    found: list[str] = await told(onlooker, probe.replace("DIRECTORIES", repr(WRITABLE)))
    return found


@pytest.mark.attack("A17")
async def test_its_own_files_cannot_be_executed(onlooker: Session, tmp_path: Path) -> None:
    assert await executed(onlooker, tmp_path, []) == []


@pytest.mark.attack("A17")
@pytest.mark.needs_wall("files that the loader does not run either")
async def test_the_loader_does_not_run_them_either(onlooker: Session, tmp_path: Path) -> None:
    assert await executed(onlooker, tmp_path, ["/lib64/ld-linux-x86-64.so.2"]) == []


@pytest.mark.attack("A17")
@pytest.mark.needs_wall("memory files that cannot be executed")
async def test_a_memory_file_cannot_be_executed(onlooker: Session) -> None:
    probe = """
        file = os.memfd_create("probe")
        os.write(file, open("/bin/true", "rb").read())
        return str(subprocess.run([f"/proc/self/fd/{file}"], pass_fds=[file]).returncode)
    """
    assert outside_once(probe) == "0"
    assert await inside(onlooker, probe) in ("EACCES", "EPERM", "ENOSYS")


@pytest.mark.attack("A13", "A23")
@pytest.mark.needs_wall("an init that cannot be looked into")
async def test_the_memory_and_the_descriptors_of_init_are_out_of_reach(onlooker: Session) -> None:
    probe = """
        reached = []
        for name in ("environ", "mem", "maps", "fd", "root", "cwd", "exe", "map_files"):
            path = f"/proc/{INIT}/{name}"
            with contextlib.suppress(OSError):
                os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
                reached.append(name)
            with contextlib.suppress(OSError):
                os.readlink(path)
                reached.append(f"the way of {name}")
        return json.dumps(reached)
    """
    assert len(json.loads(outside_once(probe.replace("{INIT}", "{os.getpid()}")))) > 8
    assert await told(onlooker, probe.replace("{INIT}", "1")) == []


@pytest.mark.attack("D05")
async def test_init_cannot_be_signalled(onlooker: Session) -> None:
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
    assert await inside(onlooker, probe) == "EPERM"


@pytest.mark.attack("D05")
async def test_no_signal_stops_init(onlooker: Session) -> None:
    probe = """
        for number in signal.valid_signals() - {32, 33}:
            with contextlib.suppress(PermissionError):
                os.kill(1, number)
    """
    assert await inside(onlooker, probe) == "done"
    assert await inside(onlooker, "pass") == "done"


@pytest.mark.attack("K05", "F16")
@pytest.mark.needs_wall("a zygote that no program can reach")
async def test_the_zygote_has_no_number_to_be_reached_by(onlooker: Session) -> None:
    assert await inside(onlooker, "return str(os.getppid())") == "0"


@pytest.mark.attack("A23")
async def test_no_descriptor_leads_anywhere(session: Session) -> None:
    probe = """
        kinds = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                kinds.add(os.readlink(f"/proc/self/fd/{name}").partition(":[")[0].replace("anon_inode:", "anon_inode"))
        return json.dumps(sorted(kinds))
    """
    kinds = {found if not found.startswith("anon_inode") else "anon_inode" for found in await told(session, probe)}
    # Its unsent text, where there are no memory files.
    kinds = {kind for kind in kinds if not (kind.startswith("/dev/shm/#") and kind.endswith(" (deleted)"))}
    # The directory that is being listed is one of them.
    own = {"/memfd:pending (deleted)"}  # its unsent text
    assert kinds <= own | {"/dev/null", "pipe", "socket", "anon_inode", *[k for k in kinds if k.startswith("/proc/")]}


@pytest.mark.attack("K02")
async def test_no_descriptor_of_the_server_is_inherited(engine: Engine, tmp_path: Path) -> None:
    probe = f"""
        return json.dumps([name for name in os.listdir("/proc/self/fd")
                           if os.path.exists(f"/proc/self/fd/{{name}}/canary") or {tmp_path.name!r}
                           in os.path.realpath(f"/proc/self/fd/{{name}}")])
    """
    (tmp_path / "canary").touch()
    canary = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(canary, True)
    try:
        async with engine.session(memory_mb=300) as fresh:
            assert await told(fresh, probe) == []
    finally:
        os.close(canary)


@pytest.mark.attack("A23")
async def test_its_sockets_lead_to_nobody_but_init(onlooker: Session) -> None:
    probe = """
        peers = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM:
                        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                        peers.add(struct.unpack("3i", credentials)[0])
        return json.dumps(sorted(peers - {os.getpid()}))
    """
    # Besides its own pid: init's, and 0 for a listening socket that nobody is at the other end of.
    assert set(await told(onlooker, probe)) <= {0, 1}


@pytest.mark.attack("A24")
@pytest.mark.needs_wall("no terminals")
async def test_no_terminal_can_be_made(onlooker: Session) -> None:
    assert outside_once("os.openpty()") == "done"
    assert await inside(onlooker, "os.openpty()") in GONE


@pytest.mark.attack("D05")
async def test_kill_everybody_kills_nobody_else(session: Session, neighbour: Session) -> None:
    await inside(neighbour, "global child; child = subprocess.Popen(['sleep', '1000'])")
    await session.execute("import os, signal, subprocess; subprocess.Popen(['sleep', '1000']); os.kill(-1, 9)")
    assert await inside(neighbour, "return str(child.poll())") == "None"
    await inside(neighbour, "child.kill(); child.wait()")


@pytest.mark.attack("A19", "H18")
async def test_its_environment_holds_nothing_of_the_servers(onlooker: Session) -> None:
    found = await told(onlooker, "return json.dumps(dict(os.environ))")
    allowed = {"HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "PWD", "TMPDIR", "TERM", "PAGER", "GIT_PAGER"}
    allowed |= {"MPLBACKEND", "MPLCONFIGDIR", "IPYTHONDIR", "XDG_CACHE_HOME", "PLOTLY_RENDERER", "NO_COLOR"}
    allowed |= {"PYTHONDONTWRITEBYTECODE", "JE_ARROW_MALLOC_CONF"}
    allowed |= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}  # scikit-learn's and threadpoolctl's, once imported
    allowed |= {f"{name}_NUM_THREADS" for name in ("OPENBLAS", "OMP", "MKL", "NUMEXPR")}
    assert found.keys() - allowed == set()
    raw = await inside(onlooker, "return open('/proc/self/environ').read()")
    assert not set(raw.split("\0")) & {f"{name}={value}" for name, value in os.environ.items() if name not in allowed}


@pytest.mark.attack("K05")
async def test_no_secret_of_the_server_is_in_the_memory_it_was_forked_from(
    monkeypatch: pytest.MonkeyPatch, root: None, python_image: object
) -> None:
    secret = secrets.token_hex(16)
    monkeypatch.setenv("CANARY_API_KEY", secret)
    async with Engine.open(Settings(pool_size=0)) as engine:
        await engine.pool.settle()
        host = Embedded.below(os.getpid())
        assert holds(os.getpid(), secret)
        zygotes = host.zygotes()
        for pid in (host.launcher, *zygotes):
            try:
                assert not holds(pid, secret)
            except (FileNotFoundError, ProcessLookupError):  # one that has a successor ends
                zygotes.remove(pid)
        assert zygotes


def holds(pid: int, secret: str) -> bool:
    """Whether a process has the secret anywhere in its writable memory or its environment. Raises `OSError`."""
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
