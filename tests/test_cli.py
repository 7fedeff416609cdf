"""The `sandbox` command, as a shell sees it."""

import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox import image as images
from sandbox.cli.folder import Folder
from sandbox.cli.view import printable
from sandbox.client import Client
from sandbox.config import Settings
from sandbox.errors import ImageNotBuilt, InvalidPath, InvalidRequest, Unauthorized
from tests.server import COMMAND, Server, environment, serving

PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig('/mnt/data/line.png'); plt.show()"


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


def command(*arguments: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Ended:
    environment = {**os.environ, **(env or {})}
    ended = subprocess.run([*COMMAND, *map(str, arguments)], input=stdin, capture_output=True, env=environment)
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@pytest.fixture(scope="session")
def sandboxes() -> None:
    """What running a sandbox takes; a visible skip where it is missing."""
    if os.geteuid() != 0:
        pytest.skip("the embedded runtime needs root")
    try:
        images.load("python", Settings().images_dir)
    except ImageNotBuilt as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server(sandboxes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(params=["here", "on a server"])
def anywhere(request: pytest.FixtureRequest, sandboxes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program shows and leaves is the same wherever it runs."""
    if request.param != "here":
        server: Server = request.getfixturevalue("server")
        monkeypatch.setenv("SANDBOX_SERVER", server.url)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["docker-refill", "warm"], "docker-refill is measured with --docker; see"),
        (["--loop", "warm"], "warm is measured without an option; see"),
        (["tea"], "no measure is called tea; see"),
        (["--loop", "--strain"], "exclude each other"),
    ],
)
def test_a_measure_that_is_asked_for_in_the_wrong_place_is_told_where_it_is(arguments: list[str], words: str) -> None:
    ended = command("bench", *arguments)
    assert (ended.code, words in ended.stderr) == (2, True), ended.stderr


# run


@pytest.mark.usefixtures("anywhere")
class TestRun:
    def test_prints_stdout_and_the_last_value_and_exits_0(self) -> None:
        assert command("run", "-c", "print('a', end='')\n6 * 7") == Ended(0, "a\n42\n", "")

    def test_keeps_stderr_apart(self) -> None:
        ended = command("run", "-c", "import sys; print('out'); print('err', file=sys.stderr)")
        assert ended == Ended(0, "out\n", "err\n")

    def test_reads_a_program_from_a_file_or_from_standard_input(self, tmp_path: Path) -> None:
        program = tmp_path / "program.py"
        program.write_text("print('é')")
        assert command("run", program).stdout == "é\n"
        assert command("run", "-", stdin=program.read_bytes()).stdout == "é\n"
        assert command("run", stdin=program.read_bytes()).stdout == "é\n"

    def test_a_program_from_a_file_finds_what_a_script_finds(self, tmp_path: Path) -> None:
        (tmp_path / "it's.csv").write_text("1,2")
        program = tmp_path / "it's.py"
        program.write_text(
            """\"A docstring.\"
from __future__ import annotations
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--name")
parser.add_argument("rest", nargs="*")
if __name__ == "__main__":
    asked = parser.parse_args()
    print(parser.prog, asked.name, asked.rest, pathlib.Path(__file__).with_suffix(".csv").read_text())
    1 / 0
"""
        )
        ended = command("run", program, "--file", tmp_path / "it's.csv", "a b", "--", "--name", "é")
        assert ended.stdout == "it's.py é ['a b'] 1,2\n"
        assert (ended.code, "line 10" in ended.stderr) == (1, True)

    def test_arguments_are_a_file_s(self) -> None:
        ended = command("run", "-", "a", stdin=b"1")
        assert (ended.code, "only a program from a FILE has arguments" in ended.stderr) == (2, True)

    def test_an_error_shows_its_traceback_and_exits_1(self) -> None:
        ended = command("run", "-c", "1 / 0")
        assert (ended.code, ended.stdout) == (1, "")
        assert "ZeroDivisionError: division by zero" in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("sandbox: error (ran for ")

    def test_what_a_missing_name_could_have_been_is_shown(self) -> None:
        ended = command("run", "-c", "prices = {'tea': 3, 'coffee': 4}\nprices['te']")
        assert ended.stderr.splitlines()[-2].endswith(": 'tea', 'coffee'")

    def test_a_timeout_exits_124_and_names_time_and_memory(self) -> None:
        ended = command("run", "--timeout", "1", "-c", "print('before', flush=True)\nwhile True: pass")
        assert (ended.code, ended.stdout) == (124, "before\n")
        verdict = ended.stderr.splitlines()[-1]
        assert verdict.startswith("sandbox: timeout")
        assert "peak memory" in verdict

    def test_too_much_memory_exits_137(self) -> None:
        ended = command("run", "--memory", "256", "-c", "x = []\nwhile True: x.append(b'x' * (1 << 20))")
        assert ended.code == 137
        assert "oom: the memory limit of 256 MB was reached" in ended.stderr

    def test_a_dead_kernel_exits_137_and_says_how_it_died(self) -> None:
        ended = command("run", "-c", "import os; os._exit(3)")
        assert ended.code == 137
        assert "killed: the kernel process exited with code 3" in ended.stderr

    def test_files_go_in_and_images_and_changed_files_come_out(self, tmp_path: Path) -> None:
        data, out = tmp_path / "x.csv", tmp_path / "out" / "deep"
        data.write_text("a\n1\n")
        code = f"{PLOT}\nimport os; os.mkdir('/mnt/data/d'); open('/mnt/data/d/n.txt', 'w').write('n')"
        code += "\nwith open('/mnt/data/x.csv', 'a') as file: file.write('2\\n')"
        ended = command("run", "--file", data, "--file", __file__, "--out", out, "-c", code)
        assert ended.code == 0
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
            "image-1.png",
            "line.png",
            "x.csv",
            "d/n.txt",
        }
        assert (out / "image-1.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "x.csv").read_text() == "a\n1\n2\n"
        assert data.read_text() == "a\n1\n"
        assert f"sandbox: saved {out}/d/n.txt" in ended.stderr

    def test_an_image_of_several_forms_is_saved_once(self, tmp_path: Path) -> None:
        code = "from PIL import Image; Image.new('RGB', (2, 2))"
        assert command("run", "--out", tmp_path, "-c", code).code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["image-1.png"]

    def test_without_a_directory_it_says_what_could_have_been_saved(self) -> None:
        assert (
            command("run", "-c", PLOT).stderr
            == "sandbox: the program made 1 image and line.png; --out DIR saves all of it\n"
        )

    def test_an_output_that_is_too_long_is_saved_in_full(self, tmp_path: Path) -> None:
        ended = command("run", "--out", tmp_path, "-c", "print('x' * 2_000_000)")
        assert ended.code == 0
        assert (tmp_path / "stdout.txt").read_text() == "x" * 2_000_000 + "\n"
        assert len(ended.stdout) < 1_100_000
        assert "bytes of stdout and 0 of stderr were dropped" in ended.stderr

    def test_standard_input_that_nobody_reads_is_told_of(self, tmp_path: Path) -> None:
        (tmp_path / "p.py").write_text("import sys; print(repr(sys.stdin.read()))")
        arguments = [*COMMAND, "run", str(tmp_path / "p.py")]
        ended = subprocess.run(arguments, capture_output=True, input=b"a,b\n")
        assert ended.stdout == b"''\n"
        assert b"standard input is not given to the program" in ended.stderr
        for nothing in (b"", None):
            ended = subprocess.run(arguments, capture_output=True, input=nothing)
            assert b"standard input" not in ended.stderr

    def test_an_option_that_is_not_ours_may_be_the_programs(self, tmp_path: Path) -> None:
        (tmp_path / "p.py").write_text("import sys; print(sys.argv[1:])")
        ended = command("run", tmp_path / "p.py", "--number", "3")
        assert ended.code == 2
        assert "go behind --" in ended.stderr
        assert "go behind --" not in command("run", "-c").stderr
        assert "go behind --" not in command("run", "-c", "1", "--memroy", "5").stderr
        assert command("run", tmp_path / "p.py", "--", "--number", "3").stdout == "['--number', '3']\n"

    def test_hidden_files_are_left_behind_and_named(self, tmp_path: Path) -> None:
        ended = command("run", "--out", tmp_path, "-c", "open('/mnt/data/.bashrc', 'w').write('x')")
        assert (ended.code, list(tmp_path.iterdir())) == (0, [])
        assert ended.stderr == "sandbox: not saved: '.bashrc': names that begin with a dot are left behind\n"

    def test_json_is_one_document_with_everything(self, tmp_path: Path) -> None:
        ended = command("run", "--json", "--out", tmp_path, "-c", f"print('x')\n{PLOT}\n1 / 0")
        document: dict[str, Any] = json.loads(ended.stdout)
        assert (ended.code, document["status"], document["stdout"]) == (1, "error", "x\n")
        assert document["error"]["name"] == "ZeroDivisionError"
        assert any("image/png" in bundle for bundle in document["results"])
        assert [(artifact["path"], artifact["change"]) for artifact in document["artifacts"]] == [
            ("line.png", "created")
        ]
        assert document["saved"] == [f"{tmp_path}/image-1.png", f"{tmp_path}/line.png"]
        assert document["peak_memory_bytes"] > 0
        assert document["truncated"] == {"stdout": 0, "stderr": 0, "results": 0}

    @pytest.mark.attack("E12")
    def test_escape_sequences_are_raw_in_a_pipe_and_spelt_out_on_a_terminal(self) -> None:
        arguments = [*COMMAND, "run", "-c", r"print('\x1b[2Jwiped')"]
        assert subprocess.run(arguments, capture_output=True).stdout == b"\x1b[2Jwiped\n"
        leader, follower = pty.openpty()
        with subprocess.Popen(arguments, stdout=follower, stdin=subprocess.DEVNULL) as process:
            assert os.read(leader, 100) == b"\\x1b[2Jwiped\r\n"
            assert process.wait() == 0
        os.close(follower)
        os.close(leader)

    def test_ctrl_c_interrupts_the_program_and_exits_130(self) -> None:
        ready = "print('ready', flush=True)"
        code = f"import time\ntry:\n {ready}\n time.sleep(600)\nexcept KeyboardInterrupt: print('told')"
        process = started(code)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
        # What became of it is the program's own affair: it caught the interrupt and ended well.
        assert (process.returncode, stdout) == (0, b"told\n")
        assert b"interrupting" in stderr

    def test_a_program_that_lets_ctrl_c_through_is_interrupted(self) -> None:
        process = started("print('ready', flush=True)\nwhile True: pass")
        process.send_signal(signal.SIGINT)
        stderr = process.communicate()[1]
        assert process.returncode == 130
        assert stderr.splitlines()[-1].startswith(b"sandbox: interrupted")

    def test_a_second_ctrl_c_ends_the_sandbox(self) -> None:
        process = started("print('ready', flush=True)\nwhile True:\n try:\n  while True: pass\n except: pass")
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        stderr = process.communicate()[1]
        assert process.returncode == 130
        assert b"cancelled" in stderr or b"interrupted" in stderr

    def test_a_reader_that_leaves_ends_it_quietly(self) -> None:
        process = started("print('ready', flush=True)\nwhile True: print('x' * 1000)")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)
        process.stderr.close()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--memory", "1", "-c", "1"], "memory_mb is 1; choose a value from 192"),
            (["--memory", "900000", "-c", "1"], "memory_mb is 900000; this host allows"),
            (["--timeout", "0", "-c", "1"], "a timeout of 0 s is not offered; choose one above 0"),
            (["--timeout", "nan", "-c", "1"], "a timeout of nan s"),
            (["--image", "fortran", "-c", "1"], "there is no image 'fortran'; choose from: python"),
            (["--image", "../x", "-c", "1"], "image is '../x' (from argument)"),
            (["-"], "the code is not valid UTF-8"),
        ],
    )
    def test_what_cannot_be_is_refused_in_one_paragraph(self, arguments: list[str], words: str) -> None:
        ended = command("run", *arguments, stdin=b"\xff")
        assert (ended.code, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"sandbox: {words}")
        assert len(ended.stderr.splitlines()) == 1

    def test_code_that_is_too_long_is_refused(self) -> None:
        ended = command("run", "-", stdin=b"#" * (3 << 20))
        assert (ended.code, "1048576 at most" in ended.stderr) == (2, True)

    def test_an_unusable_directory_is_refused_before_anything_runs(self) -> None:
        ended = command("run", "--out", "/proc/nothing", "-c", "print(1)")
        assert (ended.code, ended.stdout) == (2, "")
        assert ended.stderr.startswith("sandbox: /proc/nothing cannot be used for --out")


def started(code: str, *options: str) -> "subprocess.Popen[bytes]":
    """A running program that has printed `ready`."""
    process = subprocess.Popen(
        [*COMMAND, "run", *options, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_run_wants_exactly_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.touch()
    ended = command("run", program, "-c", "1")
    assert (ended.code, ended.stdout) == (2, "")
    assert command("run", tmp_path / "missing.py").code == 2


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.csv").touch()
    ended = command("run", "-c", "1", "--file", tmp_path / "a/x.csv", "--file", tmp_path / "b/x.csv")
    assert (ended.code, "/mnt/data/x.csv" in ended.stderr) == (2, True)


def test_a_missing_image_says_how_to_build_it(tmp_path: Path) -> None:
    ended = command("run", "-c", "1", env={"SANDBOX_DATA_DIR": str(tmp_path)})
    assert (ended.code, ended.stdout) == (2, "")
    assert "sandbox image build python" in ended.stderr or os.geteuid() != 0
    assert "Traceback" not in ended.stderr


# run --server


def test_a_run_leaves_no_open_session_on_the_server(server: Server) -> None:
    assert command("run", "--server", server.url, "-c", "print(1)").code == 0
    assert command("run", "--server", server.url, "-c", "1 / 0").code == 1
    process = started("print('ready', flush=True)\nwhile True: pass", "--server", server.url)
    process.send_signal(signal.SIGINT)
    process.communicate()
    with Client(server.url) as client:
        assert {session.status for session in client.sessions()} == {"closed"}


def test_a_server_that_is_not_there_is_a_paragraph_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ended = command("run", "--server", url, "-c", "1")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"sandbox: no server answers at {url}")
    assert len(ended.stderr.splitlines()) == 1
    assert command("run", "--server", "8000", "-c", "1").stderr.startswith("sandbox: server is '8000' (from argument)")


# serve


@pytest.mark.usefixtures("sandboxes")
def test_the_first_line_of_serve_is_its_url_and_sigterm_ends_it_well(tmp_path: Path) -> None:
    with serving(tmp_path, "--runtime", "embedded", "--pool", "0", "--host", "127.0.0.1") as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*", server.url)
        assert command("run", "--server", server.url, "-c", "6 * 7").stdout == "42\n"
        second = command("serve", "--port", "0", env=environment(tmp_path))
        assert (second.code, second.stdout) == (2, "")
        assert "another server keeps its data" in second.stderr
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""


@pytest.mark.attack("H04")
@pytest.mark.usefixtures("sandboxes")
def test_a_public_address_wants_a_key(tmp_path: Path) -> None:
    ended = command("serve", "--port", "0", "--host", "0.0.0.0", "--pool", "0", env=environment(tmp_path))
    assert (ended.code, ended.stdout) == (2, "")
    assert "sandbox key create" in ended.stderr


# key


def test_a_key_is_shown_once_and_listed_without_its_secret(tmp_path: Path) -> None:
    env = environment(tmp_path / "new")
    made = command("key", "create", "ann", "--sessions", "2", "--stored-mb", "1", env=env)
    assert "it is the first" in made.stderr
    assert re.fullmatch(r"sbx_[0-9a-f]{8}_[A-Za-z0-9_-]{43}\n", made.stdout)
    assert made.code == 0
    identity = made.stdout.split("_")[1]
    (listed,) = json.loads(command("key", "list", "--json", env=env).stdout)
    limits = {"sessions": 2, "running": None, "per_minute": None, "stored_bytes": 1 << 20}
    assert (listed["id"], listed["name"], listed["limits"]) == (identity, "ann", limits)
    assert listed["revoked_at"] is None
    text = command("key", "list", env=env).stdout
    assert f"{identity}  valid" in text
    assert "sessions 2, stored_bytes 1048576" in text
    secret = made.stdout.strip().encode()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert (secret in kept, secret[-43:] in kept) == (False, False)


def test_keys_of_a_directory_that_cannot_be_had_are_a_paragraph(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = command("key", "create", "ann", env={"SANDBOX_DATA_DIR": str(tmp_path / "file")})
    assert (ended.code, ended.stderr.startswith("sandbox: data_dir is ")) == (2, True)


def test_who_asks_what_there_is_makes_nothing(tmp_path: Path) -> None:
    env = environment(tmp_path / "mistyped")
    assert str(tmp_path / "mistyped") in command("key", "list", env=env).stderr  # where it looked
    assert "no valid key" in command("key", "revoke", "ann", env=env).stderr
    assert "no trace yet" in command("trace", "list", env=env).stderr
    assert "there is no trace t" in command("trace", "show", "t", env=env).stderr
    assert not (tmp_path / "mistyped").exists()


def test_a_revoked_key_is_refused_and_listed_as_such(tmp_path: Path) -> None:
    env = environment(tmp_path)
    for name in ("ann", "bob"):
        made = command("key", "create", name, env=env)
    assert "it is the first" not in made.stderr
    assert command("key", "revoke", "ann", env=env) == Ended(0, "", "sandbox: revoked ann\n")
    listed = {key["name"]: key["revoked_at"] for key in json.loads(command("key", "list", "--json", env=env).stdout)}
    assert (listed["bob"], listed["ann"] is None) == (None, False)
    ended = command("key", "revoke", "carl", env=env)
    assert (ended.code, ended.stderr) == (2, "sandbox: there is no valid key 'carl'; sandbox key list shows them\n")
    assert command("key", "create", "", env=env).code == 2


@pytest.mark.usefixtures("sandboxes")
def test_keys_are_made_and_revoked_beside_a_running_server(tmp_path: Path) -> None:
    env = environment(tmp_path)
    with serving(tmp_path, "--pool", "0") as server:
        arguments = ("run", "--server", server.url, "-c", "print(1)")
        key = command("key", "create", "ann", env=env).stdout.strip()
        assert command(*arguments, env={"SANDBOX_API_KEY": key}) == Ended(0, "1\n", "")
        assert command("key", "revoke", "ann", env=env).code == 0
        with Client(server.url, key, retries=0) as client, pytest.raises(Unauthorized, match="revoked"):
            # The server remembers a key for a moment, hence more than one call.
            list(itertools.chain.from_iterable(client.sessions() for _ in range(10_000)))


# The directory of --out.


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "..", "x\n", "x\0", "a\\b", "n" * 256, "\u202egnp", ".git/x"],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with pytest.raises(InvalidPath):
        folder.write(name, b"x")
    folder.close()
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_link_in_the_way_is_replaced_and_never_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = Folder(tmp_path / "out")
    (tmp_path / "out" / "x").symlink_to(victim)
    assert folder.write("x", b"theirs") == str(tmp_path / "out" / "x")
    assert (victim.read_text(), (tmp_path / "out" / "x").is_symlink()) == ("mine", False)
    (tmp_path / "out" / "d").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        folder.write("d/victim", b"theirs")
    folder.close()
    assert victim.read_text() == "mine"


def test_a_directory_in_the_way_is_an_error_that_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    folder = Folder(tmp_path)
    with pytest.raises(IsADirectoryError):
        folder.write("x", b"1")
    folder.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_file_is_no_directory_for_out(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(InvalidRequest, match="cannot be used for --out"):
        Folder(tmp_path / "x")


# What reaches a terminal.


@pytest.mark.attack("E12")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("naïve 日本\u3000語\xa0🎉", "naïve 日本\u3000語\xa0🎉"),
        ("\x1b]8;;http://x\x07link", "\\x1b]8;;http://x\\x07link"),
        ("true\rfalse\r\n", "true\nfalse\n"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u200bc", "a\\u202eb\\u200bc"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_commands_a_terminal_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown


# doctor


def test_doctor_grades_the_host_and_says_how_to_fix_each_finding() -> None:
    ended = command("doctor", "--json")
    report = json.loads(ended.stdout)
    assert ended.code == (1 if report["grade"] == "fail" else 0)
    assert {"kernel", "cgroups", "landlock", "image"} <= {finding["name"] for finding in report["findings"]}
    text = command("doctor").stdout
    assert all(f"fix: {finding['fix']}" in text for finding in report["findings"] if finding["fix"])
    assert "this host" in text.splitlines()[-1]


def test_doctor_fails_where_nothing_can_run(tmp_path: Path) -> None:
    ended = command("doctor", env={"SANDBOX_DATA_DIR": str(tmp_path)})
    assert ended.code == 1
    assert "fix: sandbox image build python" in ended.stdout


def test_doctor_in_brief_tells_only_what_is_weak_and_minds_no_image(tmp_path: Path) -> None:
    env = {"SANDBOX_DATA_DIR": str(tmp_path), "SANDBOX_MEMORY_MB": "1000000", "SANDBOX_MAX_MEMORY_MB": "1000000"}
    whole, brief = (json.loads(command("doctor", *words, "--json", env=env).stdout) for words in ([], ["--brief"]))
    grave = [found for found in whole["findings"] if found["grade"] in ("C", "fail") and found["name"] != "image"]
    assert [found["name"] for found in brief["findings"]] == [found["name"] for found in grave]
    assert "memory" in [found["name"] for found in grave]
    ended = command("doctor", "--brief", env=env)
    assert ended.code == (1 if brief["grade"] == "fail" else 0)
    assert all(f"fix: {finding['fix']}" in ended.stdout for finding in grave)
    assert "image" not in ended.stdout


def test_doctor_shows_every_setting_and_its_origin() -> None:
    variables = {"SANDBOX_POOL_SIZE": "9", "SANDBOX_ORCHESTRA_ID": "7"}
    shown = json.loads(command("doctor", "--settings", "--json", env=variables).stdout)
    assert [setting["name"] for setting in shown] == list(Settings.model_fields)
    pool = next(setting for setting in shown if setting["name"] == "pool_size")
    assert (pool["value"], pool["origin"]) == (9, "SANDBOX_POOL_SIZE")
    ended = command("doctor", "--settings", env=variables)
    assert re.search(r"^pool_size +9  SANDBOX_POOL_SIZE$", ended.stdout, re.MULTILINE)
    assert "SANDBOX_ORCHESTRA_ID" in ended.stderr


def test_a_bad_setting_is_a_paragraph_and_exit_code_2() -> None:
    ended = command("doctor", env={"SANDBOX_POOL_SIZE": "many"})
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("sandbox: pool_size is 'many' (from SANDBOX_POOL_SIZE)")
    assert "Traceback" not in ended.stderr


# image


@pytest.mark.usefixtures("sandboxes")
def test_a_built_image_is_listed_and_shown_and_not_built_again() -> None:
    manifest = json.loads(command("image", "show", "--json").stdout)
    assert "pandas" in manifest["libraries"]
    assert f"pandas {manifest['libraries']['pandas']}" in command("image", "show", "python").stdout
    assert "in use" in command("image", "list").stdout
    assert "python" in json.loads(command("image", "list", "--json").stdout)["images"]
    assert "python is built: " in command("image", "build").stdout


def test_an_image_that_is_not_built_is_listed_with_what_to_do(tmp_path: Path) -> None:
    ended = command("image", "list", env={"SANDBOX_DATA_DIR": str(tmp_path)})
    assert (ended.code, ended.stdout) == (0, "python  not built; run sandbox image build python\n")
    ended = command("image", "show", "python", env={"SANDBOX_DATA_DIR": str(tmp_path)})
    assert (ended.code, "run `sandbox image build python`" in ended.stderr) == (2, True)


def test_an_unknown_image_is_refused() -> None:
    ended = command("image", "build", "fortran")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "sandbox: there is no image 'fortran'; choose from: python\n"


@pytest.mark.parametrize("option", ["--base-image", "--network", "--ca-bundle"])
def test_an_option_for_docker_is_refused_for_the_embedded_runtime(option: str) -> None:
    ended = command("image", "build", option, __file__)
    assert (ended.code, ended.stdout) == (2, "")
    assert f"Invalid value for {option}: goes with --runtime docker only" in ended.stderr


@pytest.mark.parametrize(
    "words",
    [("build", "--runtime", "docker"), ("list", "--runtime", "docker"), ("show", "--runtime", "docker"), ("unpack",)],
)
def test_docker_images_without_a_daemon_say_what_to_do(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = command("image", *words, env={"DOCKER_HOST": f"unix://{tmp_path}/nobody"})
    assert (ended.code, ended.stdout) == (2, "")
    assert "no Docker daemon answers" in ended.stderr
    assert "systemctl start docker" in ended.stderr


def test_the_version_is_shown() -> None:
    ended = command("--version")
    assert (ended.code, ended.stdout.startswith("sandbox ")) == (0, True)
