"""What a client can ask, as values: nothing here is sent."""

import base64
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from sandbox.client.values import (
    ExecutionRecord,
    File,
    ImageInfo,
    Page,
    SessionInfo,
    read_execution,
    read_file,
    read_image,
    read_page,
    read_record,
    read_session,
)
from sandbox.errors import InvalidCode, InvalidLimits, InvalidPath, InvalidRequest
from sandbox.execution import Execution

T = TypeVar("T")
Content = bytes | Path | BinaryIO
"""What can be uploaded: bytes, the path of a local file, or a file opened in binary mode."""
DEFAULT_URL = "http://127.0.0.1:8000"
PIECE = 1 << 20

_ANSWER_S = 60.0
"""Seconds without a byte after which an answer is no longer waited for."""
_SLACK_S = 90.0
"""What an execution's answer may take beyond its timeout: a turn to wait for, a sandbox to start, files to store."""
_LONGEST_EXECUTION_S = 3600.0
"""For one that leaves its timeout to the server."""
_SILENCE_S = 45.0
"""A stream has a heartbeat every 15 seconds; after three that did not come it is dead."""
_PAGE = 100
_PAGE_OF_FILES = 1000


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One call of the API."""

    method: str
    path: str
    """With its query, quoted."""
    read: Callable[[bytes], T]
    """The value in the body of a success."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    answer_s: float = _ANSWER_S
    """Seconds without a byte after which the answer is given up."""
    absent_is_done: bool = False
    """Whether a repetition that finds nothing has found what was wanted."""
    beyond_is_empty: bool = False
    """Whether what lies behind a file's end is read as nothing."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is and who asks. Raises `InvalidRequest` for what can be neither."""

    url: str
    api_key: str = field(repr=False)

    @classmethod
    def of(cls, url: str | None, api_key: str | None) -> "Address":
        """With defaults from `SANDBOX_SERVER` and `SANDBOX_API_KEY`. The `/v1` that vendors' SDKs want may be there."""
        environment = os.environ
        return cls(
            (url or environment.get("SANDBOX_SERVER") or DEFAULT_URL).rstrip("/").removesuffix("/v1"),
            environment.get("SANDBOX_API_KEY", "") if api_key is None else api_key,
        )

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018 - raises for one that is out of range
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query + parts.fragment
        except ValueError:
            usable = False
        if not usable:
            raise InvalidRequest(f"{self.url!r} is not the URL of a server; {DEFAULT_URL} would be one")
        if not (self.api_key.isascii() and self.api_key.isprintable()) or " " in self.api_key:
            raise InvalidRequest("the API key has characters that no key has; check how it was copied")

    @property
    def headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"User-Agent": "sandbox-client", **key}

    @property
    def local(self) -> bool:
        """Whether it is this machine, which no proxy of the environment stands before."""
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


def run(
    code: str, timeout: float | None, memory_mb: int | None, image: str | None, files: Mapping[str, bytes | Path] | None
) -> Request[Execution]:
    body = _given(code=_text(code), timeout_s=_checked(timeout), memory_mb=memory_mb, image=image, files=_files(files))
    return _post("/v1/run", body, _json(read_execution), _patience(timeout))


def open_session(
    memory_mb: int | None,
    image: str | None,
    idle_timeout: float | None,
    metadata: Mapping[str, str] | None,
    files: Mapping[str, bytes | Path] | None,
) -> Request[SessionInfo]:
    body = _given(memory_mb=memory_mb, image=image, idle_timeout_s=idle_timeout, files=_files(files))
    return _post("/v1/sessions", body | _given(metadata=metadata and dict(metadata)), _json(read_session), _SLACK_S)


def session(session_id: str) -> Request[SessionInfo]:
    return Request("GET", _session(session_id), _json(read_session))


def sessions(after: str | None) -> Request[Page[SessionInfo]]:
    return Request("GET", _listed("/v1/sessions", after), _json(partial(read_page, read=read_session)))


def image(name: str) -> Request[ImageInfo]:
    return Request("GET", f"/v1/images/{_name(name)}", _json(read_image))


def close(session_id: str) -> Request[SessionInfo]:
    return Request("DELETE", _session(session_id), _json(read_session))


def execute(session_id: str, code: str, timeout: float | None) -> Request[Execution]:
    body = _given(code=_text(code), timeout_s=_checked(timeout))
    return _post(f"{_session(session_id)}/executions", body, _json(read_execution), _patience(timeout))


def stream(session_id: str, code: str, timeout: float | None) -> Request[None]:
    """Answered by events; see `events.Following`."""
    body = _given(code=_text(code), timeout_s=_checked(timeout)) | {"stream": True}
    headers = {"Accept": "text/event-stream"}
    return _post(f"{_session(session_id)}/executions", body, _nothing, _SILENCE_S, headers)


