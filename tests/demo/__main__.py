"""`scripts/demo-model`: a real small model answers a few questions through `sandbox chat`.

Exit codes: 0 when all questions could be asked, however they were answered, for the model's skill is reported and not
judged; 77 when the model or what runs it cannot be had here; 1 when something of ours failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.config import Settings
from tests.demo import engine, weights
from tests.demo.tasks import TASKS, Task
from tests.demo.weights import WEIGHTS, Gone
from tests.server import COMMAND, environment

_SKIPPED = 77
"""As test harnesses have it."""
_SILENCE_S = 1800
"""A busy machine reads a prompt at a few tokens a second, and says nothing meanwhile."""


class Failed(Exception):
    """A command of ours did what it should not."""


@dataclass(frozen=True, slots=True)
class Shell:
    """Commands with one model and a data directory of their own."""

    path: Path
    url: str
    model: str

    def chat(self, task: Task) -> dict[str, Any]:
        """`sandbox chat`; its document. Raises `Failed`."""
        here = self.path / task.name
        here.mkdir()
        for name, text in task.files.items():
            (here / name).write_text(text)
        files = [word for name in task.files for word in ("--file", str(here / name))]
        options = ("--fenced", "--json", "--model", f"demo/{self.model}", "--out", str(here / "out"))
        done = self._run("chat", *options, *files, task.question)
        if done.returncode not in (0, 1):  # 1 is a model that did not come to an answer
            raise Failed(done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def story(self, trace: str) -> str:
        """What happened, as `sandbox trace show` has it."""
        return self._run("trace", "show", trace).stdout

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        upstreams = {"demo": {"url": self.url, "timeout_s": _SILENCE_S, "attempts": 1, "concurrency": 1}}
        limits = {"SANDBOX_LOOP_SECONDS": str(2 * _SILENCE_S), "SANDBOX_LOOP_TURNS": "8", "COLUMNS": "120"}
        env = environment(self.path / "data", {"SANDBOX_UPSTREAMS": json.dumps(upstreams), **limits})
        env.pop("SANDBOX_SERVER", None)
        return subprocess.run([*COMMAND, *words], env=env, capture_output=True, text=True, check=False)


def _ask(shell: Shell, tasks: tuple[Task, ...]) -> None:
    documents = []
    for task in tasks:
        print(f"\n=== {task.name}: {task.question}\n", flush=True)
        document = shell.chat(task)
        documents.append(document)
        print(shell.story(document["trace_id"]), flush=True)
    print(f"\n{'task':<11}{'ending':<10}{'executions':>11}{'failures':>9}{'seconds':>9}{'tokens':>8}  known value")
    for task, document in zip(tasks, documents, strict=True):
        print(_row(task, document))


def _row(task: Task, document: dict[str, Any]) -> str:
    spent = document["spent"]
    tokens = spent["usage"]["input_tokens"] + spent["usage"]["output_tokens"]
    counts = f"{spent['executions']:>11}{spent['failures']:>9}{spent['seconds']:>9.0f}{tokens:>8}"
    return f"{task.name:<11}{document['ending']:<10}{counts}  {task.found(document)}"


def _demonstrate(arguments: argparse.Namespace) -> None:
    settings = Settings.load()
    directory = Path(os.environ.get("DEMO_MODEL_DIR") or settings.data_dir / "models")
    chosen = WEIGHTS[arguments.model]
    print(f"{chosen.name}, {chosen.megabytes} MB, in {directory}", flush=True)
    model, python = weights.ready(chosen, directory), engine.ready(directory)
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "engine.log"
        with engine.serving(python, model, arguments.threads, log) as url:
            print(
                f"{url} on {arguments.threads} of {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            if arguments.serve:
                signal.pause()
            _ask(Shell(Path(scratch), url, chosen.name), tuple(t for t in TASKS if arguments.only in t.name))
        print("\n" + "\n".join(line for line in log.read_text().splitlines() if line.startswith("[model]")))


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo-model", description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", choices=WEIGHTS, default="0.5b", help="its size; default: 0.5b")
    parser.add_argument("--threads", type=int, default=1, help="processors that the model may use; default: 1")
    parser.add_argument("--only", default="", help="tasks whose names contain this")
    parser.add_argument("--serve", action="store_true", help="ask nothing, serve the model until Ctrl-C")
    return parser.parse_args()


def _main() -> int:
    try:
        _demonstrate(_parsed())
    except Gone as reason:
        print(f"skipped: {reason}", file=sys.stderr)
        return _SKIPPED
    except KeyboardInterrupt:
        return 130
    except (Failed, weights.Altered) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Whoever ends us with SIGTERM wants the model's server to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(_main())
