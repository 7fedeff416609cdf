"""The HTTP below both SDKs: aiohttp, which they offer for it, and which has less work with a request than their own."""

import os
import ssl

import aiohttp
import httpx2
from aiohttp.http_exceptions import HttpProcessingError

BROKEN = (httpx2.HTTPError, aiohttp.ClientError)
"""What a connection that breaks, or a server that speaks no HTTP, is at places where an SDK makes nothing of it."""


def located(url: str) -> tuple[str, tuple[str, str] | None]:
    """A base URL without name and password, and these, of which an URL with them has no other use below."""
    at = httpx2.URL(url)
    if not at.userinfo:
        return url, None
    return str(at.copy_with(username=None, password=None)), (at.username, at.password)


def said(cause: BaseException) -> str:
    """What has gone wrong at the bottom, without an address."""
    match cause:
        case aiohttp.ServerDisconnectedError():
            return "it hung up"
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return cause.message
        case TimeoutError() if not cause.args:
            return "no connection was made in time"
        case OSError() if cause.errno and cause.errno > 0 and not isinstance(cause, ssl.SSLError):
            return os.strerror(cause.errno)
        case OSError() if cause.strerror:
            return str(cause.strerror)
    return str(cause) or type(cause).__name__
