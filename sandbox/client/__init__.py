"""The client of a `sandbox serve`, for code that blocks and for code that awaits.

    with Client("http://127.0.0.1:8000") as client:
        with client.session() as session:
            for event in session.stream("print(6 * 7)"):
                ...

A program's failure is an `Execution` with a status; ours raises from `sandbox.errors`, here as in the server. What
can be repeated is repeated: every POST bears an Idempotency-Key, so that one which was cut off is answered with what
its first attempt made, and a cut stream goes on after the last event that came.

`Client` and `AsyncClient` only do input and output. What is asked (`requests`), how an answer is read (`values`,
`problems`), when to try again (`retries`) and how events are put together (`events`) are values and pure functions.
"""

from sandbox.client.asynchronous import AsyncClient, AsyncSession
from sandbox.client.blocking import Client, Session
from sandbox.client.events import Event
from sandbox.client.values import ExecutionRecord, File, ImageInfo, SessionInfo, Started
from sandbox.execution import Artifact, Error, Execution, Result, Status, Stream, Truncated

__all__ = [
    "Artifact",
    "AsyncClient",
    "AsyncSession",
    "Client",
    "Error",
    "Event",
    "Execution",
    "ExecutionRecord",
    "File",
    "ImageInfo",
    "Result",
    "Session",
    "SessionInfo",
    "Started",
    "Status",
    "Stream",
    "Truncated",
]
