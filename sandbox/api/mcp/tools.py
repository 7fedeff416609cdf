"""The tools: what they take, what they give, and what is true of them. A client is shown this and calls `calls`."""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

from mcp.types import Tool, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from sandbox.errors import InvalidRequest
from sandbox.execution import Status
from sandbox.loop import tool
from sandbox.loop.interpreter import Facts

READ_BYTES = 32_768
MOST_READ_BYTES = 1 << 20
_SESSION = (
    "A session to use: the session_id of an earlier result. Without one it is this connection's own, or a new one "
    "where the protocol knows no connections."
)
SessionId = Annotated[str | None, Field(max_length=64, description=_SESSION)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096, description="Below /mnt/data, such as data/a.csv.")]


class _In(BaseModel):
    """Arguments. Numbers may come as text, because models write them."""

    model_config = ConfigDict(extra="forbid")

    session_id: SessionId = None

    @field_validator("session_id")
    @classmethod
    def _none_is_none(cls, value: str | None) -> str | None:
        return value or None  # models fill in what they need not


class RunPython(_In):
    """Arguments of `run_python`."""

    code: Annotated[str, Field(description="A complete piece of Python, without markdown.")]
    timeout_s: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="Seconds after which it is interrupted.")
    ] = None


class UploadFile(_In):
    """Arguments of `upload_file`."""

    path: FilePath
    text: Annotated[str | None, Field(description="The contents, when they are text.")] = None
    content_base64: Annotated[str | None, Field(description="The contents in base64, when they are not.")] = None

    def content(self) -> bytes:
        """Raises `InvalidRequest`."""
        if (self.text is None) == (self.content_base64 is None):
            raise InvalidRequest("give either text or content_base64")
        try:
            if self.text is not None:
                return self.text.encode()
            return base64.b64decode(self.content_base64 or "", validate=True)
        except UnicodeError:
            raise InvalidRequest("the text has half a surrogate pair; send the bytes as content_base64") from None
        except (binascii.Error, ValueError):
            raise InvalidRequest("content_base64 is not base64; encode the file's bytes") from None


class ListFiles(_In):
    """Arguments of `list_files`."""


class ReadFile(_In):
    """Arguments of `read_file`."""

    path: FilePath
    offset: Annotated[int, Field(ge=0, description="The first byte that is wanted.")] = 0
    length: Annotated[
        int, Field(ge=1, le=MOST_READ_BYTES, description="Most bytes. The result's next_offset gets the rest.")
    ] = READ_BYTES


class CloseSession(_In):
    """Arguments of `close_session`."""


class ErrorOut(BaseModel):
    """What the program raised."""

    name: str
    value: str
    traceback: str


class ArtifactOut(BaseModel):
    """A file that the program made or changed."""

    path: str
    size: int
    mime: str
    change: Annotated[str, Field(description="created or changed.")]
    uri: Annotated[str, Field(description="Of the resource with its contents.")]


class TruncatedOut(BaseModel):
    """What is not in here: characters or bytes of text, and results."""

    stdout: int
    stderr: int
    results: int


class RunOut(BaseModel):
    """What `run_python` gives. Long text has its middle cut out."""

    session_id: Annotated[str, Field(description="Send it with the next call to go on in the same session.")]
    execution_id: str
    status: Status
    reason: Annotated[str, Field(description="Words where the status alone does not say enough.")]
    stdout: str
    stderr: str
    results: Annotated[list[str], Field(description="Values and tables that were shown, as text; figures are images.")]
    error: ErrorOut | None
    artifacts: list[ArtifactOut]
    removed: Annotated[list[str], Field(description="Files that it deleted.")]
    state_lost: Annotated[bool, Field(description="Variables of earlier calls are gone. Files are not.")]
    truncated: TruncatedOut
    duration_ms: float


class FileOut(BaseModel):
    """A file in /mnt/data."""

    path: str
    size: int
    uri: str


class UploadOut(FileOut):
    """What `upload_file` gives."""

    session_id: str


class ListOut(BaseModel):
    """What `list_files` gives."""

    session_id: Annotated[str | None, Field(description="Null where there is no session yet.")]
    files: list[FileOut]
    more: Annotated[int, Field(description="How many files are not in the list.")]


class ReadOut(BaseModel):
    """What `read_file` gives."""

    session_id: str
    path: str
    mime: str
    size: Annotated[int, Field(description="Of the whole file, in bytes.")]
    offset: Annotated[int, Field(description="Of the first byte that is here.")]
    next_offset: Annotated[int | None, Field(description="What to ask for next; null at the end.")]
    text: Annotated[str | None, Field(description="Null where it is not text: then it is an image or a resource.")]


class CloseOut(BaseModel):
    """What `close_session` gives."""

    session_id: str | None


Arguments = RunPython | UploadFile | ListFiles | ReadFile | CloseSession
ARGUMENTS: Mapping[str, type[Arguments]] = {
    tool.NAME: RunPython,
    "upload_file": UploadFile,
    "list_files": ListFiles,
    "read_file": ReadFile,
    "close_session": CloseSession,
}
"""Every tool and what it takes."""
_OUT: Mapping[str, type[BaseModel]] = {
    tool.NAME: RunOut,
    "upload_file": UploadOut,
    "list_files": ListOut,
    "read_file": ReadOut,
    "close_session": CloseOut,
}
_TITLES = {
    tool.NAME: "Run Python",
    "upload_file": "Upload a file",
    "list_files": "List files",
    "read_file": "Read a file",
    "close_session": "Close the session",
}
_DESCRIPTIONS = {
    "upload_file": "Store a file in the session's /mnt/data, where run_python finds it; an older one of that path is "
    "replaced. Give text, or content_base64 for anything else.",
    "list_files": "List the files in the session's /mnt/data, with their sizes in bytes.",
    "read_file": "Read a file of the session's /mnt/data, or a part of it. Text comes as text, an image as an image, "
    "anything else as a resource.",
    "close_session": "End the session: its variables and files are gone, its memory is free. The next call without a "
    "session_id begins a new one.",
}


def tools(facts: Facts) -> list[Tool]:
    """All of them, `run_python` with the truth about its sandbox."""
    descriptions = {tool.NAME: tool.description(facts), **_DESCRIPTIONS}
    return [
        Tool(
            name=name,
            title=_TITLES[name],
            description=descriptions[name],
            input_schema=INPUT_SCHEMAS[name],
            output_schema=_OUTPUT_SCHEMAS[name],
            annotations=_annotations(name),
        )
        for name in ARGUMENTS
    ]


def _annotations(name: str) -> ToolAnnotations:
    """No tool reaches anything but its session, which has no network. What may replace or delete a file says so."""
    if name in ("list_files", "read_file"):
        return ToolAnnotations(read_only_hint=True, open_world_hint=False)
    again = name in ("upload_file", "close_session")
    return ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=again, open_world_hint=False)


def _schema(model: type[BaseModel], mode: Any) -> dict[str, Any]:
    found = _without_titles(model.model_json_schema(mode=mode))
    assert isinstance(found, dict)
    found.pop("description", None)
    return found


def _without_titles(value: JsonValue) -> JsonValue:
    """pydantic makes one of each name: tokens without a meaning."""
    if isinstance(value, dict):
        return {
            key: _without_titles(each) for key, each in value.items() if key != "title" or not isinstance(each, str)
        }
    return [_without_titles(each) for each in value] if isinstance(value, list) else value


INPUT_SCHEMAS = {name: _schema(model, "validation") for name, model in ARGUMENTS.items()}
_OUTPUT_SCHEMAS = {name: _schema(model, "serialization") for name, model in _OUT.items()}