def events(session_id: str, execution_id: str, last_event_id: str) -> Request[None]:
    """Answered by events after that one, or by all when it is empty."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    path = f"{_session(session_id)}/executions/{_name(execution_id)}/events"
    return Request("GET", path, _nothing, headers, answer_s=_SILENCE_S)


def execution(session_id: str, execution_id: str) -> Request[ExecutionRecord]:
    return Request("GET", f"{_session(session_id)}/executions/{_name(execution_id)}", _json(read_record))


def executions(session_id: str, after: str | None) -> Request[Page[ExecutionRecord]]:
    path = _listed(f"{_session(session_id)}/executions", after)
    return Request("GET", path, _json(partial(read_page, read=read_record)))


def interrupt(session_id: str) -> Request[None]:
    return _post(f"{_session(session_id)}/interrupt", None, _nothing, _ANSWER_S)


def restart(session_id: str) -> Request[None]:
    return _post(f"{_session(session_id)}/restart", None, _nothing, _SLACK_S)


def files(session_id: str, after: str | None) -> Request[Page[File]]:
    path = _listed(f"{_session(session_id)}/files", after, _PAGE_OF_FILES)
    return Request("GET", path, _json(partial(read_page, read=read_file)))


def upload(session_id: str, path: str) -> Request[File]:
    """Its content is not in it, because it may be far larger than memory."""
    headers = {"Content-Type": "application/octet-stream"}
    return Request("PUT", _file(session_id, path), _json(read_file), headers, answer_s=_SLACK_S)


def download(session_id: str, path: str, start: int = 0, end: int | None = None) -> Request[bytes]:
    headers = {"Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    return Request("GET", _file(session_id, path), bytes, headers, beyond_is_empty=True)


def remove(session_id: str, path: str) -> Request[None]:
    return Request("DELETE", _file(session_id, path), _nothing, absent_is_done=True)


def _post(
    path: str,
    body: Mapping[str, Any] | None,
    read: Callable[[bytes], T],
    answer_s: float,
    headers: Mapping[str, str] | None = None,
) -> Request[T]:
    # One key per call, however often it is sent: the server does once what it is told again.
    headers = {"Idempotency-Key": uuid.uuid4().hex, **(headers or {})}
    if body is None:
        return Request("POST", path, read, headers, None, answer_s)
    return Request("POST", path, read, {"Content-Type": "application/json", **headers}, _encoded(body), answer_s)


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidRequest(f"the request cannot be written as JSON: {error}") from error


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _files(files: Mapping[str, bytes | Path] | None) -> list[dict[str, str]] | None:
    if files is not None and not isinstance(files, Mapping):  # of callers that nobody checks
        raise InvalidRequest(f"files is of type {type(files).__name__}; give a dict, a path below /mnt/data for each")
    if not files:
        return None
    contents = {path: _bytes_of(path, data) for path, data in files.items()}
    return [{"path": path, "content_base64": base64.b64encode(data).decode()} for path, data in contents.items()]


def _bytes_of(path: str, data: object) -> bytes | bytearray | memoryview:
    """Whatever the caller's type checker would have said."""
    if isinstance(data, Path):
        return _local(data)
    if isinstance(data, bytes | bytearray | memoryview):
        return data
    raise InvalidRequest(f"the file {path!r} is of type {type(data).__name__}; give bytes or a pathlib.Path")


def _local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> InvalidRequest:
    return InvalidRequest(f"{path} cannot be read: {error.strerror}")


def _text(code: str) -> str:
    if not isinstance(code, str):  # of callers that nobody checks
        raise InvalidCode(f"the code is of type {type(code).__name__}; give a str")
    return code


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and not isinstance(timeout, int | float):
        raise InvalidLimits(f"timeout is of type {type(timeout).__name__}; give a number of seconds")
    if timeout is not None and not 0 < timeout < math.inf:
        raise InvalidLimits(f"a timeout of {timeout:g} s is not offered; choose one above 0")
    return timeout


def _patience(timeout: float | None) -> float:
    return (_LONGEST_EXECUTION_S if timeout is None else timeout) + _SLACK_S


def _session(session_id: str) -> str:
    return f"/v1/sessions/{_name(session_id)}"


def _name(text: str) -> str:
    """An id as a part of a path; one that would lead elsewhere is refused."""
    if text in ("", ".", ".."):
        raise InvalidRequest(f"{text!r} is not the id of anything")
    return quote(text, safe="", errors="surrogatepass")


def _file(session_id: str, path: str) -> str:
    relative = path.removeprefix("/mnt/data/")
    # URLs have dots resolved on the way: such a path would become another request.
    if any(part in ("", ".", "..") for part in relative.split("/")):
        raise InvalidPath(f"{path!r} leaves /mnt/data or has an impossible part; use a plain relative path")
    return f"{_session(session_id)}/files/{quote(relative, errors='surrogatepass')}"


def _listed(path: str, after: str | None, limit: int = _PAGE) -> str:
    return f"{path}?{urlencode({'limit': limit, **_given(after=after)}, errors='surrogatepass')}"


def _json(read: Callable[[Any], T]) -> Callable[[bytes], T]:
    return lambda body: read(json.loads(body))


def _nothing(_: bytes) -> None:
    return None
