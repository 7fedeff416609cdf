"""`multipart/form-data` as a stream: a part's bytes go on while the next are still coming."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from sandbox.errors import InvalidRequest

_MOST_PARTS = 1000


@dataclass(slots=True)
class _Head:
    headers: dict[str, bytes] = field(default_factory=dict)

    def option(self, name: bytes) -> str | None:
        """Of its content disposition. Raises `InvalidRequest`."""
        _, options = parse_options_header(self.headers.get("content-disposition", b""))
        found = options.get(name)
        if not found:
            return None
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"the {name.decode()} {found[:80]!r} is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class Part:
    """One part. Its bytes have to be read before the next part."""

    name: str
    """Of the field; may be empty."""
    filename: str | None
    mime: str
    """As it says; empty when it does not."""
    pieces: AsyncIterator[bytes]

    async def text(self, most: int = 4096) -> str:
        """The value of a field. most: bytes. Raises `InvalidRequest`."""
        data = bytearray()
        async for piece in self.pieces:
            data += piece
            if len(data) > most:
                raise InvalidRequest(f"the field {self.name[:80]!r} is longer than {most} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"the field {self.name[:80]!r} is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class _End:
    """A part, or all of them, are over."""

    of_all: bool


class Multipart:
    """The parts of one body. Raises `InvalidRequest` wherever the body is not what it should be."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest("the multipart body has no boundary in its content type")
        self._body = body
        self._found: deque[_Head | bytes | _End] = deque()
        self._header = (bytearray(), bytearray())
        self._head = _Head()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": lambda: self._found.append(self._head),
                    "on_part_data": lambda data, start, end: self._found.append(bytes(data[start:end])),
                    "on_part_end": lambda: self._found.append(_End(False)),
                    "on_end": lambda: self._found.append(_End(True)),
                },
            )
        except ValueError as error:
            raise InvalidRequest(f"the multipart boundary cannot be used: {error}") from None

    async def files(self) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        """Names and bytes of a body in which every part is a file."""
        async for part in self.parts():
            if part.filename is None:
                raise InvalidRequest("a part has no filename; send every file as a part with one, which is its path")
            yield part.filename, part.pieces

    async def parts(self) -> AsyncIterator[Part]:
        """Fields and files, as they come."""
        parts = 0
        while not isinstance(found := await self._next(), _End):
            if isinstance(found, _Head):
                parts += 1
                if parts > _MOST_PARTS:
                    raise InvalidRequest(f"more than {_MOST_PARTS} files in one request; send the rest in another")
                mime = found.headers.get("content-type", b"").decode("latin-1")
                yield Part(found.option(b"name") or "", found.option(b"filename"), mime, self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        while isinstance(found := await self._next(), bytes):
            yield found

    async def _next(self) -> _Head | bytes | _End:
        while not self._found:
            piece = await anext(self._body, None)
            if piece is None:
                raise InvalidRequest("the multipart body ends before its last boundary")
            try:
                self._parser.write(piece)
            except MultipartParseError as error:
                raise InvalidRequest(f"the body is not multipart: {error}") from None
        return self._found.popleft()

    def _begin(self) -> None:
        self._head = _Head()

    def _end_header(self) -> None:
        name, value = self._header
        self._head.headers[name.decode("latin-1").lower()] = bytes(value)
        self._header = (bytearray(), bytearray())
