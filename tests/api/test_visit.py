"""What a request leaves behind."""

import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message

from sandbox.config import Settings
from sandbox.image import Image
from sandbox.node import Node
from tests.api.local import whole_app


class Asking:
    """A request as uvicorn holds it: what the application is given are methods of this, which has the scope."""

    def __init__(self, method: str, path: str, body: bytes = b"") -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        }
        self.status = 0
        self._body = body

    async def receive(self) -> Message:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)


@pytest.fixture(scope="module")
async def node(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), images_dir=Settings().images_dir, pool_size=0)
    async with Node.open(settings) as node:
        yield node


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health/live", b"", 204),
        ("GET", "/v1/sessions/ses_00000000000000000000000000000000", b"", 404),
        ("POST", "/v1/run", b'{"x": [{}, {}]}', 400),
        ("POST", "/v1/run", b"{no json", 400),
        ("POST", "/v1/run", b'{"code": "1"}', 200),
    ],
)
async def test_a_request_that_is_over_is_gone_without_being_collected(
    node: Node, method: str, path: str, body: bytes, status: int
) -> None:
    """To collect a hundred thousand of them stops the loop for longer than any request may."""
    app = whole_app(node)
    gc.collect()
    gc.disable()
    try:
        asking = Asking(method, path, body)
        await app(asking.scope, asking.receive, asking.send)
        assert asking.status == status
        gone = weakref.ref(asking)
        del asking
        assert gone() is None
    finally:
        gc.enable()
