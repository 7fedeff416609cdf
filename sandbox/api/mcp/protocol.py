"""The protocol's side: the SDK's server with our tools and resources, for the clients of one owner."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
)

from sandbox import logs, telemetry
from sandbox.api.mcp import calls
from sandbox.api.mcp.calls import Caller
from sandbox.api.mcp.desk import Desk
from sandbox.api.mcp.results import MOST_FILES
from sandbox.api.mcp.tools import ARGUMENTS, INPUT_SCHEMAS, tools
from sandbox.api.mcp.uris import TEMPLATE, parsed, uri_of
from sandbox.errors import InvalidRequest, NotFound, SandboxError
from sandbox.execution import mime_of
from sandbox.loop import tool

Context = ServerRequestContext[Any, Any]
INSTRUCTIONS = (
    "Runs Python in a sandbox of your own. Variables, imports and files in /mnt/data stay between calls of a session. "
    "Put data in with upload_file, run code with run_python, and read what it made through the links in its result or "
    "with read_file."
)
_LISTED_MS = 300_000
"""For how long a client may remember the tools: they change when an image is built anew."""
_log = logs.logger(__name__)


def create_server(
    desk: Desk,
    connection: Callable[[Context], str | None],
    *,
    about: Callable[[Context, str], None] = lambda _context, _session_id: None,
    transport: str,
) -> Server[Any]:
    """The server. connection: the id of the connection that a message came on, or None where there is no such thing.

    about: told which session a call is about. transport: `tcp` or `pipe`.
    """

    async def list_tools(_: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        with _failures():
            return ListToolsResult(tools=tools(await desk.sessions.facts()))

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        if params.name not in ARGUMENTS:
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name!r}; tools/list has them all")
        asked = context.meta is not None and "progress_token" in context.meta
        caller = Caller(
            connection(context),
            context.session.report_progress if asked else None,
            lambda session_id: about(context, session_id),
        )
        with _failures(), _traced(context, params.name, caller.connection, transport) as span:
            result = await calls.call(desk, caller, params.name, params.arguments or {})
            if span is not None:
                span.set(**{"error.type": "tool_error" if result.is_error else None})
            return result

    async def list_resources(context: Context, _: PaginatedRequestParams | None) -> ListResourcesResult:
        where = connection(context)
        with _failures():
            workbench = await desk.find(where, None) if where is not None else None
            files = await workbench.files() if workbench is not None else ()
            return ListResourcesResult(
                resources=[
                    Resource(
                        uri=uri_of(workbench.session_id, file.path),
                        name=file.path,
                        mime_type=mime_of(file.path),
                        size=file.size,
                    )
                    for file in files[:MOST_FILES]
                    if workbench is not None
                ]
            )

    async def list_templates(_: Context, __: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        words = "A file in the /mnt/data of a session. Results of run_python link to those that a program made."
        template = ResourceTemplate(uri_template=TEMPLATE, name="file", title="File of a session", description=words)
        return ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(_: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        with _failures():
            session_id, path = parsed(params.uri)
            return ReadResourceResult(contents=[await calls.resource(desk, session_id, path)])

    server = Server[Any](
        "sandbox",
        version=version("sandbox-engine"),
        title="Sandbox",
        instructions=INSTRUCTIONS,
        cache_hints={
            "tools/list": CacheHint(_LISTED_MS, "private"),
            "resources/templates/list": CacheHint(_LISTED_MS, "public"),
        },
        get_tool_input_schema=INPUT_SCHEMAS.get,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )
    server.middleware.clear()  # spans are ours: the SDK's would be a second one of the same call
    return server


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Ours become errors of the protocol, in words; what nobody foresaw stays in the log."""
    try:
        yield
    except MCPError:
        raise
    except SandboxError as error:
        theirs = isinstance(error, InvalidRequest | NotFound)
        raise MCPError(INVALID_PARAMS if theirs else INTERNAL_ERROR, str(error)) from error
    except Exception as error:
        _log.exception("request failed")
        raise MCPError(INTERNAL_ERROR, "the server failed; its log has more") from error


@contextlib.contextmanager
def _traced(context: Context, name: str, connection: str | None, transport: str) -> Iterator[telemetry.Span | None]:
    """A call as the conventions for MCP have it. An execution has a span already, which gets the attributes; then None.

    The caller's own span comes in `_meta`, and not in headers, which a stream shares with other calls.
    """
    attributes: dict[str, telemetry.Attribute | None] = {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": context.protocol_version,
        "mcp.session.id": connection if transport == "tcp" else None,
        "jsonrpc.request.id": str(context.request_id),
        "network.transport": transport,
    }
    meta: Mapping[str, Any] = context.meta or {}
    carrier = {key: str(meta[key]) for key in ("traceparent", "tracestate", "baggage") if key in meta} or None
    if name == tool.NAME:
        with telemetry.carried(carrier, **attributes):
            yield None
        return
    attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.type": "extension"}
    with telemetry.span(f"tools/call {name}", "server", carrier, **attributes) as span:
        yield span
