"""What goes wrong with an upstream, by our own names and in its own words.

Whether it helps to try again is what a caller reads from the class, so that it is decided here and nowhere else.
"""

import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from sandbox import logs
from sandbox.errors import UpstreamBusy, UpstreamError, UpstreamFailed, UpstreamRefused
from sandbox.loop.surrogates import encodable
from sandbox.loop.upstream.transport import begun

log = logs.logger(__name__)

_MOST_WORDS = 500
"""Characters of an upstream's own."""
_LEAST = 8
"""Characters of a header's value, or of a word in it, that is masked: less would blot out harmless words."""
_BUSY = frozenset({429, 503, 529})
_PASSING = frozenset({408, 409, 425})
"""Of the 4xx, those that are about the moment and not about the request; both SDKs would try again."""
_WRONG_KEY = frozenset({401, 403})
_NO_MONEY = "insufficient_quota"
"""OpenAI's code for an account that is used up: a 429 that no waiting ends."""
_STATUS_OF: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    _NO_MONEY: 402,
    "overloaded_error": 529,
}
"""An error in the middle of a stream has no status of its own, but a name that has one elsewhere."""
_WAYS_OUT: Mapping[int, str] = {
    402: "Look after its bill.",
    404: "Look whether it has a model of that name (GET /v1/models) and whether its base URL is right.",
    413: "Send less: fewer or smaller messages and images.",
}


