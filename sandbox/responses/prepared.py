"""A request made ready: what the model is asked, and where its code will run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sandbox import containers
from sandbox.chats import Opening, Tool
from sandbox.keys import Owner
from sandbox.loop import openai_responses
from sandbox.loop.hosted import RUN_PYTHON
from sandbox.loop.interpreter import Facts
from sandbox.loop.messages import Function, Message, Request
from sandbox.loop.openai_responses import Asked
from sandbox.node import Node
from sandbox.remote import File
from sandbox.responses import earlier, mounts
from sandbox.responses.mounts import Mounts
from sandbox.store.rows import ObjectRow
from sandbox.traces import parts

_NAME = "auto"
"""Of a container that nobody has named."""
_LINKING = (
    "Where you speak of a file that is for the user, link it, as in [sales.csv](sandbox:/mnt/data/sales.csv); nothing "
    "else makes it one that the user can get."
)


def _function(facts: Facts, files: Sequence[File]) -> Function:
    """`run_python`, for users who get at files through links alone."""
    function = RUN_PYTHON.function(facts, files)
    return replace(function, description=f"{function.description}\n{_LINKING}")


_TOOLS = (replace(RUN_PYTHON, function=_function),)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request made ready."""

    asked: Asked
    items: tuple[Mapping[str, Any], ...]
    """The input as it is listed."""
    messages: tuple[Message, ...]
    """The same as the model gets it."""
    request: Request
    tool: Tool | None


async def prepare(node: Node, owner: Owner, asked: Asked) -> Prepared:
    """Look up all that it names, and put files into the container that it names.

    Raises `ObjectMissing` for the response before, `FileMissing`, `ContainerMissing`, `ContainerExpired`,
    `InvalidField`, and what `Node.put_file` raises.
    """
    chain = await earlier.chain(node, owner, asked.previous)
    items = await earlier.remembered(node, owner, asked.items)
    tool, mounted = None, None
    if asked.interpreter is not None:
        mounted = await Mounts.of(node, owner, chain, asked, items)
        tool = await _tool(node, owner, asked, chain, items, mounted)
    messages = openai_responses.messages(items, await mounts.shown(node, owner, items, mounted))
    before = (parts.message_from_json(told) for row in chain for told in row.body["said"])
    conversation = (*before, *messages)
    openai_responses.check_answered(conversation)
    if asked.instructions:
        conversation = (Message.of("system", asked.instructions), *conversation)
    request = Request(
        model=asked.model,
        messages=conversation,
        functions=asked.functions,
        tool_choice=asked.tool_choice,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        extra=asked.extra,
    )
    return Prepared(asked, items, messages, request, tool)


async def _tool(
    node: Node,
    owner: Owner,
    asked: Asked,
    chain: tuple[ObjectRow, ...],
    items: tuple[Mapping[str, Any], ...],
    mounted: Mounts,
) -> Tool:
    wanted = asked.interpreter
    assert wanted is not None
    memory_mb = containers.memory_mb(node, wanted.memory_limit, f"{wanted.field}.container.memory_limit")
    session_id: str | None
    if wanted.container is not None:
        session_id, lost = (await containers.usable(node, owner, wanted.container)).id, False
    else:
        session_id, lost = await earlier.session_id(node, owner, earlier.container_ids(chain, items))
    if session_id is not None:
        await mounted.put(session_id)
    opening = Opening(
        memory_mb=memory_mb,
        idle_timeout_s=containers.idle_timeout(None),
        files=mounted.uploads,
        family=containers.FAMILY,
        metadata={"name": _NAME},
    )
    return Tool(session_id=session_id, opening=opening, executions=asked.max_tool_calls, lost=lost, tools=_TOOLS)
