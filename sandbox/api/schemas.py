"""The JSON that goes in and out. What goes in is checked here, once; what goes out is only described here.

Bodies out are built by `encode`, because a pydantic model per answer would cost more than the rest of the request.
A test holds the two against each other.

(Long, because it is the list of all bodies.)
"""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox.errors import InvalidRequest
from sandbox.node import Upload

ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
SOME_SESSION = "ses_5f0c2d4e8a9b4c6d8e0f1a2b3c4d5e6f"
SOME_EXECUTION = "exe_0a1b2c3d4e5f60718293a4b5c6d7e8f9"
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SOME_TIME = "2026-11-21T15:42:00.125Z"

Seconds = Annotated[float, Field(gt=0, le=86_400 * 30, allow_inf_nan=False)]
Megabytes = Annotated[int, Field(ge=1, le=1 << 20)]
ImageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class _In(BaseModel):
    """What a client sends: exactly this, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FileIn(_In):
    """A file to begin with: its bytes, or a file that is stored for the same key."""

    path: Annotated[str, Field(min_length=1, max_length=4096, description="Below `/mnt/data`, such as `data/a.csv`.")]
    content_base64: Annotated[
        str | None, Field(description="The bytes in base64.", json_schema_extra={"contentEncoding": "base64"})
    ] = None
    file_id: Annotated[str | None, Field(pattern=ID_PATTERN, description="The `id` of a stored file.")] = None

    def upload(self) -> Upload:
        """Raises `InvalidRequest`."""
        if (self.content_base64 is None) == (self.file_id is None):
            raise InvalidRequest(f"the file {self.path!r} needs either content_base64 or file_id")
        if self.content_base64 is None:
            return Upload(self.path, None, self.file_id)
        try:
            return Upload(self.path, base64.b64decode(self.content_base64, validate=True), None)
        except (binascii.Error, ValueError):
            raise InvalidRequest(f"content_base64 of the file {self.path!r} is not base64; encode its bytes") from None


Files = Annotated[list[FileIn], Field(max_length=100, description="Files that are there before the code runs.")]


class ExecutionIn(_In):
    """Code to run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "print(6 * 7)", "timeout_s": 10}]})

    code: Annotated[str, Field(description="Python; 1 MiB at most.")]
    timeout_s: Annotated[
        Seconds | None, Field(description="Seconds of wall clock; the default and the maximum are settings.")
    ] = None
    stream: Annotated[bool, Field(description="Answer with server-sent events instead of one JSON object.")] = False
    on_disconnect: Annotated[
        Literal["continue", "interrupt"],
        Field(description="What becomes of the execution when the client goes away before its end."),
    ] = "continue"


class RunIn(ExecutionIn):
    """Code to run in a fresh sandbox of its own."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"code": "print(6 * 7)"},
                {"code": "print(open('a.txt').read())", "files": [{"path": "a.txt", "content_base64": "aGk="}]},
            ]
        }
    )

    memory_mb: Annotated[
        Megabytes | None, Field(description="Memory cap in MiB; other than the default is slower.")
    ] = None
    image: Annotated[ImageName | None, Field(description="The image to run in; see `/v1/images`.")] = None
    files: Files = []


class SessionIn(_In):
    """A session to open; `{}` will do."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"memory_mb": 1024, "idle_timeout_s": 600, "metadata": {"user": "ann"}}]}
    )

    image: Annotated[ImageName | None, Field(description="The image to run in; see `/v1/images`.")] = None
    memory_mb: Annotated[
        Megabytes | None, Field(description="Memory cap in MiB; other than the default is slower.")
    ] = None
    idle_timeout_s: Annotated[
        Seconds | None, Field(description="Seconds after its last use at which the session expires.")
    ] = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue], Field(max_length=16, description="Words of yours that come back with it.")
    ] = {}
    files: Files = []


class ErrorOut(BaseModel):
    """What the program raised."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "KeyError",
                    "value": "'Prize'",
                    "traceback": "Traceback (most recent call last):\n  Cell In[1], line 3, in <module>\n"
                    "    df['Prize'].mean()\nKeyError: 'Prize'",
                    "looked_in": "columns of df: DataFrame",
                    "available": ["'Price'", "'Region'"],
                }
            ]
        }
    )

    name: str
    value: str
    traceback: str = Field(description="Without colour; the program's own frames first.")
    looked_in: str = Field("", description="Where a name or key was not found, if known, else empty.")
    available: list[str] = Field(
        [], description="What there is instead, as a program would write it; the nearest first, 30 at most."
    )


class ArtifactOut(BaseModel):
    """A file that the execution made or changed."""

    path: str
    size: int
    mime: str
    change: Literal["created", "changed"]


class TruncatedOut(BaseModel):
    """What was dropped: bytes of text, and rich results."""

    stdout: int
    stderr: int
    results: int


class ExecutionOut(BaseModel):
    """How an execution ended; or, with the status `running`, that it has not."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": SOME_EXECUTION,
                    "session_id": SOME_SESSION,
                    "status": "ok",
                    "reason": "",
                    "stdout": "42\n",
                    "stderr": "",
                    "results": [],
                    "error": None,
                    "artifacts": [],
                    "removed": [],
                    "execution_count": 1,
                    "duration_ms": 3.9,
                    "cpu_ms": 2.1,
                    "peak_memory_bytes": 34_603_008,
                    "truncated": {"stdout": 0, "stderr": 0, "results": 0},
                    "state_lost": False,
                    "created_at": _SOME_TIME,
                }
            ]
        }
    )

    id: str
    session_id: str
    status: Literal["ok", "error", "timeout", "interrupted", "oom", "killed", "cancelled", "running"]
    reason: str = Field(description="Words for a person where the status alone does not say enough, else empty.")
    stdout: str
    stderr: str
    results: list[dict[str, Any]] = Field(description="MIME bundles; binary content in base64.")
    error: ErrorOut | None
    artifacts: list[ArtifactOut]
    removed: list[str] = Field(description="Files that it deleted, by path.")
    execution_count: int | None
    duration_ms: float
    cpu_ms: float
    peak_memory_bytes: int
    truncated: TruncatedOut
    state_lost: bool = Field(description="The kernel had to be replaced: variables are gone, files are not.")
    created_at: datetime


