"""OpenAI's Chat Completions, with our code interpreter for whoever asks for it.

With `{"type": "code_interpreter"}` among the tools, the model's programs run here and the caller sees one completion;
what ran is in its field `sandbox`. Without it the request goes on to the model's server, through all controls.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from sandbox.api import encode, sse
from sandbox.api.chat_bodies import ChatIn, ChatOut, ModelOut, ModelsOut
from sandbox.api.openai_errors import documented, envelope, told
from sandbox.api.pump import Pump
from sandbox.api.route import Route, owner_of
from sandbox.api.visit import Visit
from sandbox.chats import Chat, Chats, Tool, resume
from sandbox.errors import InvalidRequest, SandboxError, UnknownModel
from sandbox.execution import as_json
from sandbox.loop import openai_chat
from sandbox.loop import tool as run_python
from sandbox.loop.events import Ending, Finished, Ran, Replied, Said
from sandbox.loop.messages import Delta, Message, Opaque, Reply, Text
from sandbox.loop.messages import Request as Asked
from sandbox.nearest import nearest

router = APIRouter(route_class=Route, tags=["chat"])

_TOOL = "code_interpreter"
_DONE = b"data: [DONE]\n\n"
_FINISH = {Ending.CALLS: "tool_calls", Ending.LENGTH: "length", Ending.FILTERED: "content_filter"}
_MOST_MS = 1 << 53
"""Beyond it a number of milliseconds is no exact one of seconds; what is too long is told where limits are known."""
_MEDIA = {sse.MEDIA_TYPE: {"schema": {"type": "string"}, "example": 'data: {"choices":[…]}\n\ndata: [DONE]\n\n'}}


def _chats(request: Request) -> Chats:
    chats: Chats = request.app.state.chats
    return chats


@router.post(
    "/v1/chat/completions",
    summary="Complete a chat",
    description='As OpenAI\'s. A tool `{"type": "code_interpreter"}` (with `timeout_ms` for each program, '
    "`sandbox_timeout_ms` for all, `session_id` for a session of yours) lets the model run Python here; what ran is in "
    "the field `sandbox` of the answer, and of the chunks of a stream. Functions are the caller's own. All other "
    "fields go to the model's server as they are.",
    operation_id="complete_chat",
    response_class=Response,
    responses={
        200: {"model": ChatOut, "content": _MEDIA, "description": "The completion, or its chunks."},
        **documented(404, 408, 409, 413, 415, 429, 502),
    },
)
async def complete_chat(request: Request, body: ChatIn) -> Response:
    """See the decorator."""
    chats = _chats(request)
    raw = body.model_dump(exclude_unset=True)
    asked, tool = _interpreter(openai_chat.request(raw))
    stream, counting = bool(body.stream), bool((body.stream_options or {}).get("include_usage"))
    if tool is None:
        head = {"id": f"chatcmpl-{Visit.of(request).request_id}", "created": int(time.time()), "model": asked.model}
        items = chats.pass_through(owner_of(request), asked, whole=not stream and not openai_chat.is_plural(asked))
        if stream:
            return await _streamed(_passed_chunks(items, head, counting=counting))
        return encode.answer(await sse.while_here(request.receive, _passed(items, head)))
    if asked.extra.get("n") not in (None, 1):
        raise InvalidRequest("n: a run of the code interpreter has one answer; leave n out")
    chat = await chats.begin(owner_of(request), asked, tool, whole=not stream)
    head = {"id": f"chatcmpl-{chat.trace_id.removeprefix('trc_')}", "created": int(time.time()), "model": asked.model}
    if stream:
        return await _streamed(_chunks(chat, head, counting=counting))
    return encode.answer(await sse.while_here(request.receive, _completed(chat, head)))


@router.get(
    "/v1/models",
    summary="List models",
    description="Those that are configured, and those that the models' servers say they have.",
    operation_id="list_models",
    responses={200: {"model": ModelsOut}, **documented()},
)
async def list_models(request: Request) -> Response:
    """See the decorator."""
    listed = await _chats(request).models.list()
    return encode.answer({"object": "list", "data": [_model(each.name, each.upstream) for each in listed]})


@router.get(
    "/v1/models/{model:path}",
    summary="Get a model",
    description="One of those that `list_models` lists.",
    operation_id="get_model",
    responses={200: {"model": ModelOut}, **documented(404)},
)
async def get_model(
    request: Request,
    model: Annotated[str, Path(description="Its name.", examples=["gpt-5-mini"])],
) -> Response:
    """See the decorator."""
    for each in await _chats(request).models.list():
        if each.name == model:
            return encode.answer(_model(each.name, each.upstream))
    raise UnknownModel(f"there is no model {model!r}; GET /v1/models lists those that there are")


def _model(name: str, upstream: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": upstream}


# The tool.


def _interpreter(asked: Asked) -> tuple[Asked, Tool | None]:
    """The request without our tool, and what of the tool is wanted. Raises `InvalidRequest`."""
    tools = asked.extra.get("tools", [])
    ours = [tool for tool in tools if tool.get("type") == _TOOL]
    if not ours:
        for tool in tools:
            if (kind := str(tool.get("type"))) != "function" and nearest(kind.replace("-", "_"), [_TOOL]):
                raise InvalidRequest(f"tools: there is no {kind!r}; did you mean {_TOOL}?")
        return asked, None
    if others := [str(tool.get("type")) for tool in tools if tool.get("type") != _TOOL]:
        raise InvalidRequest(f"tools: beside {_TOOL} there can be functions, and not {others[0]!r}")
    if any(function.name == run_python.NAME for function in asked.functions):
        raise InvalidRequest(f"tools: {run_python.NAME} is the name of the {_TOOL}'s own function; choose another")
    extra = {name: value for name, value in asked.extra.items() if name != "tools"}
    choice = asked.tool_choice
    chosen = extra.get("tool_choice")
    if isinstance(chosen, Mapping) and chosen.get("type") == _TOOL:
        del extra["tool_choice"]
        choice = run_python.NAME
    tool = ours[0]
    if unknown := sorted(tool.keys() - {"type", "timeout_ms", "sandbox_timeout_ms", "session_id"}):
        raise InvalidRequest(
            f"tools: {_TOOL} has no {unknown[0]!r} here; there are timeout_ms, sandbox_timeout_ms and session_id, and "
            "containers in the Responses API"
        )
    session_id = tool.get("session_id")
    if session_id is not None and not isinstance(session_id, str):
        raise InvalidRequest("tools: session_id must be text")
    wanted = Tool(_seconds(tool, "timeout_ms"), _seconds(tool, "sandbox_timeout_ms"), session_id)
    return replace(asked, extra=extra, tool_choice=choice), wanted


def _seconds(tool: Mapping[str, Any], name: str) -> float | None:
    value = tool.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MOST_MS:
        raise InvalidRequest(f"tools: {name} must be a number of milliseconds above 0, and not beyond all measure")
    return value / 1000


# A run of the loop.


async def _completed(chat: Chat, head: Mapping[str, Any]) -> dict[str, Any]:
    """The completion, once it is there."""
    executions = []
    async with contextlib.aclosing(chat.events()) as events:
        async for event in events:
            if isinstance(event, Ran):
                executions.append(_execution(event))
            elif isinstance(event, Finished):
                finished = event
    answer = openai_chat.answer(_reply(chat, finished), **head)
    return answer | {"sandbox": _summary(chat, finished) | {"executions": executions}}


async def _chunks(chat: Chat, head: Mapping[str, Any], *, counting: bool) -> AsyncGenerator[bytes, None]:
    """The completion as it comes."""
    writing = openai_chat.Writing(**head, include_usage=counting)
    words = _Words(hidden=chat.fenced)
    async with contextlib.aclosing(chat.events()) as events:
        async for event in events:
            if isinstance(event, Said):
                said = words.say(event.text)
            elif isinstance(event, Replied):
                said = words.turn()
            elif isinstance(event, Ran):
                said = ""
                for chunk in writing.note(sandbox={"execution": _execution(event)}):
                    yield _event(chunk)
            elif isinstance(event, Finished):
                said = words.rest(event)
            else:
                continue
            for chunk in writing.text(said) if said else ():
                yield _event(chunk)
            if isinstance(event, Finished):
                for chunk in writing.end(_reply(chat, event), sandbox=_summary(chat, event)):
                    yield _event(chunk)


class _Words:
    """What the caller sees of what the model says: turns are paragraphs, and fenced programs are not for reading."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._said = False
        self._between = False

    def say(self, text: str) -> str:
        if self._hidden:
            return ""
        if self._between and self._said:
            text = "\n\n" + text
        self._between, self._said = False, True
        return text

    def turn(self) -> str:
        self._between = True
        return ""

    def rest(self, finished: Finished) -> str:
        """The answer, if it has not been shown as it came."""
        return finished.answer.text if self._hidden else ""


