"""What programs send to the Assistants API. Fields that are not named here are ignored, as the vendor's server does."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from sandbox.api.schemas import ID_PATTERN
from sandbox.loop.surrogates import encodable

Id = Annotated[str, Field(pattern=ID_PATTERN)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
_MOST_JSON = 1 << 20


def _plain(value: Any) -> Any:
    """What can be kept and told again: it can be encoded, and is not huge."""
    value = encodable(value, finite=True)
    if len(json.dumps(value)) > _MOST_JSON:
        raise ValueError(f"it has more than {_MOST_JSON} bytes")
    return value


_Json = dict[str, Any]
Plain = AfterValidator(_plain)
Tools = Annotated[list[_Json], Field(max_length=128), Plain]
Resources = Annotated[_Json, Plain]
Instructions = Annotated[str, Field(max_length=256_000)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=256)]
ResponseFormat = Literal["auto"] | Annotated[_Json, Plain]


class _In(BaseModel):
    model_config = ConfigDict(extra="ignore")

    def given(self) -> dict[str, Any]:
        """The fields that came."""
        return self.model_dump(exclude_unset=True)


class _WithFiles(_In):
    file_ids: Any = None

    @field_validator("file_ids")
    @classmethod
    def _check_version(cls, value: Any) -> Any:
        if value:
            raise ValueError("this is of version 1; use tool_resources of an assistant, attachments of a message")
        return None


class AssistantChangesIn(_WithFiles):
    """An assistant's new fields."""

    model: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    name: Annotated[str | None, Field(max_length=256)] = None
    description: Annotated[str | None, Field(max_length=512)] = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    tool_resources: Resources | None = None
    metadata: Metadata | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None


class AssistantIn(AssistantChangesIn):
    """A new assistant."""

    model: Annotated[str, Field(min_length=1, max_length=512)]


class MetadataIn(_In):
    """What can be changed of a message or a run."""

    metadata: Metadata | None = None


class MessageIn(_WithFiles):
    """A new message."""

    role: Literal["user", "assistant"]
    content: str | Annotated[list[_Json], Field(max_length=1000), Plain]
    attachments: Annotated[list[_Json], Field(max_length=20), Plain] | None = None
    metadata: Metadata | None = None


Messages = Annotated[list[MessageIn], Field(max_length=1000)]
"""More of them no model is told."""


class ThreadChangesIn(MetadataIn):
    """A thread's new fields."""

    tool_resources: Resources | None = None


class ThreadIn(ThreadChangesIn):
    """A new thread."""

    messages: Messages | None = None


class TruncationIn(_In):
    """How much of the thread the model is told."""

    type: Literal["auto", "last_messages"]
    last_messages: Annotated[int | None, Field(ge=1)] = None


class _RunIn(_In):
    assistant_id: Id
    model: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    tool_choice: Annotated[Any, Plain] = None
    metadata: Metadata | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    max_prompt_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    truncation_strategy: TruncationIn | None = None
    response_format: ResponseFormat | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    stream: bool | None = None

    def given(self) -> dict[str, Any]:
        """The fields that came, and all of the truncation strategy."""
        given = super().given()
        if self.truncation_strategy is not None:
            given["truncation_strategy"] = self.truncation_strategy.model_dump()
        return given


class RunIn(_RunIn):
    """A new run of a thread."""

    additional_instructions: Instructions | None = None
    additional_messages: Messages | None = None


class ThreadAndRunIn(_RunIn):
    """A new thread with its first run."""

    thread: ThreadIn | None = None
    tool_resources: Resources | None = None


class ToolOutputIn(_In):
    """What a function of the caller's has given."""

    tool_call_id: str
    output: str = ""


class ToolOutputsIn(_In):
    """What all of them have given."""

    tool_outputs: Annotated[list[ToolOutputIn], Field(max_length=1000)]
    stream: bool | None = None
