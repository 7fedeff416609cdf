"""From one session to another: nothing that one leaves, holds or learns is another's."""

import contextlib
import os
import secrets

import pytest

from sandbox.engine import Engine
from sandbox.session import Session
from tests.host import status
from tests.runtime.escape.lacks import SINGLE
from tests.runtime.escape.probes import inside, outside, pid_of, told


@pytest.mark.attack("F01", "F03")
async def test_files_are_not_shared(onlooker: Session, neighbour: Session) -> None:
    name = f"canary-{secrets.token_hex(8)}"
    places = [f"{directory}/{name}" for directory in ("/mnt/data", "/tmp", "/dev/shm")]
    probe = f"return ' '.join(path for path in {places} if os.path.exists(path))"
    await inside(onlooker, f"for path in {places}: open(path, 'w').close()")
    assert await inside(onlooker, probe) == " ".join(places)
    assert await inside(neighbour, probe) == "done"


SEARCH = """
    import builtins, gc
    found = []
    for top in ("/mnt", "/tmp", "/dev/shm", "/home", "/root", "/var", "/run", os.path.expanduser("~")):
        for directory, _, files in os.walk(top):
            for name in files:
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    if NEEDLE in name or NEEDLE.encode() in open(path, "rb").read():
                        found.append(path)
    found += [f"variable {key}" for key, value in os.environ.items() if NEEDLE in key + value]
    modules = [module for module in sys.modules.values() if hasattr(module, NEEDLE)]
    found += [f"module {module.__name__}" for module in modules]
    with contextlib.suppress(OSError):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("\\0" + NEEDLE)
            found.append("a socket")
    return json.dumps(found)
"""
PLANT = """
    import builtins, importlib, numpy, pathlib
    global held
    for path in ("/mnt/data/x", "/tmp/x", "/dev/shm/x", os.path.expanduser("~/x"), "/mnt/data/__pycache__/x.pyc"):
        with contextlib.suppress(OSError):
            pathlib.Path(path).parent.mkdir(exist_ok=True)
            pathlib.Path(path).write_text(NEEDLE)
    os.environ["CANARY"] = NEEDLE
    for module in (builtins, os, numpy, sys):
        setattr(module, NEEDLE, 1)
    held = socket.socket(socket.AF_UNIX)
    held.bind("\\0" + NEEDLE)
    held.listen()
"""


@pytest.mark.attack("F01", "K09", "F16")
async def test_nothing_that_one_plants_is_found_by_the_others(
    engine: Engine, session: Session, neighbour: Session
) -> None:
    needle = f"canary{secrets.token_hex(8)}"
    search, plant = SEARCH.replace("NEEDLE", repr(needle)), PLANT.replace("NEEDLE", repr(needle))
    await inside(session, plant)
    assert len(await told(session, search)) >= 8
    assert await told(neighbour, search) == []
    await session.close()
    async with engine.session() as later:
        assert await told(later, search) == []


@pytest.mark.attack("F02")
async def test_nothing_that_starts_with_python_or_ipython_survives_its_session(
    engine: Engine, session: Session
) -> None:
    mark = "import builtins; builtins.planted = 1\n"
    probe = f"""
        import site
        home = os.path.expanduser("~")
        places = [f"{{home}}/{{name}}" for name in (".pythonrc.py", ".ipython/profile_default/startup/0.py",
                  ".ipython/profile_default/ipython_config.py", ".local/lib/x.pth", ".config/matplotlib/matplotlibrc")]
        places += [os.path.join(path, name) for path in [site.getusersitepackages(), *site.getsitepackages(), *sys.path]
                   for name in ("sitecustomize.py", "usercustomize.py", "x.pth") if path]
        places.append(os.path.join(os.environ.get("IPYTHONDIR", "/tmp/ipython"), "profile_default/startup/0.py"))
        written = 0
        for path in places:
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w") as file:
                    file.write({mark!r})
                written += 1
        return str(written)
    """
    assert int(await inside(session, probe)) >= 1
    await session.close()
    async with engine.session() as later:
        assert await inside(later, "import builtins; return str(hasattr(builtins, 'planted'))") == "False"


@pytest.mark.attack("F01")
@pytest.mark.needs_wall("a zygote that no program can reach")
async def test_processes_are_not_seen(session: Session, other: Session, kind: str) -> None:
    await inside(session, "subprocess.Popen(['sleep', '1000'])")
    probe = "return ' '.join(name for name in os.listdir('/proc') if name.isdigit())"
    init = ["1"] if kind == SINGLE else []
    assert len((await inside(session, probe)).split()) == 2 + len(init)
    assert (await inside(other, probe)).split() == [*init, "2"]


