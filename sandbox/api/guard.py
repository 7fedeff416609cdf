"""The first and last to see a request: where it may come from, how much of a body it may have, what is told of it.

A browser sends requests for pages that its user merely visits, and on loopback it needs no key for them. So a request
must name this server as its host (a name that an attacker rebinds to 127.0.0.1 does not), and if a page sent it, that
page must be this server's own. Nothing here ever allows another origin: there is no CORS.
"""

import asyncio
import ipaddress
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox import logs, telemetry
from sandbox.api import problems
from sandbox.api.answer import Answer, Unheld
from sandbox.api.families import family
from sandbox.api.guests import Guests
from sandbox.api.lines import LONGEST_PATH, Lines
from sandbox.api.unread import Unread
from sandbox.api.visit import CLIENT_LEFT, Bodies, Body, Visit, request_id_of
from sandbox.errors import Draining, Forbidden, InvalidRequest, SandboxError
from sandbox.execution import MIB
from sandbox.node import LOOPBACK, Node

_QUIET = frozenset({"/health", "/health/live", "/metrics"})
"""Asked for every few seconds by machines; logged only for debugging."""
_BODIES = 8
"""How many of the largest bodies may be in memory at a time; of answers as many bytes."""
log = logs.logger(__name__)


class Guard:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, node: Node) -> None:
        settings = node.settings
        self._app = app
        self._node = node
        self._hosts = frozenset(_host(name.strip()) for name in settings.allowed_hosts.split(",") if name.strip())
        # With a key in every request a rebound name gains nothing, and behind a public address names are many.
        self._any_host = settings.host not in LOOPBACK and not self._hosts
        self._limit = settings.max_body_mb * MIB
        self._bodies = Bodies(_BODIES * self._limit)
        self._guests = Guests()
        self._unread = Unread(_BODIES * self._limit)
        self._patience = settings.body_timeout_s
        self._failures = Lines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        declared = headers.get("content-length", "")
        size = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 19 else None
        body = Body(receive, size, self._bodies, limit=self._limit, patience=self._patience)
        visit = Visit(request_id_of(headers.get("x-request-id", "")), body, self._guests)
        scope.setdefault("state", {})["visit"] = visit
        answer = Answer(send, visit, self._unread, self._node)
        name = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE", "HEAD") else "HTTP"
        with logs.bound(request_id=visit.request_id), telemetry.span(name, "server", headers) as span:
            try:
                await self._serve(scope, headers, visit, answer)
            finally:
                answer.release()
                visit.leave()
                self._tell(scope, visit)
                span.set(**{"http.route": visit.route, "http.response.status_code": visit.status})

    async def _serve(self, scope: Scope, headers: Mapping[str, str], visit: Visit, answer: Answer) -> None:
        receive = visit.body.receive
        try:
            self._check(scope, headers)
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            visit.status = visit.status or CLIENT_LEFT
        except asyncio.CancelledError:
            if visit.status or not self._node.draining:
                raise
            late = Draining("the server stops, and this was not done in time; try again when it is back", 5.0)
            await family(scope).of_error(visit.request_id, late)(scope, receive, answer)
        except Unheld as unheld:
            self._node.metrics.rejection(problems.code_of(type(unheld.refusal)))
            await family(scope).of_error(visit.request_id, unheld.refusal)(scope, receive, answer)
        except SandboxError as error:
            if visit.status:
                raise  # too late for an answer: the connection has to be cut
            await family(scope).of_error(visit.request_id, error)(scope, receive, answer)
        except Exception:
            if visit.status:
                raise
            log.exception("request failed")
            await family(scope).of_bug(visit.request_id)(scope, receive, answer)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raises `Forbidden` for what a browser was tricked into, `InvalidRequest` without exactly one Host."""
        if sum(name == b"host" for name, _ in scope["headers"]) != 1:
            raise InvalidRequest("a request needs one Host header")
        authority = headers["host"]
        if not self._any_host and not self._allowed(_host(authority)):
            name = repr(authority[:256])
            raise Forbidden(f"{name} is no name of this server; call it by address, or add the name to allowed_hosts")
        origin = headers.get("origin")
        if origin is not None:
            page = urlsplit(origin) if origin.startswith(("http://", "https://")) else None
            if page is None or (page.netloc != authority and _host(page.netloc) not in self._hosts):
                raise Forbidden("a page of another origin sent this; only this server's own may")
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Forbidden("a page of another site sent this; only this server's own may")

    def _allowed(self, host: str) -> bool:
        if host in LOOPBACK or host in self._hosts:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True  # a number cannot be bound to another address, which is all there is to rebinding

    def _tell(self, scope: Scope, visit: Visit) -> None:
        seconds = time.perf_counter() - visit.started
        self._node.metrics.request(scope["method"], visit.route, visit.status, seconds)
        more = self._failures.next() if visit.status >= 400 else {}
        if more is None:
            return
        write = log.debug if scope["path"] in _QUIET else log.info
        write(
            "request",
            method=scope["method"],
            path=scope["path"][:LONGEST_PATH],
            status=visit.status,
            ms=round(1000 * seconds, 2),
            key=visit.owner.id if visit.owner else None,
            **visit.ids,
            **more,
        )


def _host(authority: str) -> str:
    """Without its port, brackets and a root's dot, in lower case; empty for what is no authority."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/@]+?)\.?)(?::\d{1,5})?", authority)
    return (found[1] or found[2]).lower() if found else ""
