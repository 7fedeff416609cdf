"""The same failure as it is told in several styles."""

import base64
import json
from collections.abc import Mapping

from sandbox.execution import Execution, Status
from sandbox.loop.hints import hints
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Text
from sandbox.loop.told import told, user_frames
from sandbox.remote import File
from sandbox.session import Session
from tests.repair import Program, prepare

RAW_STYLES = ("jupyter", "jupyter, no colour", "format_exc")
STYLES = (*RAW_STYLES, "user frames", "ours")
"""Raw as ipykernel sends it; the same without colour; as a runner prints it; ours without and with all we add."""

_RAW = """
import base64 as _b, json as _j, linecache as _l, re as _r, sys as _s, traceback as _t
from IPython.core import ultratb as _u
_code = _b.b64decode({code!r}).decode()
_l.cache["/tmp/ipykernel_7/1234567.py"] = (len(_code), None, _code.splitlines(True), "/tmp/ipykernel_7/1234567.py")
def _run_user_code(_code):
    exec(compile(_code, "/tmp/ipykernel_7/1234567.py", "exec"), globals())
try:
    _run_user_code(_code)
except BaseException:
    _kind, _value, _tb = _s.exc_info()
    _format = _u.SyntaxTB if issubclass(_kind, SyntaxError) else _u.AutoFormattedTB
    _options = {{}} if _format is _u.SyntaxTB else {{"mode": "Context", "tb_offset": 2}}
    _text = _format(theme_name="linux", **_options).text(_kind, _value, [] if _format is _u.SyntaxTB else _tb)
    print("@@" + _j.dumps([_text, _r.sub(r"\\x1b\\[[0-9;]*m", "", _text), _t.format_exc()]))
"""
_DEAD = "The kernel appears to have died. It will restart automatically."


async def raw(session: Session, program: Program) -> tuple[str, str, str]:
    """What IPython and `format_exc` make of it; a fresh session. What no traceback is of is told as Jupyter does."""
    await prepare(session, program)
    code = base64.b64encode(program.code.encode()).decode()
    execution = await session.execute(_RAW.format(code=code), program.timeout)
    for line in execution.stdout.splitlines():
        if line.startswith("@@"):
            coloured, plain, formatted = json.loads(line[2:])
            return coloured, plain, formatted
    said = _DEAD if execution.error is None else execution.error.traceback
    return said, said, said


def ours(execution: Execution, program: Program, facts: Facts, files: list[File]) -> Mapping[str, str]:
    """The two that are ours."""
    [part] = told(execution, facts, files, code=program.code, pictures=False)
    assert isinstance(part, Text)
    frames = user_frames(execution.error.traceback, execution.execution_count) if execution.error else part.text
    added = hints(execution, program.code, facts, files)
    bare = "\n".join(line for line in part.text.splitlines() if not line.startswith("Hint: ")) if added else part.text
    return {"user frames": frames if execution.status is Status.ERROR else bare, "ours": part.text}