@dataclass(frozen=True, slots=True)
class Failures:
    """The failures of one upstream."""

    upstream: str
    """Its name in the settings."""
    url: str = field(repr=False)
    """Never in a message, which anybody may read who has one of our keys: it is for the log, without its password."""
    key: str = field(default="", repr=False)
    """Never in a message: some servers repeat it."""
    key_name: str = ""
    """Where the key comes from, which is the name of an environment variable."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request. Their values are as secret as the key."""

    def answered(self, status: int, headers: Mapping[str, str], body: object) -> UpstreamError:
        """It answered with an error. body: JSON, or text."""
        found = _error_in(body)
        return self._error(status, self._words(body), found, retry_after(headers))

    def said(self, error: Mapping[str, Any]) -> UpstreamError:
        """It said in the middle of a stream, or with a status of 200, that something went wrong."""
        names = [str(error.get(name)) for name in ("type", "code") if error.get(name) is not None]
        status = next((_STATUS_OF[name] for name in names if name in _STATUS_OF), None)
        # Gateways have the status that they got themselves as the code.
        numbers = (int(name) for name in names if re.fullmatch("[45][0-9]{2}", name))
        return self._error(status or next(numbers, None), self._words(error), error, None)

    def away(self, cause: BaseException) -> UpstreamFailed:
        """No connection to it could be made, or it broke before an answer."""
        why = self._told(cause)
        host = urlsplit(self.url).netloc.rpartition("@")[2]
        log.info("an upstream does not answer", upstream=self.upstream, host=host, error=why)
        return self._failed(f"does not answer: {why}", "Look whether it runs.")

    def late(self, cause: BaseException, silence_s: float) -> UpstreamFailed:
        """No connection to it was made in time, or there was one and no answer came."""
        connecting = any("Connect" in type(each).__name__ for each in _chain(cause) if each is not cause)
        return self.away(cause) if connecting else self.silent(silence_s)

    def broken(self, cause: httpx2.HTTPError, silence_s: float) -> UpstreamError:
        """As `away`, unless there was an answer, an error, whose body broke off: what came before that is known."""
        if (answer := begun(cause)) is not None and answer.is_error:
            return self.answered(answer.status_code, answer.headers, "")
        return self.silent(silence_s) if isinstance(cause, httpx2.ReadTimeout) else self.away(cause)

    def silent(self, seconds: float) -> UpstreamFailed:
        """Nothing came for too long."""
        return self._failed(f"said nothing for {seconds:g} seconds", "Try again.")

    def cut(self, cause: BaseException | None = None) -> UpstreamFailed:
        """It broke off before its answer was complete."""
        why = f": {self._told(cause)}" if cause else ""
        return self._failed(f"broke off in the middle of its answer{why}", "Try again.")

    def nonsense(self, said: object) -> UpstreamFailed:
        """It said what nobody understands."""
        return self._failed(
            f"said what nobody understands: {self._words(said)}", "Look whether its base URL leads to a model's API."
        )

    def _error(
        self, status: int | None, words: str, error: Mapping[str, Any], retry_after: float | None
    ) -> UpstreamError:
        if status is not None and 300 <= status < 400:
            return self._failed(f"says that it is elsewhere (HTTP {status})", "Set its url to where it is.", status)
        told = f" (HTTP {status}): {words}" if status else f": {words}"
        if _NO_MONEY in (error.get("code"), error.get("type")):
            status = 402
        if status in _BUSY:
            again = f"Try again in {retry_after:.1f} seconds." if retry_after else "Try again later."
            message = f"The upstream {self.upstream!r} is busy{told} {again}"
            return UpstreamBusy(message, upstream=self.upstream, status=status, retry_after=retry_after)
        if status is None or status >= 500 or status < 400 or status in _PASSING:
            return self._failed(f"failed{told}", "Try again.", status)
        code, param = error.get("code") or error.get("type"), error.get("param")
        return UpstreamRefused(
            f"The upstream {self.upstream!r} refused the request{told} {self._way_out(status)}".rstrip(),
            upstream=self.upstream,
            status=status,
            code=self._masked(str(code)) if code is not None else None,
            param=self._masked(str(param)) if param is not None else None,
        )

    def _way_out(self, status: int) -> str:
        if status not in _WRONG_KEY:
            return _WAYS_OUT.get(status, "Change the request.")
        if self.key_name and self.key:
            return f"The key in {self.key_name} is not good for this."
        return f"It wants a key: set {self.key_name}." if self.key_name else "It wants another key."

    def _failed(self, what: str, then: str, status: int | None = None) -> UpstreamFailed:
        return UpstreamFailed(
            f"The upstream {self.upstream!r} {what.rstrip('.')}. {then}", upstream=self.upstream, status=status
        )

    def _told(self, cause: BaseException) -> str:
        """What lies below: an SDK says `Connection error.` and no more."""
        *_, root = chain = tuple(_chain(cause))
        root = next((each for each in chain if isinstance(each, httpx2.HTTPError) and str(each)), root)
        words, host = str(root) or type(root).__name__, urlsplit(self.url).hostname
        return self._clean(re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "…", words) if host else words)

    def _words(self, said: object) -> str:
        try:
            words = _message(said)
        except RecursionError:  # it is nested that deeply
            words = ""
        return self._clean(words or "it did not say why")

    def _clean(self, words: str) -> str:
        """Words without secrets, in one line of bounded length."""
        words = " ".join(encodable(self._masked(words)).split())
        words = words if len(words) <= _MOST_WORDS else words[:_MOST_WORDS] + "…"
        return words if words.endswith((".", "!", "?", "…")) else words + "."

    def _masked(self, words: str) -> str:
        """Words without the key, what the headers say, and who the URL names."""
        at = urlsplit(self.url)
        said = [word for value in self.headers.values() for word in (value, *value.split())]
        long = [word for word in (*said, at.username, at.password) if word and len(word) >= _LEAST]
        for secret in sorted({self.key, *long} - {""}, key=len, reverse=True):
            words = words.replace(secret, "…")
        return words


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to be left alone for, by `retry-after-ms` or `retry-after` (RFC 9110, 10.2.3)."""
    milliseconds, said = _seconds(headers.get("retry-after-ms")), headers.get("retry-after")
    if milliseconds is not None:
        return milliseconds / 1000
    seconds = _seconds(said)
    if seconds is not None or not said:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _seconds(said: str | None) -> float | None:
    try:
        seconds = float(said or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _error_in(body: object) -> Mapping[str, Any]:
    found = body.get("error") if isinstance(body, Mapping) else None
    # The SDKs take the envelope off where there is one.
    return found if isinstance(found, Mapping) else body if isinstance(body, Mapping) else {}


def _message(said: object) -> str:
    if isinstance(said, Mapping):
        inner = next((said[name] for name in ("error", "message", "detail") if said.get(name)), None)
        return _message(inner) if inner is not None else str(dict(said))
    if isinstance(said, str) and said.lstrip()[:1] == "<":
        title = re.search(r"<title>([^<]*)</title>", said, re.IGNORECASE)
        return f"an HTML page, {title.group(1).strip()!r}" if title else "an HTML page"
    return "" if said is None else str(said)


def _chain(cause: BaseException | None) -> Iterator[BaseException]:
    while cause is not None:
        yield cause
        cause = cause.__cause__
