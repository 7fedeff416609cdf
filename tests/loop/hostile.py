"""What reads hostile text, and hostile texts. `python -m tests.loop.hostile told` feeds one of the former all of the
latter, and is killed by the kernel if one text takes it more than ten seconds of processor time.
"""

import base64
import contextlib
import random
import resource
import sys
from collections.abc import Callable

from sandbox.execution import Error, Execution, Status
from sandbox.guest.names import meant
from sandbox.loop import fence, tool
from sandbox.loop.hints import hints
from sandbox.loop.interpreter import Facts
from sandbox.loop.told import told, user_frames
from sandbox.remote import File
from sandbox.traces.secrets import Secrets

LENGTH = 100_000
SECONDS = 10
"""Hundreds of times what is needed where time grows with length; hours would be needed where it grows faster."""

_FACTS = Facts("3.11.7", {"pandas": "3.1.1", "numpy": "2.4.6"}, 512, 256, 30)
_FILES = tuple(File(f"{'data' * 20}/{'column' * 20}{n}.csv", n, 0.0) for n in range(5000))
_SECRETS = Secrets(["correct horse battery", "a-a-a-a-b"])


def _failed(name: str, value: str, traceback: str = "") -> Execution:
    return Execution("e", "s", Status.ERROR, error=Error(name, value, traceback), execution_count=1)


def _code(text: str, *, whole: bool = False) -> None:
    with contextlib.suppress(tool.Unusable):
        tool.code_of(text, whole=whole)


def _hints(text: str) -> None:
    said = (
        *(("SyntaxError", "invalid syntax"), ("AttributeError", "'NoneType' object has no attribute 'x'")),
        *(("FileNotFoundError", f"No such file or directory: '{text}'"), ("ModuleNotFoundError", f"'{text}'")),
        *(("ModuleNotFoundError", f"No module named '{text}"), ("KeyError", text), ("ValueError", text), (text, text)),
        *(("MemoryError", ""), ("TypeError", f"{text}() got an unexpected keyword argument '{text}'")),
        *(("ValueError", f"could not convert string to float: '{text}"), ("ImportError", text)),
    )
    for name, value in said:
        hints(_failed(name, value, f'  File "/tmp/{text}", line {text}'), text, _FACTS, _FILES)
    for status in Status:
        hints(Execution("e", "s", status), text, _FACTS)


def _told(text: str) -> None:
    results = ({"text/html": text}, {"text/plain": "<x object>", "text/html": text}, {"text/plain": text})
    told(Execution("e", "s", Status.OK, "", text, text, results), _FACTS, code=text, pictures=True)
    told(_failed("E", "x", text), _FACTS, code="", pictures=True)
    told(_failed("E", text, f"E: {text}"), _FACTS, code="", pictures=True)
    told(Execution("e", "s", Status.TIMEOUT, error=Error("K", "", text)), _FACTS, code="", pictures=True)


READERS: dict[str, Callable[[str], object]] = {
    "hints": _hints,
    "told": _told,
    "frames": user_frames,
    "code bare": _code,
    "code complete only": lambda text: _code(text, whole=True),
    "code in JSON that breaks off": lambda text: _code('{"code": "' + text),
    "code in JSON that is none": lambda text: _code('{"query": ' + text + "}"),
    "code in quotes": lambda text: _code("{'code': '''" + text + "''' }"),
    "code in quotes that break off": lambda text: _code("{'code': '" + text + "x }"),
    "code in a fence": lambda text: _code("```python\n" + text + "x"),
    "program bare": fence.program,
    "program complete only": lambda text: fence.program(text, whole=True),
    "program in an open fence": lambda text: fence.program("```python\n" + text),
    "program in a fence": lambda text: fence.program("```\n" + text + "\n```"),
    "program in a string in a fence": lambda text: fence.program('```python\nx = """\n' + text + '\n"""\n```'),
    "program in a call": lambda text: fence.program('{"name": "run_python", "arguments": "' + text),
    "secrets": _SECRETS.blot,
    "secrets after a name": lambda text: _SECRETS.blot("password" + text + "= x"),
    "secrets in JSON": lambda text: _SECRETS.blot_json('{"code": "' + text + '"}'),
    "secrets in values": lambda text: _SECRETS.blot_all({"password": [text]}),
    "meant": meant,
}

_UNITS = (
    *(" ", "\n", "\t", "-", '"', "'", "`", "~", "\\", "<", ">", "{", "}", "[", "]", "(", ",", ":", "=", ".", "1", "a"),
    *(" \n", "\n ", ", ", "a-", "a.", "a b ", "a=", "x = 1\n", "\\n", '\\"', '\\\\"', '""" ', "'''\n", "{}", '{"a":'),
    *(
        "```\n",
        "~~~\n",
        "```python\n",
        '```python\n"""\n```\n',
        "````\n```\n",
        "> ```\n",
        "``` `\n",
        "~~~ ~",
        "<a ",
        "<>",
    ),
    *(
        "pip ",
        "!  ",
        "% \n",
        "python3 ",
        "\n!pip ",
        "x = inplace ",
        "inplace = ",
        "[for",
        "open(",
        "', ",
        "File ",
        "name '",
    ),
    *('  File "/tmp/', "  Cell In[1], line 1\n", "Caused by E: x\n", "  | ", " (/opt/venv/", "KeyboardInterrupt \n"),
    *("(Cell In[1], line ", "<title>", "all of it is in /mnt/data/.outputs/", "password ", "password=", "secret\\"),
    *(
        "api_key:'",
        "-eyJabcdefgh",
        "eyJabcdefgh.",
        "bearer ",
        "bearer",
        "sk-",
        "-sk-",
        "AKIA",
        "a://",
        "a://b:",
        "a://b:c",
    ),
    *("-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "PRIVATE KEY", "-----BEGIN A PRIVATE KEY-----a-", "correct horse "),
)


def texts() -> dict[str, str]:
    """By what they consist of."""
    found = {repr(unit): (unit * LENGTH)[:LENGTH] for unit in _UNITS}
    seed = random.Random(0)
    data = seed.randbytes(LENGTH * 3 // 4)
    found["base64"] = base64.b64encode(data).decode()
    found["base64 for URLs"] = base64.urlsafe_b64encode(data).decode()
    found["any of them"] = "".join(seed.choices(_UNITS, k=LENGTH // 6))[:LENGTH]
    found["fences of all lengths"] = "".join("`" * n + "\n" for n in range(540, 3, -1))
    return found


def main(reader: str) -> None:
    for name, text in texts().items():
        print(name, flush=True)
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, resource.RLIM_INFINITY))
        READERS[reader](text)


if __name__ == "__main__":
    main(sys.argv[1])