def _reply(chat: Chat, finished: Finished) -> Reply:
    """The run as one reply of the model's: the answer, and of its calls the caller's own."""
    answer = finished.answer
    parts: list[Any] = [part for part in answer.parts if isinstance(part, Text | Opaque)]
    if finished.why is Ending.CALLS:
        theirs = [call for call in answer.calls if call.name in chat.functions]
        parts += resume.renamed(chat.trace_id, answer.calls, theirs)
    finish = _FINISH.get(finished.why, "stop")
    return Reply(Message("assistant", tuple(parts)), finish, finished.spent.usage, finished.model)  # type: ignore[arg-type]


def _summary(chat: Chat, finished: Finished) -> dict[str, Any]:
    spent = finished.spent
    return {
        "trace_id": chat.trace_id,
        "session_id": chat.session_id,
        "ending": finished.why.value,
        "turns": spent.turns,
        "failures": spent.failures,
        "cost_usd": spent.cost,
        "seconds": round(spent.seconds, 3),
    }


def _execution(event: Ran) -> dict[str, Any]:
    return {"call_id": event.call.id, "code": event.code, **as_json(event.execution)}


# A request that goes on to the model's server.


_Passed = AsyncGenerator[Delta | Reply, None]


async def _passed(passed: _Passed, head: Mapping[str, Any]) -> dict[str, Any]:
    # What a `Reply` has no place for is put together from the chunks, if they were asked for.
    gathering = openai_chat.Gathering(**head)
    async with contextlib.aclosing(passed) as items:
        async for item in items:
            if isinstance(item, Delta) and item.raw is not None:
                gathering.feed(item.raw)
            elif isinstance(item, Reply):
                reply = item
    return openai_chat.answer(reply, **head) if gathering.empty else gathering.answer(reply)


