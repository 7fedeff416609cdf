"""Models' servers that answer as a script says: OpenAI's Chat Completions and Anthropic's Messages.

::

    async with Scripted("openai", runs("print(6 * 7)"), Says("It is 42.")) as server:
        ...  # any client at server.url; server.asked is what it wanted

    with Scripted("anthropic", lambda asked: Says(asked.body["model"])) as server:  # in a thread
        ...

Faults are scenes, too: `busy(retry_after=2)`, `Fails(500)`, `Breaks("cut")`, `Breaks("stall")`, `Silent()`, `PAGE`.
"""

from tests.upstreams.script import (
    PAGE,
    Asked,
    Breaks,
    Call,
    Fails,
    Raw,
    Says,
    Scene,
    Script,
    Silent,
    Unspoken,
    busy,
    fenced,
    runs,
)
from tests.upstreams.server import Scripted

__all__ = [
    "PAGE",
    "Asked",
    "Breaks",
    "Call",
    "Fails",
    "Raw",
    "Says",
    "Scene",
    "Script",
    "Scripted",
    "Silent",
    "Unspoken",
    "busy",
    "fenced",
    "runs",
]
