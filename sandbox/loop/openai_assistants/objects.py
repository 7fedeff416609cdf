"""What there is, as JSON. Every field that the vendor's specification requires is in it, most of them null at first."""

from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.loop.messages import Usage

ENDED = frozenset({"cancelled", "failed", "completed", "incomplete", "expired"})
"""Statuses of a run in which it stays."""


def assistant(asked: Mapping[str, Any], *, id: str, now: int) -> dict[str, Any]:
    """asked: the fields of a request."""
    return {
        "id": id,
        "object": "assistant",
        "created_at": now,
        "name": asked.get("name"),
        "description": asked.get("description"),
        "model": asked["model"],
        "instructions": asked.get("instructions"),
        "tools": asked.get("tools") or [],
        "tool_resources": asked.get("tool_resources") or {},
        "metadata": asked.get("metadata") or {},
        "temperature": asked.get("temperature"),
        "top_p": asked.get("top_p"),
        "response_format": asked.get("response_format") or "auto",
        "reasoning_effort": asked.get("reasoning_effort"),
    }


def thread(asked: Mapping[str, Any], *, id: str, now: int) -> dict[str, Any]:
    """asked: the fields of a request."""
    return {
        "id": id,
        "object": "thread",
        "created_at": now,
        "metadata": asked.get("metadata") or {},
        "tool_resources": asked.get("tool_resources") or {},
    }


def message(
    role: str,
    content: Sequence[Mapping[str, Any]],
    *,
    id: str,
    thread_id: str,
    now: int,
    status: str = "completed",
    assistant_id: str | None = None,
    run_id: str | None = None,
    attachments: Sequence[Mapping[str, Any]] = (),
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One of the user's, or of an assistant's run."""
    return {
        "id": id,
        "object": "thread.message",
        "created_at": now,
        "thread_id": thread_id,
        "status": status,
        "incomplete_details": None,
        "completed_at": now if status == "completed" else None,
        "incomplete_at": None,
        "role": role,
        "content": list(content),
        "assistant_id": assistant_id,
        "run_id": run_id,
        "attachments": list(attachments),
        "metadata": dict(metadata or {}),
    }


def run(
    asked: Mapping[str, Any], assistant: Mapping[str, Any], *, id: str, thread_id: str, now: int, expires_at: int
) -> dict[str, Any]:
    """A run that is queued. asked: the fields of a request; what they leave out is the assistant's."""

    def chosen(name: str) -> Any:
        value = asked.get(name)
        return assistant.get(name) if value is None else value

    instructions = [chosen("instructions"), asked.get("additional_instructions")]
    calling_in_parallel = asked.get("parallel_tool_calls")
    return {
        "id": id,
        "object": "thread.run",
        "created_at": now,
        "thread_id": thread_id,
        "assistant_id": assistant["id"],
        "status": "queued",
        "required_action": None,
        "last_error": None,
        "expires_at": expires_at,
        "started_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "incomplete_details": None,
        "model": chosen("model"),
        "instructions": "\n\n".join(text for text in instructions if text),
        "tools": chosen("tools"),
        "metadata": asked.get("metadata") or {},
        "usage": None,
        "temperature": chosen("temperature"),
        "top_p": chosen("top_p"),
        "max_prompt_tokens": asked.get("max_prompt_tokens"),
        "max_completion_tokens": asked.get("max_completion_tokens"),
        "truncation_strategy": asked.get("truncation_strategy") or {"type": "auto", "last_messages": None},
        "response_format": chosen("response_format"),
        "tool_choice": asked.get("tool_choice") or "auto",
        "parallel_tool_calls": True if calling_in_parallel is None else calling_in_parallel,
        "reasoning_effort": chosen("reasoning_effort"),
    }


def step(run: Mapping[str, Any], details: Mapping[str, Any], *, id: str, now: int) -> dict[str, Any]:
    """One that is in progress. details: with the `type` that is the step's own."""
    return {
        "id": id,
        "object": "thread.run.step",
        "created_at": now,
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "type": details["type"],
        "status": "in_progress",
        "step_details": details,
        "last_error": None,
        "expired_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "metadata": {},
        "usage": None,
    }


def ended(thing: Mapping[str, Any], how: str, now: int, error: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A run or a step that ended so; for `incomplete` there is no field with the time."""
    times = {} if how == "incomplete" else {f"{how}_at": now}
    return {**thing, "status": how, **times, "last_error": error}


def cut_short(message: Mapping[str, Any], reason: str, now: int) -> dict[str, Any]:
    """A message that stays incomplete."""
    return {**message, "status": "incomplete", "incomplete_details": {"reason": reason}, "incomplete_at": now}


def counted(usage: Usage) -> dict[str, int]:
    """Tokens of a run or a step."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
