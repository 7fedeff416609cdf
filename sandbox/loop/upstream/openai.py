"""Any server that speaks OpenAI's Chat Completions, through the `openai` SDK."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from functools import partial

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream, Omit
from openai.types.chat import ChatCompletionChunk

from sandbox.errors import UpstreamError
from sandbox.loop import openai_chat
from sandbox.loop.messages import Delta, Dialect, Reply, Request
from sandbox.loop.surrogates import encoded
from sandbox.loop.upstream import CONNECT_S, SILENCE_S
from sandbox.loop.upstream.answer import Answer, Wire
from sandbox.loop.upstream.failures import Failures
from sandbox.loop.upstream.transport import client

_OPENAI = "https://api.openai.com/v1"
_UNUSED_KEY = "none"


class OpenAIUpstream:
    """OpenAI, vLLM, llama.cpp, Ollama, a gateway."""

    dialect: Dialect = "openai"

    def __init__(
        self,
        name: str,
        *,
        base_url: str = _OPENAI,
        key: str = "",
        key_name: str = "",
        headers: Mapping[str, str] | None = None,
        connect_s: float = CONNECT_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """name: in the settings. base_url: with its `/v1`. key: empty for a server that wants none. key_name: the
        environment variable that has it, for messages. headers: sent with every request. connect_s, silence_s: seconds
        until a connection must be made, and from one piece of an answer to the next.
        """
        self.name = name
        self._silence_s = silence_s
        self._failures = Failures(name, base_url, key, key_name, headers or {})
        self._wire = Wire(
            reading=partial(openai_chat.Reading, name),
            whole=partial(openai_chat.whole, upstream=name),
            error=openai_chat.error,
            last=lambda message: message.data.startswith("[DONE]"),
        )
        # The SDK takes two of them from the environment, where they are meant for OpenAI and nobody else.
        unsent = () if base_url == _OPENAI else ("OpenAI-Organization", "OpenAI-Project")
        omitted = {name: Omit() for name in (*unsent, *(() if key else ("Authorization",)))}
        self._headers: dict[str, str | Omit] = {**omitted, **(headers or {})}
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=key or _UNUSED_KEY,
            timeout=openai.Timeout(silence_s, connect=connect_s),
            max_retries=0,
            http_client=client(),
        )
        # Habits of the server, as far as they are known.
        self._counts = True
        self._limit = openai_chat.LIMIT if base_url == _OPENAI else "max_tokens"

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """See `Upstream`."""
        async with contextlib.AsyncExitStack() as stack:
            response = await self._open(request)
            stack.push_async_callback(response.aclose)
            answer = Answer(response, self._wire, self._failures, self._silence_s)
            async with contextlib.aclosing(answer.read()) as pieces:
                async for piece in pieces:
                    yield piece

    async def models(self) -> list[str]:
        """See `Upstream`."""
        try:
            models = [model async for model in self._client.models.list(extra_headers=self._headers)]
        except openai.APIError as error:
            raise self._failure(error) from error
        except httpx2.HTTPError as error:
            raise self._failures.broken(error, self._silence_s) from error
        except Exception as error:  # the SDK stumbles over whatever is no list of models, such as a page
            raise self._failures.nonsense("what should list its models does not") from error
        return [name for model in models if isinstance(name := getattr(model, "id", None), str) and name]

    async def aclose(self) -> None:
        """See `Upstream`."""
        await self._client.close()

    async def _open(self, request: Request) -> httpx2.Response:
        """The beginning of an answer. A server that does not know a field that we add by ourselves is asked again."""
        while True:
            counts, limit = self._counts, self._limit  # others may learn meanwhile what this one is about to
            try:
                return await self._ask(request, counts=counts, limit=limit)
            except openai.APIStatusError as error:
                if not self._adapts(error, counts=counts, limit=limit):
                    raise self._failure(error) from error
            except openai.APIError as error:
                raise self._failure(error) from error
            except httpx2.HTTPError as error:
                raise self._failures.broken(error, self._silence_s) from error

    async def _ask(self, request: Request, *, counts: bool, limit: str) -> httpx2.Response:
        body = openai_chat.body(request, upstream=self.name, limit=limit) | {"stream": True}
        if counts:
            body["stream_options"] = {"include_usage": True}
        # As bytes it goes out as it is. Arguments of `create` the SDK would walk, all of them, which takes longer the
        # more has been said, to no other end.
        response: object = await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=encoded(body),
            options={"headers": self._headers},
            stream=True,
            stream_cls=AsyncStream[ChatCompletionChunk],
        )
        assert isinstance(response, httpx2.Response), "that is what it was to be cast to"
        return response

    def _adapts(self, error: openai.APIStatusError, *, counts: bool, limit: str) -> bool:
        """Whether the error is about a habit of ours that this request had, and that is dropped: each at most once."""
        if error.status_code not in (400, 422):
            return False
        words = f"{error.message} {error.param}"
        if counts and ("stream_options" in words or "include_usage" in words):
            self._counts = False
            return True
        if limit == "max_tokens" and openai_chat.LIMIT in words and "max_tokens" in words:
            self._limit = openai_chat.LIMIT
            return True
        return False

    def _failure(self, error: openai.APIError) -> UpstreamError:
        match error:
            case openai.APIStatusError():
                return self._failures.answered(error.status_code, error.response.headers, error.body)
            case openai.APITimeoutError():
                return self._failures.late(error, self._silence_s)
            case openai.APIConnectionError():
                return self._failures.away(error)
        return self._failures.nonsense(error.message)
