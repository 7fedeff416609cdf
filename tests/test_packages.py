"""Programs that would install something, where nothing can be."""

import pytest

from sandbox.execution import Status
from sandbox.session import Session


@pytest.mark.parametrize(
    "line",
    [
        "%pip -q install numpy  # for arrays",
        "%pip install --progress-bar off --upgrade-strategy=eager -U pip numpy",
        "%pip install -q numpy",
        "!pip install 'pandas>=1' NumPy",
        "%conda install -y numpy",
        "%uv pip install numpy",
    ],
)
async def test_what_is_there_is_as_good_as_installed(session: Session, line: str) -> None:
    execution = await session.execute(f"{line}\nimport numpy")
    assert execution.status is Status.OK
    assert "already satisfied" in execution.stdout
    assert execution.stderr == ""


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("%pip install requests numpy", "requests cannot"),
        ("%pip install numpy==0.1", "numpy==0.1 cannot"),
        ("%pip install -r needs.txt", "needs.txt cannot be read"),
        ("%pip install --index-url http://localhost git+http://localhost/x", "git+http://localhost/x cannot"),
        ("%pip install --requirement=needs.txt", "needs.txt cannot be read"),
        ("%pip install -rneeds.txt", "needs.txt cannot be read"),
        ("%pip show ''", "no package"),
        ("%pip uninstall numpy", "no pip uninstall here"),
        ("%pip", "does not understand"),
    ],
)
async def test_what_is_not_there_is_named_and_ends_the_cell(session: Session, line: str, named: str) -> None:
    execution = await session.execute(f"{line}\nprint('never')")
    assert execution.status is Status.ERROR
    assert execution.error is not None
    assert (execution.error.name, execution.stdout) == ("UsageError", "")
    assert named in execution.error.value


@pytest.mark.parametrize("pip", ["pip", "pip3", "python -m pip", "python3 -m pip"])
async def test_a_shell_s_pip_says_the_same_and_the_cell_goes_on(session: Session, pip: str) -> None:
    execution = await session.execute(
        f"!{pip} install requests 2>&1 | tail -1\n!{pip} install -q numpy && echo fine\n!{pip} list | grep ^numpy="
        f"\n!{pip} install requests\nprint(_exit_code)"
    )
    assert execution.status is Status.OK
    lines = execution.stdout.splitlines()
    assert lines[0].startswith("ERROR: requests cannot be installed: this sandbox has no network")
    assert (lines[2], lines[3].partition("==")[0], lines[-1]) == ("fine", "numpy", "1")
    assert execution.stderr.startswith("ERROR: requests cannot be installed")


async def test_a_program_that_would_install_is_told_so(session: Session) -> None:
    execution = await session.execute(
        "import subprocess, sys\n"
        "subprocess.check_call([sys.executable, '-m', 'pip', 'install', 'numpy'])\n"
        "subprocess.run([sys.executable, '-m', 'pip', 'install', 'requests'], check=True)"
    )
    assert execution.error is not None
    assert execution.error.name == "CalledProcessError"
    assert "already satisfied: numpy" in execution.stdout
    assert "requests cannot be installed" in execution.stderr


async def test_a_list_of_requirements_is_read(session: Session) -> None:
    needs = "# of this project\n--index-url http://localhost\n\nnumpy>=1  # arrays\npandas --hash=sha256:0\n"
    needs += 'requests; python_version < "3"\n'
    await session.upload("needs.txt", needs.encode())
    await session.upload("more.txt", b"numpy\nrequests")
    execution = await session.execute("%pip install -r needs.txt\n%pip install -rmore.txt")
    assert execution.stdout.count("already satisfied") == 3
    assert execution.error is not None
    assert "requests cannot be installed" in execution.error.value


async def test_what_is_there_can_be_listed_and_shown(session: Session) -> None:
    listed = await session.execute("%pip list")
    assert "\nnumpy==" in listed.stdout
    shown = await session.execute("%pip show numpy")
    assert shown.stdout.startswith("Name: numpy\nVersion: ")


async def test_a_command_of_several_is_the_shell_s(session: Session) -> None:
    execution = await session.execute("!pip install requests || echo otherwise")
    assert "otherwise" in execution.stdout
