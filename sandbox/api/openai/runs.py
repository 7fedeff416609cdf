"""Runs of the Assistants API's threads, and their steps."""

import contextlib
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from sandbox.api import encode, sse
from sandbox.api.openai.assistant_bodies import MetadataIn, RunIn, ThreadAndRunIn, ToolOutputsIn
from sandbox.api.openai.assistant_parts import RunId, StepId, ThreadId, Wanted, assistants_of
from sandbox.api.openai_errors import envelope
from sandbox.api.route import Route, owner_of
from sandbox.assistants import Begun, Log
from sandbox.loop.openai_assistants.objects import ENDED

router = APIRouter(route_class=Route, tags=["assistants"], include_in_schema=False)

_POLL = {"openai-poll-after-ms": "100"}
"""When the SDK's helpers ask again about a run that goes on; it would be a second. The answer costs a row."""
_CUT_OFF = "the server could not see this run to its end; look at the run, and begin another"


@router.post("/v1/threads/runs")
async def create_thread_and_run(request: Request, body: ThreadAndRunIn) -> Response:
    """A new thread with its first run."""
    runs, stream = assistants_of(request).runs, bool(body.stream)
    return _answer(await runs.create_with_thread(owner_of(request), body.given(), stream=stream), stream=stream)


@router.post("/v1/threads/{thread_id}/runs")
async def create_run(request: Request, thread_id: ThreadId, body: RunIn) -> Response:
    """A new one, while no other of the thread goes on."""
    runs, stream = assistants_of(request).runs, bool(body.stream)
    return _answer(await runs.create(owner_of(request), thread_id, body.given(), stream=stream), stream=stream)


@router.get("/v1/threads/{thread_id}/runs")
async def list_runs(request: Request, thread_id: ThreadId, part: Wanted) -> Response:
    """As they began."""
    return encode.answer(await assistants_of(request).runs.page(owner_of(request), thread_id, part))


@router.get("/v1/threads/{thread_id}/runs/{run_id}")
async def get_run(request: Request, thread_id: ThreadId, run_id: RunId) -> Response:
    """One."""
    run = await assistants_of(request).runs.get(owner_of(request), thread_id, run_id)
    return encode.answer(run, headers={} if run["status"] in ENDED else _POLL)


@router.post("/v1/threads/{thread_id}/runs/{run_id}")
async def update_run(request: Request, thread_id: ThreadId, run_id: RunId, body: MetadataIn) -> Response:
    """Its new metadata."""
    return encode.answer(await assistants_of(request).runs.update(owner_of(request), thread_id, run_id, body.metadata))


@router.post("/v1/threads/{thread_id}/runs/{run_id}/cancel")
async def cancel_run(request: Request, thread_id: ThreadId, run_id: RunId) -> Response:
    """The program that runs is interrupted."""
    return encode.answer(await assistants_of(request).runs.cancel(owner_of(request), thread_id, run_id))


@router.post("/v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs")
async def submit_tool_outputs(request: Request, thread_id: ThreadId, run_id: RunId, body: ToolOutputsIn) -> Response:
    """What the caller's functions have given; the run goes on."""
    runs, stream = assistants_of(request).runs, bool(body.stream)
    outputs = [each.model_dump() for each in body.tool_outputs]
    return _answer(await runs.submit(owner_of(request), thread_id, run_id, outputs, stream=stream), stream=stream)


@router.get("/v1/threads/{thread_id}/runs/{run_id}/steps")
async def list_steps(request: Request, thread_id: ThreadId, run_id: RunId, part: Wanted) -> Response:
    """As they began."""
    return encode.answer(await assistants_of(request).runs.steps(owner_of(request), thread_id, run_id, part))


@router.get("/v1/threads/{thread_id}/runs/{run_id}/steps/{step_id}")
async def get_step(request: Request, thread_id: ThreadId, run_id: RunId, step_id: StepId) -> Response:
    """One."""
    return encode.answer(await assistants_of(request).runs.step(owner_of(request), thread_id, run_id, step_id))


def _answer(begun: Begun, *, stream: bool) -> Response:
    return sse.Streamed(events(begun.log)) if stream else encode.answer(begun.run)


async def events(log: Log) -> AsyncGenerator[bytes, None]:
    """The stream, as it is said. Who leaves does not end the run."""
    async with contextlib.aclosing(log.follow()) as said:
        async for event in said:
            yield _event(event.name, encode.to_json(event.data))
    if log.cut_off:
        yield _event("error", encode.to_json(envelope(_CUT_OFF, "server_error")))
    yield _event("done", b"[DONE]")


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
