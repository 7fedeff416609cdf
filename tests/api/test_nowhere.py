"""Paths that are nobody's: what somebody who has the base URL wrong is told."""

import anthropic
import httpx
import openai
import pytest

from tests.api.served import Served

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/", "nothing is at /; /openapi.json describes all that is here"),
        ("GET", "/nowhere", "nothing is at '/nowhere'; /openapi.json"),
        ("POST", "/chat/completions", "/v1/chat/completions is what you may mean. The base URL of OpenAI's SDKs ends"),
        ("POST", "/v1/v1/messages", "/v1/messages is what you may mean. The base URL has /v1 once too often"),
        ("POST", "/v1//run", "/v1/run is what you may mean"),
        ("POST", "/v1/run/", "/v1/run is what you may mean"),
        ("POST", "/sessions/ses_1//executions", "/v1/sessions/ses_1/executions is what you may mean. The base URL of"),
        ("POST", "/embeddings", "this server has no embeddings"),
        ("POST", "/v1/v1/embeddings", "this server has no embeddings"),
        ("POST", "/run", "/v1/run is what you may mean"),
        ("POST", "/v1/conversations", "this server has no conversations; a chain of responses goes on by"),
        ("GET", "/v1/vector_stores/vs_1", "this server has no vector stores; let programs read the files"),
    ],
)
async def test_a_path_that_is_nobody_s_is_told_with_what_was_meant(
    client: httpx.AsyncClient, method: str, path: str, words: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 404
    told = response.json()
    assert words in (told["detail"] if "detail" in told else told["error"]["message"])


async def test_the_vendors_sdks_tell_it_to_who_has_the_base_url_wrong(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=served.url, api_key="any", max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError, match="/v1/chat/completions is what you may mean"):
            await sdk.chat.completions.create(**ASKED)  # type: ignore[call-overload]  # any form is refused
    async with anthropic.AsyncAnthropic(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as claude:
        with pytest.raises(anthropic.NotFoundError, match="/v1/messages is what you may mean"):
            await claude.messages.create(**ASKED)  # type: ignore[call-overload]


async def test_what_openai_offers_and_we_do_not_is_refused_in_openai_s_words(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError, match="this server has no embeddings"):
            await sdk.embeddings.create(model="m", input="x")
        with pytest.raises(openai.NotFoundError, match="this server has no batches"):
            await sdk.batches.list()
        with pytest.raises(openai.NotFoundError, match="this server has no way to make pictures"):
            await sdk.images.generate(prompt="a cat")


async def test_a_path_without_end_is_not_said_again_in_full(client: httpx.AsyncClient) -> None:
    response = await client.get("/" + "x" * 4000)
    assert len(response.content) < 1000
