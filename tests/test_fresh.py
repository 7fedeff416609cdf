"""`scripts/fresh` in its short form: README's two commands work, or say what is missing, where nothing is installed."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.docker import ROOT
from tests.fresh import release as releases
from tests.fresh.__main__ import RELEASES
from tests.fresh.visit import ORDINARY, USERS, Outcome, Row, fixes, readme_commands
from tests.host import WAIT_SECONDS, alive, children, wait_for_end
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


@pytest.fixture
def mmdebstrap(root: None) -> None:
    if shutil.which("mmdebstrap") is None:
        missing("needs mmdebstrap: apt-get install mmdebstrap")


@contextlib.contextmanager
def _fresh(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "tests.fresh", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def _rows(said: str) -> list[Row]:
    parts = [re.split(r"\s{2,}", line, maxsplit=4) for line in said.splitlines()[:-1]]
    return [
        Row(release, user, step, Outcome(outcome), " ".join(words)) for release, user, step, outcome, *words in parts
    ]


def _check(said: str, code: int, release: str, users: Sequence[str]) -> None:
    assert code == 0, said
    rows = _rows(said)
    for user in users:
        own = [row for row in rows if (row.release, row.user) == (release, user)]
        went = [row.step for row in own if row.outcome is Outcome.OK]
        assert went[:5] == ["git clone", "scripts/start", "scripts/start again", "sandbox run", "server"]
        assert went[-1] == "nothing left"
        named = {row.words for row in own if row.outcome is Outcome.NAMED}
        assert {"apt install git", "apt install curl"} <= named
        assert [words for words in named if words.endswith("-venv")], "a bare Debian cannot make virtual environments"
        if user == ORDINARY:
            assert "apt install uidmap" in named
            assert {"no user namespaces", "AppArmor's restriction"} <= {row.step for row in own}


def test_readme_s_commands_work_for_root_on_a_bare_machine(mmdebstrap: None) -> None:
    # Less than a stock install has, which takes half as long to make: Python is missing, too.
    with _fresh(f"--release={releases.own()}", "--user=root", "--variant=important") as process:
        said, _ = process.communicate()
    _check(said, process.returncode, releases.own(), ["root"])
    assert "apt install python3 python3-venv" in {row.words for row in _rows(said)}


@pytest.mark.nightly
@pytest.mark.parametrize("release", RELEASES)
def test_readme_s_commands_work_for_everybody_on_a_stock_install(release: str, mmdebstrap: None) -> None:
    with _fresh(f"--release={release}") as process:
        said, _ = process.communicate()
    if f"have no {release}" in said:
        pytest.skip(said)
    _check(said, process.returncode, release, USERS)


def _groups(process: "subprocess.Popen[str]") -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/fresh-{process.pid}-*"))


def _machine(process: "subprocess.Popen[str]") -> list[int]:
    """Everybody below it, once its first machine runs: until then it says nothing."""
    assert process.stdout is not None
    assert "git clone" in process.stdout.readline()
    found = [process.pid]
    for pid in found:
        found += children(pid)
    assert len(found) > 2
    return found[1:]


@pytest.fixture
def tiny_root(root: None, tmp_path: Path) -> Path:
    """A shell and what it is linked to; no git, and what should install it stands still for ever."""
    tiny = tmp_path / "tiny"
    for name in ("bin", "dev", "etc", "proc", "root", "run", "srv", "sys", "tmp"):
        (tiny / name).mkdir(parents=True)
    (tiny / "usr").symlink_to(".")
    os.mkfifo(tiny / "srv/never")
    shell = shutil.which("sh") or "sh"
    linked = subprocess.check_output(["ldd", shell], text=True)
    for file in [*re.findall(r"(?:^|\s)(/\S+) \(", linked)]:
        (tiny / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tiny / file.lstrip("/"))
    shutil.copy(shell, tiny / "bin/sh")
    for name, text in {"su": 'exec /bin/sh -c "$4"', "apt": "read never </srv/never"}.items():
        (tiny / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tiny / "bin" / name).chmod(0o755)
    return tiny


def test_ended_by_a_signal_it_takes_down_all_it_has_put_up(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with _fresh("--release=tiny", "--user=root", f"--bare={tiny_root}") as process:
        below = _machine(process)
        assert _groups(process)
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 128 + signal.SIGTERM
        assert not [pid for pid in below if alive(pid)]
        assert _groups(process) == []
    assert list(tmp_path.glob("fresh-*")) == []


def test_killed_it_takes_its_machine_with_it(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with _fresh("--release=tiny", "--user=root", f"--bare={tiny_root}") as process:
        below = _machine(process)
        process.kill()
        wait_for_end(*below)
        # Its mounts went with it, so these are empty.
        assert [path for place in tmp_path.glob("fresh-*") for path in place.iterdir()] == []
        for group in _groups(process):  # of which nobody could take care any more
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
