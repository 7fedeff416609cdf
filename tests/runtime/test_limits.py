"""Numbers of SPECIFICATION.md that no attack in the other files is about, looked at from inside."""

import json
import textwrap
from collections.abc import AsyncIterator

import pytest

from sandbox.engine import Engine
from sandbox.execution import Status
from sandbox.session import Session


@pytest.fixture(scope="module")
async def looked_at(engine: Engine) -> AsyncIterator[Session]:
    """One for programs that leave no trace."""
    async with engine.session() as session:
        yield session


async def told(session: Session, code: str) -> str:
    execution = await session.execute(textwrap.dedent(code), 30)
    assert execution.status is Status.OK, execution
    return execution.stdout


async def test_its_resource_limits_are_as_written_and_cannot_be_raised(looked_at: Session) -> None:
    code = """
        import json, resource
        names = ("CORE", "NOFILE", "MEMLOCK", "MSGQUEUE", "SIGPENDING", "RTPRIO", "NICE", "STACK", "NPROC", "FSIZE")
        found, raised = {}, []
        for name in names:
            number = getattr(resource, "RLIMIT_" + name)
            found[name] = resource.getrlimit(number)
            try:
                resource.setrlimit(number, (found[name][0], found[name][1] + 1))
                raised.append(name)
            except (OSError, ValueError): pass
        print(json.dumps([found, raised]))
    """
    found, raised = json.loads(await told(looked_at, code))
    wanted = {"CORE": 0, "NOFILE": 1024, "MEMLOCK": 0, "MSGQUEUE": 0, "SIGPENDING": 256, "RTPRIO": 0, "NICE": 0}
    wanted |= {"STACK": 8 << 20, "NPROC": 128, "FSIZE": 256 << 20}
    assert found == {name: [value, value] for name, value in wanted.items()}
    assert raised == []


@pytest.mark.parametrize(("directory", "files"), [("/tmp", 4096), ("/dev/shm", 512)])
async def test_the_files_of_its_other_directories_are_counted(looked_at: Session, directory: str, files: int) -> None:
    code = f"""
        import errno, os, shutil
        os.mkdir('{directory}/many')
        made = 0
        try:
            while True:
                open(f'{directory}/many/{{made}}', 'w').close()
                made += 1
        except OSError as error: print(errno.errorcode[error.errno], made)
        finally: shutil.rmtree('{directory}/many')
    """
    word, made = (await told(looked_at, code)).split()
    assert word == "ENOSPC"
    assert files - 64 < int(made) < files


@pytest.mark.attack("I05")
async def test_all_results_together_have_a_bound(looked_at: Session) -> None:
    execution = await looked_at.execute("for n in range(6): display({'text/plain': 'x' * (7 << 20)}, raw=True)", 60)
    assert execution.status is Status.OK
    assert (len(execution.results), execution.truncated.results) == (4, 2)


@pytest.mark.attack("I05")
async def test_of_a_result_whose_forms_are_too_large_the_small_ones_are_kept(looked_at: Session) -> None:
    bundle = "{'text/plain': 'a table', 'text/html': 'x' * (30 << 20), 'application/json': {'rows': 3}}"
    execution = await looked_at.execute(f"display({bundle}, raw=True)")
    assert execution.results == ({"text/plain": "a table", "application/json": {"rows": 3}},)
    assert (execution.status, execution.truncated.results) == (Status.OK, 1)
