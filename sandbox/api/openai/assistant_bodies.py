"""What programs send to the Assistants API. Fields that are not named here are ignored, as the vendor's server does."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sandbox.api.schemas import ID_PATTERN

Id = Annotated[str, Field(pattern=ID_PATTERN)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Tools = Annotated[list[dict[str, Any]], Field(max_length=128)]
Instructions = Annotated[str, Field(max_length=256_000)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=256)]
ResponseFormat = Literal["auto"] | dict[str, Any]


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
    tool_resources: dict[str, Any] | None = None
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
    content: str | list[dict[str, Any]]
    attachments: list[dict[str, Any]] | None = None
    metadata: Metadata | None = None


class ThreadChangesIn(MetadataIn):
    """A thread's new fields."""

    tool_resources: dict[str, Any] | None = None


class ThreadIn(ThreadChangesIn):
    """A new thread."""

    messages: list[MessageIn] | None = None


class TruncationIn(_In):
    """How much of the thread the model is told."""

    type: Literal["auto", "last_messages"]
    last_messages: Annotated[int | None, Field(ge=1)] = None


class _RunIn(_In):
    assistant_id: Id
    model: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    tool_choice: Any = None
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
    additional_messages: list[MessageIn] | None = None


class ThreadAndRunIn(_RunIn):
    """A new thread with its first run."""

    thread: ThreadIn | None = None
    tool_resources: dict[str, Any] | None = None


class ToolOutputIn(_In):
    """What a function of the caller's has given."""

    tool_call_id: str
    output: str = ""


class ToolOutputsIn(_In):
    """What all of them have given."""

    tool_outputs: list[ToolOutputIn]
    stream: bool | None = None