class SessionOut(BaseModel):
    """A session."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": SOME_SESSION,
                    "status": "active",
                    "image": "python",
                    "memory_mb": 512,
                    "disk_mb": 256,
                    "soft_limits": [],
                    "timeout_s": 30,
                    "idle_timeout_s": 3600,
                    "metadata": {"user": "ann"},
                    "created_at": _SOME_TIME,
                    "last_used_at": _SOME_TIME,
                    "expires_at": "2026-11-21T16:42:00.125Z",
                    "ended_at": None,
                }
            ]
        }
    )

    id: str
    status: Literal["active", "closed", "expired"]
    image: str
    memory_mb: int
    disk_mb: int = Field(description="Size of its `/mnt/data` in MiB.")
    soft_limits: list[Literal["memory", "cpu"]] = Field(
        description="Limits that this server cannot hold at once, but only watch (`memory`) or not at all (`cpu`)."
    )
    timeout_s: float = Field(description="Of an execution that asks for no timeout.")
    idle_timeout_s: float
    metadata: dict[str, str]
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime | None = Field(description="Unless it is used before; null once it has ended.")
    ended_at: datetime | None


class FileOut(BaseModel):
    """A file in a session's `/mnt/data`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "file_9c1e7b52d3f84a06b1c2d3e4f5a6b7c8",
                    "path": "data/a.csv",
                    "size": 1024,
                    "mime": "text/csv",
                    "digest": _DIGEST,
                    "modified_at": _SOME_TIME,
                }
            ]
        }
    )

    id: str = Field(description="Empty while a running program has just written it, and when it cannot be stored.")
    path: str
    size: int
    mime: str
    digest: str = Field(description="SHA-256 in hex, which is also the ETag; empty when `id` is.")
    modified_at: datetime


class ImageOut(BaseModel):
    """An image's manifest: exactly what a program finds."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "python",
                    "digest": _DIGEST,
                    "lock_digest": _DIGEST,
                    "python": "3.11.7",
                    "libraries": {"numpy": "2.4.0", "pandas": "3.1.0"},
                    "fonts": ["WenQuanYi Micro Hei"],
                    "notes": [],
                    "built_at": "2026-11-21T14:12:00+00:00",
                }
            ]
        }
    )

    name: str
    digest: str = Field(description="SHA-256 of everything the image is built from.")
    lock_digest: str = Field(description="SHA-256 of its lock file.")
    python: str
    libraries: dict[str, str] = Field(description="Distribution to version.")
    fonts: list[str]
    notes: list[str]
    built_at: str


class HealthOut(BaseModel):
    """How the server is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ready", "ready": True, "reasons": [], "version": "0.1.0"}]}
    )

    status: Literal["ready", "degraded", "unready", "draining"] = Field(
        description="`degraded`: it takes work, but `reasons` say what is not as good as it should be."
    )
    ready: bool
    reasons: list[str]
    version: str


def _page(item: type[BaseModel]) -> dict[str, Any]:
    """A list of one, for an example."""
    extra = item.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    return {"data": extra["examples"], "has_more": False, "next": None}


class SessionsOut(BaseModel):
    """A page of sessions."""

    model_config = ConfigDict(json_schema_extra={"examples": [_page(SessionOut)]})

    data: list[SessionOut]
    has_more: bool
    next: str | None = Field(description="Send it as `after` to get the next page.")


class ExecutionsOut(BaseModel):
    """A page of executions."""

    model_config = ConfigDict(json_schema_extra={"examples": [_page(ExecutionOut)]})

    data: list[ExecutionOut]
    has_more: bool
    next: str | None = Field(description="Send it as `after` to get the next page.")


class FilesOut(BaseModel):
    """A page of a session's files, or all that were just uploaded, sorted by path."""

    model_config = ConfigDict(json_schema_extra={"examples": [_page(FileOut) | {"complete": True}]})

    data: list[FileOut]
    has_more: bool
    next: str | None = Field(description="Send it as `after` to get the next page.")
    complete: bool = Field(description="False when there are files that are on no page.")


class ImagesOut(BaseModel):
    """The images that are built here."""

    model_config = ConfigDict(json_schema_extra={"examples": [_page(ImageOut)]})

    data: list[ImageOut]
    has_more: bool
    next: str | None


class FieldProblem(BaseModel):
    """One thing in a request that is not as documented."""

    where: str
    what: str


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it. `code` is stable; `detail` says what to do next."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:sandbox:problem:session_missing",
                    "title": "Session missing",
                    "status": 404,
                    "detail": f"there is no session {SOME_SESSION}",
                    "code": "session_missing",
                    "request_id": "req_1f2e3d4c5b6a79880123456789abcdef",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retry_after: float | None = Field(None, description="Seconds; with 429 and 503.")
    name: str | None = Field(None, description="The limit that was reached; with 429.")
    limit: int | None = None
    remaining: int | None = None
    reset: float | None = Field(None, description="Seconds until all of the limit is free again.")
    errors: list[FieldProblem] | None = Field(None, description="With `invalid_request`.")
