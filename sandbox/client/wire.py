"""How requests become httpx's, and how its answers and failures become ours."""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx

from sandbox.client.problems import Again, nonsense, refusal
from sandbox.client.requests import Address, Request
from sandbox.errors import Unreachable

T = TypeVar("T")
_CONNECT_S = 5.0
_WRITE_S = 60.0
# Below the five seconds after which servers commonly close a connection that nobody uses.
_KEEPALIVE_S = 4.0


def options(address: Address) -> dict[str, Any]:
    """Arguments of `httpx.Client` and `httpx.AsyncClient`."""
    return {
        "headers": address.headers,
        # How many run at a time is for the server to limit: it knows who waits.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=_KEEPALIVE_S),
        "trust_env": not address.local,
    }


def arguments(address: Address, request: Request[Any], size: int | None = None) -> dict[str, Any]:
    """Arguments of `httpx.Client.request`, apart from content that is streamed; size: of that, if known."""
    length = {} if size is None else {"Content-Length": str(size)}
    return {
        "method": request.method,
        "url": address.url + request.path,
        "headers": {**request.headers, **length},
        "timeout": httpx.Timeout(connect=_CONNECT_S, read=request.answer_s, write=_WRITE_S, pool=None),
    }


def answer(address: Address, request: Request[T], response: httpx.Response) -> T:
    """The value in a response whose body is read. Raises `Again` and what `errors` draws."""
    if request.beyond_is_empty and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return request.read(b"")
    require_success(address, response)
    try:
        return request.read(response.content)
    except (KeyError, TypeError, ValueError) as error:
        raise nonsense(error) from error


def require_success(address: Address, response: httpx.Response) -> None:
    """Raises `Again` and what `errors` draws, for which the body has to be read already."""
    if not response.is_success:
        raise refusal(address.url, response.status_code, response.headers, response.content)


def cut(address: Address) -> Again:
    """For a stream that ended in good order before its execution did."""
    return Again(Unreachable(f"{address.url} ended the stream before the execution's end; see its log"))


@contextlib.contextmanager
def failures(address: Address) -> Iterator[None]:
    """Failures of the connection become `Again`."""
    try:
        yield
    except (httpx.TransportError, httpx.DecodingError) as error:
        words = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            message = f"no server answers at {address.url} ({words}); start one with sandbox serve, or check the URL"
            if "WRONG_VERSION_NUMBER" in words:
                message = f"who answers at {address.url} does not speak TLS; write http://"
        else:
            message = f"the connection to {address.url} failed ({words}); try again"
        raise Again(Unreachable(message)) from error
    except AttributeError as error:
        # anyio asks a connection for its peer that uvloop may have closed by then, and has no socket any more.
        if error.name != "getpeername":
            raise
        raise Again(Unreachable(f"the connection to {address.url} was closed at once; try again")) from error