@pytest.mark.attack("F01")
async def test_a_process_of_one_is_not_seen_by_another(onlooker: Session, neighbour: Session) -> None:
    seconds = str(1_000_000 + secrets.randbelow(10**6))
    probe = f"""
        lines = []
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(open(path).read())
        return str(any({seconds!r} in line for line in lines))
    """
    # Until its execve is over it is as undumpable as its parent, and this /proc does not show such.
    begin = f"""
        global child
        child = subprocess.Popen(["sleep", "{seconds}"])
        while not os.path.exists(f"/proc/{{child.pid}}/cmdline"):
            os.sched_yield()
    """
    await inside(onlooker, begin)
    try:
        assert await inside(onlooker, probe) == "True"
        assert await inside(neighbour, probe) == "False"
    finally:
        await inside(onlooker, "child.kill(); child.wait()")


@pytest.mark.attack("F04")
async def test_abstract_sockets_are_not_shared(onlooker: Session, neighbour: Session) -> None:
    connect = "with socket.socket(socket.AF_UNIX) as sock: sock.connect('\\0meeting')"
    listen = "global s; s = socket.socket(socket.AF_UNIX); s.bind('\\0meeting'); s.listen()"
    await inside(onlooker, listen)
    assert await inside(onlooker, connect) == "done"
    assert await inside(neighbour, connect) == "ECONNREFUSED"
    await inside(onlooker, "s.close()")


@pytest.mark.attack("F04")
async def test_ports_are_not_shared(onlooker: Session, neighbour: Session) -> None:
    connect = "socket.create_connection(('127.0.0.1', 5000), 5).close()"
    await inside(onlooker, "global s; s = socket.create_server(('127.0.0.1', 5000))")
    assert await inside(onlooker, connect) == "done"
    assert await inside(neighbour, connect) == "ECONNREFUSED"
    await inside(onlooker, "s.close()")


@pytest.mark.attack("F03")
async def test_shared_memory_is_not_shared(onlooker: Session, neighbour: Session) -> None:
    attach = "from multiprocessing import shared_memory; shared_memory.SharedMemory('meeting').close()"
    make = "global m; from multiprocessing import shared_memory; m = shared_memory.SharedMemory('meeting', True, 9)"
    await inside(onlooker, make)
    assert await inside(neighbour, attach) == "ENOENT"
    assert await inside(onlooker, "open('/dev/shm/meeting').close(); m.close(); m.unlink()") == "done"


LOCKS = {
    "a lock": "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "a lock of an open file": "fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0))",
    "a lease": "fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
}


@pytest.mark.attack("F05")
@pytest.mark.parametrize(
    "path", ["json.__file__", pytest.param("'/dev/null'", marks=pytest.mark.needs_wall("devices of its own"))]
)
async def test_a_lock_is_not_felt(onlooker: Session, neighbour: Session, path: str) -> None:
    lock = f"global f; f = open({path}); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    again = f"with open({path}) as g: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert await inside(onlooker, lock) == "done"
    assert await inside(onlooker, again) == "EAGAIN"
    assert await inside(neighbour, again) == "done"
    await inside(onlooker, "f.close()")


@pytest.mark.attack("F05")
@pytest.mark.parametrize("how", LOCKS)
async def test_a_lock_on_a_file_of_the_hosts_is_not_felt_there(onlooker: Session, kind: str, how: str) -> None:
    await inside(onlooker, f"global f; f = open('/usr/bin/env'); {LOCKS[how]}")
    try:
        exclusive = "f = open('/usr/bin/env'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert outside(exclusive) == "done"
        # A lease would be broken by who writes, a lock of an open file be in the way of who locks to write.
        write = "f = open('/usr/bin/env', 'r+b'); fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))"
        assert outside(write) == "done"
    finally:
        await inside(onlooker, "f.close()")


@pytest.mark.attack("F05")
async def test_the_times_of_a_device_are_not_the_hosts(onlooker: Session) -> None:
    before = os.stat("/dev/zero")
    await inside(onlooker, "os.utime('/dev/zero')")
    after = os.stat("/dev/zero")
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


