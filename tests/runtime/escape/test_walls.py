"""Each wall by itself: what holds when another was built wrongly, and that no step of building may fail.

A process of ours becomes a contained kernel by the very steps of `jail`, but in the host's namespaces, with the host's
root to see. It prints what it then can do.
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.escape.doors import DENIED, ISOLATION, KERNEL, MOUNTS, OTHERS
from tests.runtime.escape.probes import PRELUDE, canary, script

UID = 0x6FFF_1234
"""Of nobody."""
BUILD = f"""
import os, sys
from sandbox.guest import process
from sandbox.runtime.embedded import jail, linux, mounts
linux.unshare(linux.CLONE_NEWNS)
linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
linux.mount("mnt", "/mnt", "tmpfs", 0, "mode=755")
os.mkdir("/mnt/data")
os.chown("/mnt/data", {UID}, {UID})
cell = jail.Cell(uid={UID}, file_bytes=1 << 20, processes=64, readable=("/usr",), shown={UID}, soft=False)
"""
CONTAIN = "jail.contain_kernel(cell, [], {0, 1, 2})\n"


def ran(code: str) -> "subprocess.CompletedProcess[str]":
    """A program of ours on the host, however it ended."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.fixture
def exposed(root: None) -> Iterator[Path]:
    """A file of the host that everybody may read, by a way that everybody may walk."""
    with canary(Path("/srv")) as path:
        path.chmod(0o644)
        yield path


READ = """
try:
    print(open(PATH).read())
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.attack("A28")
def test_without_mounts_of_its_own_the_files_of_the_host_are_still_closed(exposed: Path) -> None:
    read = READ.replace("PATH", repr(str(exposed)))
    # The control: the same user, by whose rights alone it could be read.
    alone = f"import os; os.setgroups([]); os.setresgid(*[{UID}] * 3); os.setresuid(*[{UID}] * 3)\n"
    assert ran(alone + read).stdout.strip() == exposed.read_text()
    assert ran(BUILD + CONTAIN + read).stdout.strip() == "PermissionError"


@pytest.mark.attack("A28")
@pytest.mark.parametrize("path", ["/root", "/var/lib", "/sys", "/"])
def test_without_mounts_of_its_own_no_directory_of_the_host_can_be_listed(root: None, path: str) -> None:
    looked = f"import os\ntry: print(os.listdir({path!r}) and 'listed')\nexcept OSError as e: print(type(e).__name__)"
    assert ran(BUILD + CONTAIN + looked).stdout.strip() == "PermissionError"
    if ran(looked).stdout.strip() != "listed":
        pytest.skip("void: nothing is in there")


@pytest.mark.attack("A29")
def test_without_namespaces_the_calls_are_still_refused(root: None) -> None:
    doors = {
        name: door.probe for name, door in (ISOLATION | MOUNTS | OTHERS | KERNEL).items() if "EACCES" not in door.shut
    }
    code = f"""
doors = json.loads({json.dumps(json.dumps({name: script(probe) for name, probe in doors.items()}))})
answers = {{}}
for name, probe in doors.items():
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(probe, globals())
    answers[name] = said.getvalue().strip()
print(json.dumps(answers))
"""
    ended = ran(BUILD + PRELUDE + "import io\n" + CONTAIN + code)
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)
    assert answers.keys() == doors.keys()
    assert {name: word for name, word in answers.items() if word not in (*DENIED, "SIGSYS")} == {}


STEPS = {
    "a place to work in": 80,
    "a session": 112,
    "limits": 302,
    "the bounding set": 157,
    "groups": 116,
    "a group": 119,
    "a user": 117,
    "no capabilities": 126,
    "a keyring": 250,
    "rules for files": 444,
    "their enforcement": 446,
}
"""What building needs, by the number of its call."""
FAULT = """
import struct
allow, refuse = 0x7FFF0000, 0x00050000 | 1
def load(*instructions):
    process.load_seccomp(b"".join(struct.pack("=HBBI", *one) for one in instructions))
"""


def refusing(number: int) -> str:
    """Code after which the host's kernel refuses this call."""
    return f"{FAULT}load((0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, refuse), (0x06, 0, 0, allow))\n"


# The last step is prctl(PR_SET_SECCOMP), told apart from the prctl before it by its first argument.
NO_FILTER = f"""{FAULT}
load((0x20, 0, 0, 0), (0x15, 0, 3, 157), (0x20, 0, 0, 16), (0x15, 0, 1, 22), (0x06, 0, 0, refuse), (0x06, 0, 0, allow))
"""


@pytest.mark.attack("A30")
@pytest.mark.parametrize("fault", [*(pytest.param(refusing(n), id=name) for name, n in STEPS.items()), NO_FILTER])
def test_a_step_that_fails_is_the_last(root: None, fault: str) -> None:
    ended = ran(BUILD + fault + CONTAIN + "print('the program ran')")
    assert ended.returncode != 0
    assert "Error" in ended.stderr
    assert "the program ran" not in ended.stdout


@pytest.mark.attack("A30")
def test_when_no_step_fails_the_program_runs(root: None) -> None:
    assert ran(BUILD + CONTAIN + "print('the program ran')").stdout.strip() == "the program ran"


SERVER = textwrap.dedent("""
    import asyncio
    from sandbox.config import Settings
    from sandbox.engine import Engine
    from sandbox.errors import SandboxError

    async def main():
        try:
            async with Engine.open(Settings(runtime="embedded", pool_size=0)) as engine, engine.session() as session:
                print((await session.execute("print('the program' + ' ran')", 20)).stdout)
        except SandboxError as error:
            print("refused", type(error).__name__)

    asyncio.run(main())
""")


@pytest.mark.attack("A30")
@pytest.mark.nightly
@pytest.mark.parametrize("number", [155, 165, 170, 308, 446])
def test_a_server_whose_kernel_refuses_a_step_runs_no_program(root: None, python_image: object, number: int) -> None:
    ended = ran("from sandbox.guest import process\n" + refusing(number) + SERVER)
    assert "refused" in ended.stdout, ended.stderr[-2000:]
    assert "the program ran" not in ended.stdout
