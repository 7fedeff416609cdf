"""Models that answer as a script says, in this process: a double of `Models` for tests of what lies above it."""

import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from sandbox.loop.attempt import Attempt
from sandbox.loop.messages import Delta, Message, Reply, Request, Text, ToolCall, Usage

Scene = Reply | Exception | Callable[[Request], Reply]


class ScriptedModels:
    """Gives these answers in order. What was asked is in `asked`."""

    def __init__(self, *scenes: Scene) -> None:
        self._scenes = list(scenes)
        self.asked: list[Request] = []
        self.open = 0
        """Streams that are neither at their end nor closed."""

    async def stream(self, request: Request, *, whole: bool) -> AsyncGenerator[Delta | Attempt | Reply, None]:
        """See `Models.stream`."""
        self.asked.append(request)
        self.open += 1
        try:
            scene = self._scenes.pop(0)
            if isinstance(scene, Exception):
                raise scene
            reply = scene if isinstance(scene, Reply) else scene(request)
            if not whole:
                for word in reply.message.text.split(" "):
                    yield Delta(word)
            yield Attempt("scripted", reply.model, "answered")
            yield reply
        finally:
            self.open -= 1


def says(text: str, *calls: ToolCall) -> Reply:
    """An answer with 10 tokens in and 5 out, for a cent."""
    parts = (*((Text(text),) if text else ()), *calls)
    return Reply(
        Message("assistant", parts),
        "tool_calls" if calls else "stop",
        Usage(10, 5),
        "scripted-1",
        upstream="scripted",
        cost=0.01,
    )


def runs(*programs: str, text: str = "") -> Reply:
    """The model wants these programs to run."""
    return says(text, *(a_call(program, f"call_{number}") for number, program in enumerate(programs, 1)))


def a_call(code: str, call_id: str = "call_1") -> ToolCall:
    return ToolCall(call_id, "run_python", json.dumps({"code": code}))


def cut_off(reply: Reply) -> Reply:
    """The same, ended by the most tokens that it may have."""
    return replace(reply, finish="length")
