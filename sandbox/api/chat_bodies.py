"""The JSON of Chat Completions, in and out, as `schemas` has that of our own routes."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox.loop.messages import MOST_MESSAGES


class ChatIn(BaseModel):
    """A request as OpenAI's Chat Completions has it. What is not named here goes on as it is."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "gpt-5-mini",
                    "messages": [{"role": "user", "content": "What is the 30th Fibonacci number?"}],
                    "tools": [{"type": "code_interpreter"}],
                }
            ]
        },
    )

    model: Annotated[str, Field(min_length=1, max_length=512, description="One of `GET /v1/models`.")]
    messages: Annotated[
        list[dict[str, Any]], Field(min_length=1, max_length=MOST_MESSAGES, description="What was said so far.")
    ]
    tools: Annotated[
        list[dict[str, Any]] | None,
        Field(max_length=1000, description="`code_interpreter`, and functions of the caller's own."),
    ] = None
    stream: Annotated[bool | None, Field(description="Answer with server-sent events.")] = None
    stream_options: Annotated[
        dict[str, Any] | None, Field(description="`include_usage`: one more chunk at the end.")
    ] = None


class ChatOut(BaseModel):
    """A completion."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "chatcmpl-5f0c2d4e8a9b4c6d8e0f1a2b3c4d5e6f",
                    "object": "chat.completion",
                    "created": 1795000000,
                    "model": "gpt-5-mini",
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": "It is 832040.", "refusal": None},
                            "logprobs": None,
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960},
                }
            ]
        }
    )

    id: str
    object: Literal["chat.completion"]
    created: Annotated[int, Field(description="Seconds since the epoch.")]
    model: str
    choices: list[dict[str, Any]]
    usage: Annotated[dict[str, Any] | None, Field(description="Of all turns together.")]
    sandbox: Annotated[
        dict[str, Any] | None,
        Field(
            description="Of a run of the code interpreter: `trace_id`, `session_id`, `ending`, `turns`, `failures`, "
            "`cost_usd`, `seconds`, and `executions`, each an Execution with its `code` and `call_id`."
        ),
    ] = None


class ModelOut(BaseModel):
    """A model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "gpt-5-mini", "object": "model", "created": 0, "owned_by": "openai"}],
        }
    )

    id: str
    object: Literal["model"]
    created: Annotated[int, Field(description="Always 0: nobody here knows.")]
    owned_by: Annotated[str, Field(description="The upstream, by its name in the settings.")]


class ModelsOut(BaseModel):
    """All models."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [{"id": "gpt-5-mini", "object": "model", "created": 0, "owned_by": "openai"}],
                }
            ],
        }
    )

    object: Literal["list"]
    data: list[ModelOut]
