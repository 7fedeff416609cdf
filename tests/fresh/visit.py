"""A person who reads README on a fresh machine, types what it says, and does what they are told is missing."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.docker import ROOT
from tests.fresh.machine import Machine, Said, scratch, started

ORDINARY = "person"
USERS = ("root", ORDINARY)
_REPOSITORY = "/srv/sandbox.git"
_README = (ROOT / "README.md").read_text()
_MOST_FIXES = 6
# What is said to be missing, with its fix; what of that an owner types; what a shell misses.
_FIX = re.compile(r"fix: (.*)")
_COMMAND = re.compile(r"\b(?:apt install|usermod|sysctl -w)(?: [-\w.=+]+)+")
_UNKNOWN = re.compile(r"(\w+): (?:command )?not found")
_LOOPBACK = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
_NO_NAMESPACES = """
cd {home}/sandbox && exec .venv/bin/python -P -m tests.ordinary --without-user-namespaces \
/usr/bin/su --login {user} --command 'cd sandbox && ./scripts/start'
"""
# The file that kernels with AppArmor's restriction have; a whole /proc besides, because a covered one is another flaw.
_AS_ON_UBUNTU = """
mkdir -p /run/proc && mount -t proc proc /run/proc && mkdir /run/kernel
cp -r /proc/sys/kernel/. /run/kernel 2>/dev/null
echo 1 >/run/kernel/apparmor_restrict_unprivileged_userns
mount --bind /run/kernel /proc/sys/kernel && exec "$@"
"""


class Outcome(StrEnum):
    """Of a step."""

    OK = "ok"
    NAMED = "named"
    """It did not go, and what it printed is how to mend that."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result."""

    release: str
    user: str
    step: str
    outcome: Outcome
    words: str
    """How it was mended, or what was said last."""


def visit(bare: Path, release: str, user: str) -> Iterator[Row]:
    """What becomes of this user on a machine of their own, which is a copy of a bare root and is gone afterwards."""
    with scratch() as copy:
        root = copy / "root"
        subprocess.run(["cp", "-a", bare, root], check=True)
        owner = 0
        if user == ORDINARY:
            subprocess.run(["chroot", root, "useradd", "--create-home", "--shell=/bin/bash", user], check=True)
            owner = (root / "home" / user).stat().st_uid
        _bring_sources(root, owner)
        try:
            with started(root, "fresh") as machine:
                yield from _Visit(machine, release, user).rows()
        except subprocess.TimeoutExpired as error:
            yield Row(release, user, "waiting", Outcome.FAILED, f"not ended after {error.timeout} s: {error.cmd[-1]}")


def _bring_sources(root: Path, owner: int) -> None:
    """A clean clone of what is committed here, for README's first command."""
    target = f"{root}{_REPOSITORY}"
    command = ["git", "clone", "--quiet", "--bare", "--depth=1", f"file://{ROOT}", target]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["chown", "-R", f"{owner}:{owner}", target], check=True)


def readme_commands() -> tuple[str, str]:
    """The two of its heading, with a repository that is there."""
    block = re.search(r"^## Two commands\n\n```sh\n(.*)\n(.*)\n```", _README, re.MULTILINE)
    assert block is not None, "README has no two commands"
    return block[1].replace("<this repository>", _REPOSITORY), block[2]


def fixes(said: str) -> list[str]:
    """What a machine's owner is told to type by what was printed, and by README where only a shell said something."""
    told = [command[0].strip() for line in _FIX.findall(said) for command in _COMMAND.finditer(line)]
    packages = re.search(r"`sudo apt install ([^`]+)`", _README)
    known = packages[1].split() if packages else []
    return told + [f"apt install {name}" for name in _UNKNOWN.findall(said) if name in known]