async def _passed_chunks(passed: _Passed, head: Mapping[str, Any], *, counting: bool) -> AsyncGenerator[bytes, None]:
    """The upstream's own chunks where it speaks this dialect, under our head; else made of what it says."""
    writing = openai_chat.Writing(**head, include_usage=counting)
    raw = False
    async with contextlib.aclosing(passed) as items:
        async for item in items:
            if isinstance(item, Reply):
                for chunk in writing.count(item) if raw else writing.end(item):
                    yield _event(chunk)
            elif item.raw is not None:
                raw = True
                if item.raw.get("choices"):  # the usage comes from us, whether the upstream counts or not
                    yield _event(writing.given(item.raw))
            elif item.text:
                for chunk in writing.text(item.text):
                    yield _event(chunk)


# The stream.


async def _streamed(pieces: AsyncGenerator[bytes, None]) -> Response:
    """A stream that has begun: what fails before the first piece is answered with a status of its own."""
    stack = contextlib.AsyncExitStack()
    pump = await stack.enter_async_context(Pump.running(pieces))
    try:
        await pump.begun(sse.HEARTBEAT_S)
    except BaseException:
        await stack.aclose()
        raise
    return sse.Streamed(_told(pump, stack))


async def _told(pump: Pump[bytes], stack: contextlib.AsyncExitStack) -> AsyncGenerator[bytes, None]:
    async with stack:
        try:
            async for piece in pump.read():
                yield piece
        except SandboxError as error:
            yield _event(told(error)[1])
        except Exception:
            yield _event(envelope("the server failed in the middle of its answer", "server_error"))
            raise
        else:
            yield _DONE


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + encode.to_json(value) + b"\n\n"
