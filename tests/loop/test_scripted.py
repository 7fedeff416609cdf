"""The scripted servers are true to what they stand for: the vendors' own unmodified clients understand them."""

import json

import anthropic
import openai
import pytest

from tests.upstreams import Breaks, Call, Fails, Says, Scene, Scripted, Silent, busy, runs

SPOKEN = Says("I shall look.", (Call("f", {"x": 1}), Call("g", {"y": [1, 2]}, id="mine")), usage=(7, 3))
HELLO: openai.types.chat.ChatCompletionUserMessageParam = {"role": "user", "content": "Hello"}
GREETING: anthropic.types.MessageParam = {"role": "user", "content": "Hello"}


def their_openai(server: Scripted) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0, timeout=30)


def their_anthropic(server: Scripted) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=server.url, api_key="k", max_retries=0, timeout=30)


async def test_openais_client_reads_an_answer_in_pieces_and_in_one() -> None:
    async with Scripted("openai", SPOKEN, SPOKEN) as server, their_openai(server) as client:
        asking = client.chat.completions.stream(model="m", messages=[HELLO], stream_options={"include_usage": True})
        async with asking as stream:
            streamed = await stream.get_final_completion()
        whole = await client.chat.completions.create(model="m", messages=[HELLO])
        for told in (streamed, whole):
            message = told.choices[0].message
            assert message.content == "I shall look."
            assert told.choices[0].finish_reason == "tool_calls"
            functions = [call.function for call in message.tool_calls or [] if call.type == "function"]
            assert [(each.name, json.loads(each.arguments)) for each in functions] == [
                ("f", {"x": 1}),
                ("g", {"y": [1, 2]}),
            ]
            assert told.usage is not None
            assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (7, 3)
        assert [asked.body["messages"] for asked in server.asked] == [[HELLO], [HELLO]]


async def test_anthropics_client_reads_an_answer_in_pieces_and_in_one() -> None:
    async with Scripted("anthropic", SPOKEN, SPOKEN) as server, their_anthropic(server) as client:
        async with client.messages.stream(model="m", max_tokens=9, messages=[GREETING]) as stream:
            streamed = await stream.get_final_message()
        whole = await client.messages.create(model="m", max_tokens=9, messages=[GREETING])
        for told in (streamed, whole):
            assert [block.type for block in told.content] == ["text", "tool_use", "tool_use"]
            assert [block.input for block in told.content if block.type == "tool_use"] == [{"x": 1}, {"y": [1, 2]}]
            assert told.stop_reason == "tool_use"
            assert (told.usage.input_tokens, told.usage.output_tokens) == (7, 3)


@pytest.mark.parametrize(
    ("scene", "openais", "anthropics"),
    [
        (Fails(400), openai.BadRequestError, anthropic.BadRequestError),
        (Fails(401), openai.AuthenticationError, anthropic.AuthenticationError),
        (Fails(404), openai.NotFoundError, anthropic.NotFoundError),
        (busy(3), openai.RateLimitError, anthropic.RateLimitError),
        (Fails(500), openai.InternalServerError, anthropic.InternalServerError),
        (Fails(529), openai.InternalServerError, anthropic.InternalServerError),
        (Silent(closes=True), openai.APIConnectionError, anthropic.APIConnectionError),
        (Breaks("error"), openai.APIError, anthropic.APIStatusError),
        (Breaks("cut"), openai.APIConnectionError, Exception),
        (Breaks("garbage"), json.JSONDecodeError, json.JSONDecodeError),
    ],
)
async def test_faults_are_what_the_clients_know(
    scene: Scene, openais: type[Exception], anthropics: type[Exception]
) -> None:
    async with Scripted("openai", scene) as server, their_openai(server) as client:
        with pytest.raises(openais):
            async for _ in await client.chat.completions.create(model="m", messages=[HELLO], stream=True):
                pass
    async with Scripted("anthropic", scene) as server, their_anthropic(server) as other:
        with pytest.raises(anthropics):
            async for _ in await other.messages.create(model="m", max_tokens=9, messages=[GREETING], stream=True):
                pass


async def test_a_function_answers_and_a_key_is_demanded() -> None:
    async with Scripted("openai", lambda asked: Says(asked.body["model"]), key="k") as server:
        async with their_openai(server) as client:
            for model in ("a", "b"):
                told = await client.chat.completions.create(model=model, messages=[HELLO])
                assert told.choices[0].message.content == model
        async with their_openai(server).copy(api_key="other") as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()


def test_a_thread_of_its_own_serves_who_blocks() -> None:
    with Scripted("openai", runs("print(1)")) as server:
        with openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["scripted"]
            told = client.chat.completions.create(model="m", messages=[HELLO])
        assert told.choices[0].message.tool_calls
        assert len(server.asked) == 1
