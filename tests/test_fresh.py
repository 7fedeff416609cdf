"""`scripts/fresh` in its short form: README's two commands work, or say what is missing, where nothing is installed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import ROOT
from tests.fresh import release as releases
from tests.fresh.__main__ import RELEASES
from tests.fresh.machine import scratch
from tests.fresh.visit import ORDINARY, USERS, Outcome, fixes, readme_commands, visit
from tests.host import WAIT_SECONDS, alive, pids, wait_for_end
from tests.needs import missing


def test_what_is_typed_is_what_readme_says() -> None:
    assert readme_commands() == ("git clone /srv/sandbox.git sandbox && cd sandbox", "./scripts/start")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("    fix: sudo apt install python3.11-venv (on Debian and Ubuntu)", ["apt install python3.11-venv"]),
        ("fix: newuidmap is not installed: sudo apt install uidmap", ["apt install uidmap"]),
        (
            "fix: /etc/subuid gives me no ids: sudo usermod --add-subuids 1-9 --add-subgids 1-9 me (which nobody has)",
            ["usermod --add-subuids 1-9 --add-subgids 1-9 me"],
        ),
        ("fix: a profile, or sudo sysctl -w kernel.x_y=0", ["sysctl -w kernel.x_y=0"]),
        ("-bash: line 1: git: command not found", ["apt install git"]),
        ("sh: 1: curl: not found", ["apt install curl"]),
        ("sh: 1: nonesuch: not found", []),
        ("fix: use a kernel with CONFIG_USER_NS", []),
        ("run apt install python3-venv", []),
    ],
)
def test_the_owner_types_what_is_printed_as_a_fix_and_nothing_else(said: str, told: list[str]) -> None:
    assert fixes(said) == told


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """Programs that every Debian has, in place of this machine's."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("cksum", "dirname", "grep", "id", "sh"):
        (directory / name).symlink_to(shutil.which(name) or name)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return directory


def _start(directory: Path) -> str:
    env = {"PATH": str(directory)}
    ended = subprocess.run([directory.parent / "scripts/start"], env=env, capture_output=True, text=True)
    assert ended.returncode != 0
    return ended.stderr


def test_start_names_python_where_there_is_none(bare_path: Path) -> None:
    assert fixes(_start(bare_path)) == ["apt install python3 python3-venv"]


def test_start_names_the_package_that_makes_virtual_environments(bare_path: Path) -> None:
    python = bare_path / "python3"
    # As Debian has it: the interpreter is there, and the module is in another package.
    python.write_text(f'#!/bin/sh\ncase $2 in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert fixes(_start(bare_path)) == [f"apt install python3.{sys.version_info.minor}-venv"]


@pytest.fixture(scope="module")
def bare_root(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of this machine's own release."""
    if shutil.which("mmdebstrap") is None:
        missing("needs mmdebstrap: apt-get install mmdebstrap")
    directory = tmp_path_factory.mktemp("fresh")
    releases.make(releases.own(), "standard", directory / "root")
    yield directory / "root"
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=True)


@pytest.fixture
def running(bare_root: Path, tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """`scripts/fresh` over a root that is there, when its first machine runs."""
    command = [sys.executable, "-m", "tests.fresh", f"--release={releases.own()}", f"--bare={bare_root}"]
    with subprocess.Popen(
        [*command, f"--directory={tmp_path}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _in_machine(root: Path) -> list[int]:
    """The processes whose root it is."""
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/root").samefile(root):
                found.append(pid)
    return found


def test_ended_by_a_signal_it_takes_down_all_it_has_put_up(running: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert running.stdout is not None
    assert "git clone" in running.stdout.readline()
    [root] = tmp_path.glob("fresh-*/root")
    inside = _in_machine(root)
    assert inside
    running.terminate()
    assert running.wait(WAIT_SECONDS) == 128 + signal.SIGTERM
    assert not [pid for pid in inside if alive(pid)]
    assert list(tmp_path.iterdir()) == []
    assert list(Path("/sys/fs/cgroup").glob(f"**/fresh-{running.pid}-*")) == []


def test_killed_it_takes_its_machine_with_it(running: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert running.stdout is not None
    running.stdout.readline()
    [root] = tmp_path.glob("fresh-*/root")
    inside = _in_machine(root)
    assert inside
    running.kill()
    wait_for_end(*inside)
    for group in Path("/sys/fs/cgroup").glob(f"**/fresh-{running.pid}-*"):
        for directory, _, _ in os.walk(group, topdown=False):
            os.rmdir(directory)


def _visited(bare: Path, release: str, user: str, directory: Path) -> None:
    rows = list(visit(bare, release, user, directory))
    assert [row for row in rows if row.outcome is Outcome.FAILED] == []
    ended = [row.step for row in rows if row.outcome is Outcome.OK]
    assert ended[:4] == ["git clone", "scripts/start", "scripts/start again", "sandbox run"]
    assert ended[-1] == "nothing left"
    named = [row.words for row in rows if row.outcome is Outcome.NAMED]
    assert "apt install git" in named
    if user == ORDINARY:
        assert "apt install uidmap" in named
        assert rows[-2].step == "AppArmor's restriction"
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("user", USERS)
def test_readme_s_commands_work_on_a_bare_machine_of_this_release(user: str, bare_root: Path, tmp_path: Path) -> None:
    _visited(bare_root, releases.own(), user, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("release", [release for release in RELEASES if release != releases.own()])
def test_readme_s_commands_work_on_a_bare_machine_of_another_release(
    release: str, user: str, root: None, tmp_path: Path
) -> None:
    with scratch(None) as place:
        try:
            releases.make(release, "standard", place / "bare")
        except releases.NotOffered as error:
            pytest.skip(str(error))
        _visited(place / "bare", release, user, tmp_path)
