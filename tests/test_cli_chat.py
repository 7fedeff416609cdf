"""`sandbox chat` and `sandbox trace`, as commands; the model's server is scripted."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sandbox.cli import picture
from sandbox.image import Image
from tests.server import COMMAND, environment, serving
from tests.upstreams import PAGE, Breaks, Fails, Says, Scripted, busy, fenced, runs

CHART = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('chart.png')\nplt.show()"


class Shell:
    """Commands in a directory of their own, with one data directory and one scripted model."""

    def __init__(self, path: Path, upstream: Scripted) -> None:
        self.path = path / "here"
        self.path.mkdir()
        self.upstream = upstream
        self._env = environment(path / "data", {"OPENAI_BASE_URL": upstream.url})
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
            self._env.pop(name, None)

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, stdin: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.path,
            env={**self._env, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def chat(self, *arguments: str) -> dict[str, Any]:
        """The document of `sandbox chat --json`."""
        done = self.run("chat", "--json", *arguments)
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@pytest.fixture
def shell(root: None, python_image: Image, nothing_left: None, tmp_path: Path) -> Iterator[Shell]:
    with Scripted("openai") as upstream:
        yield Shell(tmp_path, upstream)


def test_words_code_and_outputs_are_shown_and_what_was_made_is_saved(shell: Shell) -> None:
    (shell.path / "sales.csv").write_text("region,price\nN,1\nS,2\n")
    shell.upstream.then(
        runs("import pandas as pd\ndf = pd.read_csv('sales.csv')\ndf['Price'].mean()", text="I will look."),
        runs("print(df['price'].mean())"),
        runs(CHART),
        Says("The mean is 1.5."),
    )
    done = shell.run("chat", "--file", "sales.csv", "--out", "out", "What is the mean price?")
    assert done.returncode == 0
    assert done.stdout.startswith("I will look.\n>>> import pandas as pd\n")
    assert done.stdout.endswith("The mean is 1.5.\n")
    assert ">>> print(df['price'].mean())\n1.5\n" in done.stdout
    assert "KeyError: 'Price'" in done.stderr
    assert {path.name for path in (shell.path / "out").iterdir()} == {"chart.png", "image-1.png"}
    told = shell.upstream.asked[1].body["messages"][-1]["content"]
    assert "'price'" in told


def test_json_is_one_document_with_everything(shell: Shell) -> None:
    shell.upstream.then(runs("print(6 * 7)"), Says("It is 42."))
    document = shell.chat("How much is it?")
    assert (document["answer"], document["ending"], document["saved"]) == ("It is 42.", "answered", [])
    assert document["executions"][0]["stdout"] == "42\n"
    assert document["spent"]["turns"] == 2


def test_without_anything_to_save_no_directory_is_made(shell: Shell) -> None:
    shell.upstream.then(Says("Hello!"))
    assert shell.run("chat", "Hello?").returncode == 0
    assert list(shell.path.iterdir()) == []


def test_a_question_can_come_from_standard_input(shell: Shell) -> None:
    shell.upstream.then(Says("Hello!"))
    assert shell.run("chat", "-", stdin="Who are you?").stdout == "Hello!\n"
    assert shell.upstream.asked[0].body["messages"][-1]["content"] == "Who are you?"


def test_a_model_without_tool_calls_is_asked_for_fences(shell: Shell) -> None:
    shell.upstream.then(fenced("print(6 * 7)"), Says("It is 42."))
    done = shell.run("chat", "--fenced", "How much is it?")
    assert done.returncode == 0
    assert "tools" not in shell.upstream.asked[0].body
    assert "42" in str(shell.upstream.asked[1].body["messages"][-1]["content"])


def test_a_run_that_ends_without_an_answer_says_so_and_exits_1(shell: Shell) -> None:
    shell.upstream.then(runs("1 / 0"), runs("1 / 0"))
    done = shell.run("chat", "How much is it?", env={"SANDBOX_LOOP_ATTEMPTS": "1"})
    assert done.returncode == 1
    assert "could not be finished" in done.stdout
    assert "attempts" in done.stderr


def test_an_upstream_that_is_busy_is_waited_for_and_one_that_fails_exits_2(shell: Shell) -> None:
    shell.upstream.then(busy(retry_after=0.1), Says("Hello!"))
    done = shell.run("chat", "Hello?")
    assert (done.returncode, done.stdout) == (0, "Hello!\n")
    assert "busy" in done.stderr
    shell.upstream.then(Fails(400, "this model has no tools"))
    failed = shell.run("chat", "Hello", "there?")
    assert failed.returncode == 2
    assert shell.upstream.asked[-1].body["messages"][-1]["content"] == "Hello there?"
    assert failed.stderr.count("this model has no tools") == 1
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("scene", [Breaks("cut"), Breaks("garbage"), PAGE])
def test_an_upstream_that_breaks_is_one_clean_error(shell: Shell, scene: Any) -> None:
    shell.upstream.then(*[scene] * 3)
    failed = shell.run("chat", "Hello?")
    assert failed.returncode == 2
    assert failed.stderr.count("Traceback") == 0


def test_no_model_at_all_says_what_to_set(shell: Shell) -> None:
    failed = shell.run("chat", "Hello?", env={"OPENAI_BASE_URL": ""})
    assert failed.returncode == 2
    assert "OPENAI_API_KEY" in failed.stderr


def test_the_code_can_run_on_a_server(shell: Shell, tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        shell.upstream.then(runs("print(6 * 7)"), Says("It is 42."))
        document = shell.chat("--server", server.url, "How much is it?")
    assert document["executions"][0]["stdout"] == "42\n"


@pytest.mark.attack("E12")
def test_an_answer_that_hides_control_characters_is_shown_as_it_is_in_a_pipe(shell: Shell) -> None:
    shell.upstream.then(Says("a\x1b[31mb"))
    assert shell.run("chat", "Hello?").stdout == "a\x1b[31mb\n"


# Traces.


def test_a_run_is_a_trace_that_can_be_listed_shown_and_exported(shell: Shell) -> None:
    secret = "sk-abcdefghijklmnopqrstuvwx"
    shell.upstream.then(runs(f"key = '{secret}'\n1 / 0"), runs("print(6 * 7)"), Says("It is 42."))
    trace_id = shell.chat(f"My key is {secret}. How much is it?")["trace_id"]
    (listed,) = json.loads(shell.run("trace", "list", "--json").stdout)
    assert (listed["id"], listed["ending"], listed["executions"]) == (trace_id, "answered", 2)
    assert trace_id in shell.run("trace", "list").stdout
    shown = shell.run("trace", "show", trace_id).stdout
    assert "ZeroDivisionError repaired after 1 failures" in shown
    assert ">>> print(6 * 7)" in shown
    first, *records = (json.loads(line) for line in shell.run("trace", "export", trace_id).stdout.splitlines())
    assert first["id"] == trace_id
    assert records[-1]["answer"] == "It is 42."
    exported = shell.run("trace", "export", trace_id, "--format", "ipynb").stdout
    nbformat.validate(nbformat.reads(exported, as_version=4))  # type: ignore[no-untyped-call]
    spans = json.loads(shell.run("trace", "export", trace_id, "--format", "otlp").stdout)
    assert spans["resourceSpans"]
    everything = json.dumps([listed, shown, first, records, exported, spans])
    assert secret not in everything


def test_a_run_that_failed_is_a_trace_too(shell: Shell) -> None:
    shell.upstream.then(Fails(400, "no"))
    shell.run("chat", "Hello?")
    (listed,) = json.loads(shell.run("trace", "list", "--json").stdout)
    assert listed["ending"] == "failed"
    assert "UpstreamRefused" in shell.run("trace", "show", listed["id"]).stdout


def test_a_trace_that_is_not_there_is_named(shell: Shell) -> None:
    failed = shell.run("trace", "show", "trc_1")
    assert failed.returncode == 2
    assert "there is no trace trc_1" in failed.stderr


# Pictures.


@pytest.mark.parametrize(
    ("env", "begin"),
    [
        ({"TERM": "xterm-kitty"}, b"\x1b_Ga=T,f=100,m=1;"),
        ({"TERM_PROGRAM": "iTerm.app"}, b"\x1b]1337;File=inline=1;size=10008:"),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "1"}, b""),
        ({"TERM": "xterm-256color"}, b""),
    ],
)
def test_pictures_are_shown_where_the_terminal_says_that_it_can(env: dict[str, str], begin: bytes) -> None:
    data = b"\x89PNG\r\n\x1a\n" + os.urandom(10_000)
    sequence = picture.sequence(data, env)
    assert sequence.startswith(begin)
    assert bool(sequence) is bool(begin)


def test_second_opinions_are_traces_too(shell: Shell) -> None:
    with Scripted("openai", Says("It is 41.")) as other:
        upstreams = {"first": {"url": shell.upstream.url}, "second": {"url": other.url}}
        models = {"m": {"routes": ["first/m"], "shadow": "second/m", "shadow_share": 1.0}}
        shell.upstream.then(Says("It is 42."))
        env = {"SANDBOX_UPSTREAMS": json.dumps(upstreams), "SANDBOX_MODELS": json.dumps(models)}
        done = shell.run("chat", "--model", "m", "How much is it?", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "It is 42.\n"
        assert len(other.asked) == 1
    listed = shell.run("trace", "list", "--json").stdout
    shadow = next(trace for trace in json.loads(listed) if trace["ending"] == "shadow")
    assert "It is 41." in shell.run("trace", "show", shadow["id"]).stdout