@dataclass(frozen=True, slots=True)
class _Visit:
    """To one machine, by one of its users."""

    machine: Machine
    release: str
    user: str

    def rows(self) -> Iterator[Row]:
        """Step by step; the first that cannot be mended is the last."""
        clone, start = readme_commands()
        steps: list[Callable[[], Iterator[Row]]] = [
            lambda: self._typed("git clone", clone, ""),
            lambda: self._typed("scripts/start", f"cd sandbox && {start}", r"saved out/sales\.png"),
            lambda: self._typed("scripts/start again", f"cd sandbox && {start}", r"saved out/sales\.png"),
            lambda: self._typed("sandbox run", "cd sandbox && .venv/bin/sandbox run -c 'print(1)'", r"^1$"),
            lambda: self._typed("server", self._served(), r'"stdout":"42\\n"', _LOOPBACK),
        ]
        if self.user == ORDINARY:
            steps += [self._strengthened, self._without_namespaces, self._on_ubuntu]
        for step in [*steps, self._emptied]:
            row = None
            for row in step():
                yield row
            if row is not None and row.outcome is Outcome.FAILED:
                return

    def _typed(self, step: str, command: str, expected: str, through: Sequence[str] = ()) -> Iterator[Row]:
        """Until it does what is expected; what is named is done by the owner, as told."""
        done: list[str] = []
        for _ in range(_MOST_FIXES):
            said = self.machine.run(command, self.user, through)
            if said.code == 0 and re.search(expected, said.text, re.MULTILINE):
                yield self._row(step, Outcome.OK, "")
                return
            told = [fix for fix in fixes(said.text) if fix not in done]
            if said.code == 0 or not told:
                yield self._failed(step, said)
                return
            yield self._row(step, Outcome.NAMED, told[0])
            mended = self.machine.run(told[0])
            if mended.code != 0:
                yield self._failed(told[0], mended)
                return
            done.append(told[0])

    def _served(self) -> str:
        serve = re.search(r"^(\.venv/bin/sandbox serve)$", _README, re.MULTILINE)
        call = re.search(r"^curl -s (http://127\S+ .*)$", _README, re.MULTILINE)
        assert serve is not None, "README serves nothing"
        assert call is not None, "README calls nobody"
        ready = "curl -s --retry 60 --retry-delay 1 --retry-connrefused"
        return f"""cd sandbox
            command -v curl >/dev/null || {{ curl; exit; }}
            {serve[1]} >server.log 2>&1 & server=$!
            {ready} {call[1]}; code=$?
            kill $server; wait $server; exit $code"""

    def _strengthened(self) -> Iterator[Row]:
        """An ordinary user is told what would make it stronger; each that can be had on this machine is."""
        step, done = "weaknesses", list[str]()
        while told := [fix for fix in self._weaknesses() if fix not in done]:
            yield self._row(step, Outcome.NAMED, told[0])
            mended = self.machine.run(told[0])
            if mended.code != 0:
                yield self._failed(told[0], mended)
                return
            done.append(told[0])
        grade = self._grade("privileges")
        yield self._row(step, Outcome.OK if grade == "A" else Outcome.FAILED, f"privileges are graded {grade}")
        yield from self._typed(
            "sandbox run, ids of its own", "cd sandbox && .venv/bin/sandbox run -c 'print(1)'", "^1$"
        )

    def _weaknesses(self) -> list[str]:
        said = self.machine.run("cd sandbox && .venv/bin/sandbox doctor --brief", self.user)
        # Settings of the kernel are the host's, on which others live.
        return [fix for fix in fixes(said.text) if not fix.startswith("sysctl")]

    def _grade(self, finding: str) -> str:
        said = self.machine.run("cd sandbox && .venv/bin/sandbox doctor --json", self.user)
        found = {each["name"]: each["grade"] for each in json.loads(said.text)["findings"]}
        return str(found[finding])

    def _without_namespaces(self) -> Iterator[Row]:
        home = self.machine.run("echo ~", self.user).text.strip()
        said = self.machine.run(_NO_NAMESPACES.format(home=home, user=self.user))
        yield self._refused("no user namespaces", said, "sysctl -w user.max_user_namespaces=10000")

    def _on_ubuntu(self) -> Iterator[Row]:
        command = f"cd sandbox && {readme_commands()[1]}"
        said = self.machine.run(command, self.user, ("unshare", "--mount", "sh", "-c", _AS_ON_UBUNTU, "sh"))
        fix = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        yield self._refused("AppArmor's restriction", said, fix)

    def _refused(self, step: str, said: Said, fix: str) -> Row:
        if said.code != 0 and fix in fixes(said.text):
            return self._row(step, Outcome.NAMED, fix)
        return self._failed(step, said)

    def _emptied(self) -> Iterator[Row]:
        left = self.machine.left()
        yield self._row("nothing left", Outcome.FAILED if left else Outcome.OK, "; ".join(left))

    def _failed(self, step: str, said: Said) -> Row:
        last = " / ".join(line.strip() for line in said.text.splitlines()[-12:] if line.strip())
        return self._row(step, Outcome.FAILED, f"exit code {said.code}: {last}")

    def _row(self, step: str, outcome: Outcome, words: str) -> Row:
        return Row(self.release, self.user, step, outcome, words)
