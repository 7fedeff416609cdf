"""Faults as somebody else thinks that servers have them: llmock, a third party's double of both vendors."""

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.errors import UpstreamBusy, UpstreamError, UpstreamFailed, UpstreamRefused
from sandbox.loop.messages import Dialect
from tests.loop.test_upstreams import both, listen, turn, upstream

testing = pytest.importorskip("llmock.testing", reason="needs llmock")
scenarios = pytest.importorskip("llmock.scenarios", reason="needs llmock")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with testing.LLMockServer() as server:
        yield server


@both
async def test_text_and_tool_calls_are_read(dialect: Dialect, server: Any) -> None:
    call = scenarios.ToolCall("run_python", {"code": "print(1)"})
    server.state.scenarios.add(scenarios.Reply(text="Hello."), scenarios.Reply(tool_calls=(call,)))
    async with upstream(dialect, server.base_url(dialect)) as opened:
        assert (await turn(opened)).message.text == "Hello."
        reply = await turn(opened)
    assert [(each.name, each.arguments.replace(" ", "")) for each in reply.message.calls] == [
        ("run_python", '{"code":"print(1)"}')
    ]
    assert reply.finish == "tool_calls"
    assert reply.usage.output_tokens > 0


@both
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (scenarios.Fail(429, retry_after=2.0), UpstreamBusy),
        (scenarios.Fail(503), UpstreamBusy),
        (scenarios.Fail(529), UpstreamBusy),
        (scenarios.Fail(500), UpstreamFailed),
        (scenarios.Fail(401), UpstreamRefused),
        (scenarios.Fail(400, code="context_length_exceeded", message="Too long."), UpstreamRefused),
        (scenarios.StreamFault("disconnect", after_chunks=2), UpstreamFailed),
        (scenarios.StreamFault("truncate", after_chunks=2), UpstreamFailed),
        (scenarios.StreamFault("malformed", after_chunks=2), UpstreamFailed),
        (scenarios.StreamFault("stall", after_chunks=2, stall_seconds=2.0), UpstreamFailed),
    ],
)
async def test_every_fault_has_the_class_that_says_whether_to_try_again(
    dialect: Dialect, fault: Any, kind: type[UpstreamError], server: Any
) -> None:
    server.state.scenarios.add(scenarios.Reply(text="one two three four five six seven"), fault)
    silence_s = 0.5 if getattr(fault, "kind", "") == "stall" else 60.0
    async with upstream(dialect, server.base_url(dialect), silence_s=silence_s) as opened:
        with pytest.raises(kind) as told:
            await listen(opened, [])
    if isinstance(told.value, UpstreamBusy) and told.value.status == 429:
        assert told.value.retry_after == 2.0
    server.state.scenarios.clear()
