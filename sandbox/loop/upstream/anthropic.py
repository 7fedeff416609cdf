"""Any server that speaks Anthropic's Messages, through the `anthropic` SDK."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

import anthropic
import httpx2
from anthropic import AsyncAnthropic, AsyncStream, Omit
from anthropic.types import RawMessageStreamEvent

from sandbox.errors import UpstreamError
from sandbox.loop import anthropic_messages
from sandbox.loop.messages import Delta, Dialect, Reply, Request
from sandbox.loop.surrogates import encoded
from sandbox.loop.upstream import CONNECT_S, SILENCE_S
from sandbox.loop.upstream.answer import Answer, Wire
from sandbox.loop.upstream.failures import Failures
from sandbox.loop.upstream.transport import client

_ANTHROPIC = "https://api.anthropic.com"
_UNUSED_KEY = "none"
_BEFORE_2026 = {"anthropic-version": "2023-06-01"}
"""The versions of the API since refuse the fields that say how freely a model shall choose its words."""
_SAMPLING = ("temperature", "top_p", "top_k")


class AnthropicUpstream:
    """Anthropic, or a gateway to it."""

    dialect: Dialect = "anthropic"

    def __init__(
        self,
        name: str,
        *,
        base_url: str = _ANTHROPIC,
        key: str = "",
        key_name: str = "",
        headers: Mapping[str, str] | None = None,
        connect_s: float = CONNECT_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """name: in the settings. base_url: without `/v1`. key: empty for a server that wants none. key_name: the
        environment variable that has it, for messages. headers: sent with every request. connect_s, silence_s: seconds
        until a connection must be made, and from one piece of an answer to the next.
        """
        self.name = name
        self._silence_s = silence_s
        self._failures = Failures(name, base_url, key, key_name, headers or {})
        self._wire = Wire(
            reading=partial(anthropic_messages.Reading, name),
            whole=partial(anthropic_messages.whole, upstream=name),
            error=anthropic_messages.error,
            last=lambda message: message.name == "message_stop",
        )
        self._headers: dict[str, str | Omit] = {**({} if key else {"Authorization": Omit()}), **(headers or {})}
        self._client = AsyncAnthropic(
            base_url=base_url,
            api_key=key or _UNUSED_KEY,
            timeout=anthropic.Timeout(silence_s, connect=connect_s),
            max_retries=0,
            http_client=client(),
        )

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """See `Upstream`."""
        body = anthropic_messages.body(request, upstream=self.name)
        headers = self._headers | (_BEFORE_2026 if any(name in body for name in _SAMPLING) else {})
        async with contextlib.AsyncExitStack() as stack:
            try:
                response = await self._ask(body | {"stream": True}, headers)
            except anthropic.APIError as error:
                raise self._failure(error) from error
            except httpx2.HTTPError as error:
                raise self._failures.broken(error, self._silence_s) from error
            stack.push_async_callback(response.aclose)
            answer = Answer(response, self._wire, self._failures, self._silence_s)
            async with contextlib.aclosing(answer.read()) as pieces:
                async for piece in pieces:
                    yield piece

    async def _ask(self, body: Mapping[str, Any], headers: Mapping[str, str | Omit]) -> httpx2.Response:
        # As bytes it goes out as it is. Arguments of `create` the SDK would walk, all of them, which takes longer the
        # more has been said, to no other end.
        response: object = await self._client.post(
            "/v1/messages",
            cast_to=httpx2.Response,
            content=encoded(body),
            options={"headers": headers},
            stream=True,
            stream_cls=AsyncStream[RawMessageStreamEvent],
        )
        assert isinstance(response, httpx2.Response), "that is what it was to be cast to"
        return response

    async def models(self) -> list[str]:
        """See `Upstream`."""
        try:
            models = [model async for model in self._client.models.list(extra_headers=self._headers)]
        except anthropic.APIError as error:
            raise self._failure(error) from error
        except httpx2.HTTPError as error:
            raise self._failures.broken(error, self._silence_s) from error
        except Exception as error:  # the SDK stumbles over whatever is no list of models, such as a page
            raise self._failures.nonsense("what should list its models does not") from error
        return [name for model in models if isinstance(name := getattr(model, "id", None), str) and name]

    async def aclose(self) -> None:
        """See `Upstream`."""
        await self._client.close()

    def _failure(self, error: anthropic.APIError) -> UpstreamError:
        match error:
            case anthropic.APIStatusError():
                return self._failures.answered(error.status_code, error.response.headers, error.body)
            case anthropic.APITimeoutError():
                return self._failures.late(error, self._silence_s)
            case anthropic.APIConnectionError():
                return self._failures.away(error)
        return self._failures.nonsense(error.message)
