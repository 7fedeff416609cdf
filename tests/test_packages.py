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
        ("%pip install -r needs.txt", "needs.txt cannot"),
        ("%pip install --index-url http://localhost git+http://localhost/x", "git+http://localhost/x cannot"),
        ("%pip install --requirement=needs.txt", "needs.txt cannot"),
        ("%pip install -rneeds.txt", "needs.txt cannot"),
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


async def test_a_shell_command_that_would_install_says_so_and_the_cell_goes_on(session: Session) -> None:
    execution = await session.execute("!pip install requests\n!python3 -m pip install numpy\nprint(_exit_code)")
    assert execution.status is Status.OK
    assert execution.stderr.startswith("ERROR: requests cannot be installed: this sandbox has no network")
    assert execution.stdout.splitlines()[-1] == "0"


async def test_what_is_there_can_be_listed_and_shown(session: Session) -> None:
    listed = await session.execute("%pip list")
    assert "\nnumpy==" in listed.stdout
    shown = await session.execute("%pip show numpy")
    assert shown.stdout.startswith("Name: numpy\nVersion: ")


async def test_a_command_of_several_is_the_shell_s(session: Session) -> None:
    execution = await session.execute("!pip install requests || echo otherwise")
    assert "otherwise" in execution.stdout
