"""Values to what a client is told: text for the model, structure for programs, pictures and links for both."""

import base64
from collections.abc import Sequence

from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

from sandbox.api.mcp.tools import ArtifactOut, ErrorOut, FileOut, ListOut, ReadOut, RunOut, TruncatedOut, UploadOut
from sandbox.api.mcp.uris import uri_of
from sandbox.api.mcp.workbench import Piece
from sandbox.errors import NotFound, Overloaded, SandboxError, SessionClosed, SessionExpired, SessionMissing
from sandbox.execution import Artifact, Error, Execution, Status, mime_of
from sandbox.loop.messages import Image, Text
from sandbox.remote import File

MOST_FILES = 500
"""Files of a list."""
_MOST_LINKS = 20
_MOST_TEXT = 16_384
"""Characters of each text in what programs read; clients give it to models, too."""
_MOST_RESULTS = 50
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What clients show and models see."""
MOST_PICTURE_BYTES = 5 << 20


def of_run(execution: Execution, told: Sequence[Text | Image], notes: Sequence[str]) -> CallToolResult:
    """What came of a program. told: for the model. notes: of ours, before and after it."""
    content: list[ContentBlock] = [_block(part) for part in told]
    content += [_text(note) for note in notes]
    content += [_link(execution.session_id, artifact) for artifact in execution.artifacts[:_MOST_LINKS]]
    return _result(_run_out(execution), content, failed=execution.status is not Status.OK)


def _block(part: Text | Image) -> ContentBlock:
    if isinstance(part, Text):
        return _text(part.text)
    return ImageContent(type="image", data=part.data, mime_type=part.mime)


def _run_out(execution: Execution) -> RunOut:
    stdout, no_stdout = _cut(execution.stdout)
    stderr, no_stderr = _cut(execution.stderr)
    texts = [text for bundle in execution.results if isinstance(text := bundle.get("text/plain"), str)]
    error, dropped = execution.error, execution.truncated
    return RunOut(
        session_id=execution.session_id,
        execution_id=execution.id,
        status=execution.status,
        reason=_whole(execution.reason),
        stdout=stdout,
        stderr=stderr,
        results=[_cut(text)[0] for text in texts[:_MOST_RESULTS]],
        error=None if error is None else _error(error),
        artifacts=[_artifact(execution.session_id, each) for each in execution.artifacts[:MOST_FILES]],
        removed=[_whole(path) for path in execution.removed[:MOST_FILES]],
        state_lost=execution.state_lost,
        truncated=TruncatedOut(
            stdout=dropped.stdout + no_stdout,
            stderr=dropped.stderr + no_stderr,
            results=dropped.results + max(0, len(texts) - _MOST_RESULTS),
        ),
        duration_ms=round(execution.duration_ms, 3),
    )


def _error(error: Error) -> ErrorOut:
    return ErrorOut(name=_whole(error.name), value=_cut(error.value)[0], traceback=_cut(error.traceback)[0])


def _cut(text: str) -> tuple[str, int]:
    """Head and tail, and how many characters between them are left out."""
    left = len(text) - _MOST_TEXT
    if left <= 0:
        return _whole(text), 0
    head, tail = text[: _MOST_TEXT // 2], text[-(_MOST_TEXT // 2) :]
    return _whole(f"{head}\n… {left} characters are left out …\n{tail}"), left


def _whole(text: str) -> str:
    """Half a surrogate pair has no UTF-8, and so no place in JSON."""
    return text.encode("utf-8", "replace").decode()


def _artifact(session_id: str, artifact: Artifact) -> ArtifactOut:
    uri = uri_of(session_id, artifact.path)
    return ArtifactOut(
        path=_whole(artifact.path), size=artifact.size, mime=artifact.mime, change=artifact.change, uri=uri
    )


def _link(session_id: str, artifact: Artifact) -> ResourceLink:
    uri = uri_of(session_id, artifact.path)
    return ResourceLink(
        type="resource_link", uri=uri, name=_whole(artifact.path), mime_type=artifact.mime, size=artifact.size
    )


def of_upload(session_id: str, file: File, notes: Sequence[str]) -> CallToolResult:
    """A file is stored."""
    out = UploadOut(**_file(session_id, file).model_dump(), session_id=session_id)
    return _result(out, [_text(f"Stored /mnt/data/{out.path} ({out.size} bytes)."), *map(_text, notes)])


def of_list(session_id: str | None, files: Sequence[File]) -> CallToolResult:
    """What there is. session_id: None where there is no session yet."""
    listed = [_file(session_id or "", file) for file in files[:MOST_FILES]]
    out = ListOut(session_id=session_id, files=listed, more=len(files) - len(listed))
    lines = [f"{file.size:>10} {file.path}" for file in listed]
    if out.more:
        lines.append(f"and {out.more} more files")
    return _result(out, [_text("\n".join(lines) or "/mnt/data is empty.")])


def _file(session_id: str, file: File) -> FileOut:
    return FileOut(path=_whole(file.path), size=file.size, uri=uri_of(session_id, file.path))


def is_picture(path: str) -> bool:
    """Whether a client can show it, going by its name."""
    return mime_of(path) in _PICTURES


def of_read(session_id: str, path: str, piece: Piece) -> CallToolResult:
    """A part of a file: as text if it is some, an image if that is all of one, else as a resource."""
    text, piece = _decoded(piece)
    end = piece.offset + len(piece.data)
    out = ReadOut(
        session_id=session_id,
        path=path,
        mime=mime_of(path),
        size=piece.size,
        offset=piece.offset,
        next_offset=end if end < piece.size else None,
        text=text,
    )
    if text is not None:
        rest = "" if out.next_offset is None else f"\n[{end} of {piece.size} bytes; go on with offset {end}]"
        return _result(out, [_text(text + rest)])
    about = f"{path}: {out.mime}, bytes {piece.offset} to {end} of {piece.size}"
    if len(piece.data) == piece.size and is_picture(path):
        return _result(out, [_text(about), ImageContent(type="image", data=_base64(piece.data), mime_type=out.mime)])
    return _result(out, [_text(about), EmbeddedResource(type="resource", resource=contents(session_id, path, piece))])


def contents(session_id: str, path: str, piece: Piece) -> TextResourceContents | BlobResourceContents:
    """The same as a resource."""
    text, piece = _decoded(piece)
    uri, mime = uri_of(session_id, path), mime_of(path)
    if text is None:
        return BlobResourceContents(uri=uri, mime_type=mime, blob=_base64(piece.data))
    return TextResourceContents(uri=uri, mime_type=mime, text=text)


def _decoded(piece: Piece) -> tuple[str | None, Piece]:
    """Its text, if it is some, and what of it that is: a character that was cut through is left for the next piece."""
    data, offset = piece.data, piece.offset
    if offset:
        skipped = next((number for number, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
        data, offset = data[skipped:], offset + skipped
    for left in range(4 if offset + len(data) < piece.size else 1):
        try:
            text = data[: len(data) - left].decode()
        except UnicodeDecodeError:
            continue
        if "\0" in text or (data and not text):
            break
        return text, Piece(data[: len(data) - left], offset, piece.size)
    return None, piece


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def of_close(out: BaseModel, words: str) -> CallToolResult:
    """A session is over."""
    return _result(out, [_text(words)])


def refusal(words: str) -> CallToolResult:
    """What could not be done, and what to do instead."""
    return CallToolResult(content=[_text(words)], is_error=True)


def of_error(error: SandboxError) -> CallToolResult:
    """One of ours."""
    words = f"{error}."
    if isinstance(error, SessionMissing | SessionClosed | SessionExpired):
        words = f"{str(error).removesuffix('; open a new one')}."
        words += " Variables and files of it are gone. Call without session_id to begin a new session."
    elif isinstance(error, Overloaded):
        words += f" Nothing was run; try again in {max(1, round(error.retry_after))} s."
    elif isinstance(error, NotFound):
        words += " list_files shows what there is."
    return refusal(words)


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=_whole(text))


def _result(out: BaseModel, content: list[ContentBlock], *, failed: bool = False) -> CallToolResult:
    return CallToolResult(content=content, structured_content=out.model_dump(mode="json"), is_error=failed)
