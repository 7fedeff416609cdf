"""The HTTP below both SDKs: aiohttp as a transport of httpx2, which does the same with less work per request.

Both SDKs bring such a transport along. This one keeps what httpx2 promises by itself where those do not: sending and
name resolution have a limit, a status line may say anything, and whatever goes wrong is an error of httpx2's, in words
that name no address.
"""

import asyncio
import io
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies

import aiohttp
import httpx2
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

_CONNECTIONS = 1000
"""At once: `concurrency` bounds what is asked at a time, and requests that wait for one are failed as late."""
_KEPT_S = 5.0
"""For an idle connection, somewhat less than most servers keep theirs."""
_FIELD = 64 << 10
"""Bytes of a header at most; gateways have long ones."""
_FIELDS = 256
_LARGE = 1 << 20
"""Bytes from which on a body is sent in pieces, between which others have their turn."""
MOST_BYTES = 64 << 20
"""Of one answer: no model writes as much, and a server that does not stop must not fill our memory."""
_MOST_WORDS = 256 << 10
"""Bytes of an answer that is an error, which both SDKs read whole; what comes after is not read."""
_BEGUN = "begun"
_IDLE_S, _PROBES = 60, 5
"""Seconds, and how often, after which a connection is asked whether it still is there: what lies between forgets one
on which nobody has spoken for some minutes, as a model that thinks does."""


def client() -> httpx2.AsyncClient:
    """What an SDK is to ask through; by httpx2's own transport where the environment names proxies.

    It follows nobody elsewhere: whoever answers must not choose who is told what was said, and the headers.
    """
    if getproxies():
        return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_KEPT_S))
    return httpx2.AsyncClient(transport=Transport())


def begun(error: httpx2.HTTPError) -> httpx2.Response | None:
    """The answer, of a transport of ours, that broke off, which an SDK that was reading it says nothing of."""
    try:
        answer = error.request.extensions.get(_BEGUN)
    except RuntimeError:  # nobody has said to what request it belongs
        return None
    return answer if isinstance(answer, httpx2.Response) else None


class Transport(httpx2.AsyncBaseTransport):
    """Connections to wherever requests go. For one event loop, the one of the first request."""

    def __init__(self) -> None:
        self._tls = httpx2.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises errors of httpx2, of which `RemoteProtocolError` says in its words what a server has done."""
        body, limits = await request.aread(), request.extensions.get("timeout", {})
        connect, read, write = limits.get("connect"), limits.get("read"), limits.get("write")
        bounds = None if None in (connect, read, write) else connect + write + read
        # Of connections that were closed while this loop was busy it hears now, and not when one is used.
        for _ in range(2):
            await asyncio.sleep(0)
        with _translated():
            async with asyncio.timeout(bounds):
                response = await self._open().request(
                    request.method,
                    URL(str(request.url.copy_with(username=None, password=None)), encoded=True),
                    headers=request.headers,
                    data=aiohttp.BytesIOPayload(io.BytesIO(body)) if len(body) >= _LARGE else body or None,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(connect=connect, sock_connect=connect, sock_read=read),
                )
        answer = httpx2.Response(response.status, headers=response.raw_headers, stream=_Body(response), request=request)
        request.extensions[_BEGUN] = answer
        return answer

    async def aclose(self) -> None:
        """Close all connections. May be called twice."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=_CONNECTIONS, keepalive_timeout=_KEPT_S, ssl=self._tls, socket_factory=_socket
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),  # httpx2 keeps them
                auto_decompress=False,
                max_line_size=_FIELD,
                max_field_size=_FIELD,
                max_headers=_FIELDS,
            )
        return self._session


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MOST_BYTES if self._response.ok else _MOST_WORDS
        with _translated():
            async for piece in self._response.content.iter_any():
                if (left := left - len(piece)) < 0:
                    break
                yield piece
        if left < 0 and self._response.ok:
            raise httpx2.RemoteProtocolError(f"an answer of more than {MOST_BYTES >> 20} MB")

    async def aclose(self) -> None:
        # A connection whose answer has been read to its end is no longer the response's.
        self._response.close()


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _IDLE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    return made


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout("no connection was made in time") from error
    except aiohttp.ServerTimeoutError as error:
        raise httpx2.ReadTimeout("nothing came in time") from error
    except TimeoutError as error:
        raise httpx2.WriteTimeout("it did not read what was sent") from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(_connecting(error.__cause__)) from error
    except aiohttp.ServerDisconnectedError as error:
        raise httpx2.RemoteProtocolError("it hung up") from error
    except (aiohttp.InvalidURL, UnicodeError) as error:
        raise httpx2.UnsupportedProtocol("its address is none") from error
    except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError, HttpProcessingError) as error:
        raise httpx2.RemoteProtocolError(_unspoken(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx2.NetworkError(_of_system(error) or "the connection broke") from error
    except ValueError as error:
        raise httpx2.LocalProtocolError("the request has something in it that cannot be sent") from error


def _connecting(error: BaseException | None) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"no TLS with it: {(error.reason or 'no reason is known').replace('_', ' ').lower()}"
    return _of_system(error) or "no connection could be made"


def _of_system(error: BaseException | None) -> str:
    """The system's words for it. An error's own may have an address in them."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else ""


def _unspoken(error: BaseException) -> str:
    """How an answer is no HTTP, without what it has instead, which may be a secret."""
    why = error if isinstance(error, HttpProcessingError) else error.__cause__
    said = why.message.strip() if isinstance(why, HttpProcessingError) else ""
    return re.split(r"\n|:? b['\"]", said)[0].rstrip(":. ") or "its answer is not complete"