@pytest.mark.attack("F05")
@pytest.mark.needs_wall("devices of its own")
async def test_devices_do_not_tell_how_many_sandboxes_there_are(onlooker: Session, neighbour: Session) -> None:
    look = "v = os.statvfs('/dev/null'); return str((os.stat('/dev/null').st_ino, v.f_files - v.f_ffree, v.f_bfree))"
    assert await inside(onlooker, look) == await inside(neighbour, look)


@pytest.mark.attack("F13")
@pytest.mark.needs_wall("a uid that is never used again")
async def test_no_two_have_the_same_uid_even_one_after_the_other(engine: Engine, session: Session) -> None:
    uids = [status(await pid_of(session))["Uid"]]
    for _ in range(5):
        async with engine.session() as later:
            uids.append(status(await pid_of(later))["Uid"])
    assert len({uid for words in uids for uid in words}) == len(uids)
    assert all(int(words[0]) > 65_536 for words in uids)


DRAWS = """
    import numpy, random, secrets, ssl, uuid
    from scipy import stats
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    with tempfile.NamedTemporaryFile() as file:
        name = file.name
    return json.dumps({
        "random": random.random(), "Random": random.Random().random(), "SystemRandom": secrets.token_hex(),
        "shuffle": random.sample(range(10**6), 9), "urandom": os.urandom(8).hex(),
        "numpy": numpy.random.rand(), "default_rng": numpy.random.default_rng().random(),
        "RandomState": numpy.random.RandomState().rand(), "SeedSequence": str(numpy.random.SeedSequence().entropy),
        "PCG64": int(numpy.random.PCG64().random_raw()), "permutation": numpy.random.permutation(10**4)[:9].tolist(),
        "scipy": stats.norm.rvs(), "frozen": stats.norm().rvs(), "qmc": stats.qmc.Sobol(2).random(1).tolist(),
        "sklearn": check_random_state(None).rand(), "split": train_test_split(range(10**4))[0][:9],
        "forest": RandomForestClassifier(1).fit([[n] for n in range(99)], [n % 2 for n in range(99)])
                  .estimators_[0].random_state,
        "uuid1": uuid.uuid1().hex, "uuid4": uuid.uuid4().hex, "node": uuid.getnode(),
        "tempfile": name, "mktemp": tempfile.mktemp(), "mkdtemp": os.path.basename(tempfile.mkdtemp()),
        "ssl": ssl.RAND_bytes(8).hex(),
    })
"""


@pytest.mark.attack("F09")
async def test_no_two_draw_the_same_first_number(engine: Engine, kind: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        draws = []
        for _ in range(3 if kind.startswith("embedded") else 2):
            session = await stack.enter_async_context(engine.session())
            draws.append(await told(session, DRAWS))
        await session.restart()
        draws.append(await told(session, DRAWS))
    for name in draws[0]:
        assert len({str(draw[name]) for draw in draws}) == len(draws) or name == "node", name
    # The same within a sandbox, if at all: it is the address of a network card that is not there.
    assert len({draw["node"] for draw in draws[:-1]}) == len(draws) - 1


@pytest.mark.attack("F09")
async def test_children_of_one_program_draw_alike_only_where_python_says_so(onlooker: Session) -> None:
    # The control: what a fork without new seeds does, which is what a zygote would do to us.
    probe = """
        import numpy.random  # numpy alone would have each child import it anew, where the zygote has not
        drawn = []
        for _ in range(2):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(writer, str(numpy.random.rand()).encode())
                os._exit(0)
            os.close(writer)
            with open(reader) as file:
                drawn.append(file.read())
            os.waitpid(pid, 0)
        return str(len(set(drawn)))
    """
    assert await inside(onlooker, probe) == "1"


@pytest.mark.attack("F17")
async def test_what_the_dead_had_in_memory_is_not_found_in_ours(engine: Engine, session: Session) -> None:
    fill = """
        hoard = (b"canary!!" * (1 << 17)) * 80
        with open("/mnt/data/canary", "wb") as file:
            file.write(hoard[:40 << 20])
        return str(len(hoard) >> 20)
    """
    assert await inside(session, fill) == "80"
    await session.close()
    look = """
        page = mmap.mmap(-1, 100 << 20, mmap.MAP_PRIVATE)
        file = os.open("/mnt/data/hole", os.O_CREAT | os.O_RDWR)
        os.ftruncate(file, 64 << 20)
        hole = mmap.mmap(file, 64 << 20)
        return json.dumps([page.find(b"canary!!"), hole.find(b"canary!!")])
    """
    async with engine.session() as later:
        assert await told(later, look) == [-1, -1]
