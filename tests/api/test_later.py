"""Routes that come after the first requests."""

import asyncio

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router

from sandbox.api.later import Later
from sandbox.errors import Unready


async def _name(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.path)


def client_of(router: Router) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(router), base_url="http://localhost")


async def test_a_route_that_is_there_does_not_wait_for_the_others() -> None:
    router = Router([Route("/here", _name)])
    Later(router)
    async with client_of(router) as client:
        assert (await client.get("/here")).text == "/here"


@pytest.mark.parametrize(("path", "status"), [("/later", 200), ("/nowhere", 404)])
async def test_who_asks_for_a_route_before_it_is_there_waits_for_it(path: str, status: int) -> None:
    router = Router([Route("/here", _name)])
    later = Later(router)
    async with client_of(router) as client:
        asking = asyncio.create_task(client.get(path))
        assert (await client.get("/here")).text == "/here"
        assert not asking.done()
        later.come([Route("/later", _name)])
        assert (await asking).status_code == status
        assert (await client.get(path)).status_code == status


async def test_who_waits_for_a_route_that_will_never_come_is_told() -> None:
    router = Router()
    later = Later(router)
    async with client_of(router) as client:
        asking = asyncio.create_task(client.get("/later"))
        later.fail()
        with pytest.raises(Unready, match="could not be loaded"):
            await asking


async def test_a_method_that_a_late_route_does_not_have_is_refused_as_always() -> None:
    router = Router()
    Later(router).come([Route("/later", _name)])
    async with client_of(router) as client:
        assert (await client.post("/later")).status_code == 405
