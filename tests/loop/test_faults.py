"""The controls over real servers: the vendors' libraries, real sockets, and faults on the wire."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from sandbox.config import Settings
from sandbox.engine import open_models
from sandbox.errors import UpstreamBusy, UpstreamFailed, UpstreamRefused
from sandbox.loop.clock import Clock
from sandbox.loop.messages import Dialect, Reply
from sandbox.loop.models import Models
from tests.loop.scripted import Time, ask, settle, tell
from tests.upstreams import PAGE, Breaks, Fails, Raw, Says, Scripted, Silent, busy

DIALECTS: tuple[Dialect, ...] = ("openai", "anthropic")
both = pytest.mark.parametrize("dialect", DIALECTS)


@contextlib.asynccontextmanager
async def opened(*servers: Scripted, clock: Clock | None = None, **upstream: object) -> AsyncIterator[Models]:
    """A model `m` at each of the servers, which are called by their place: `a`, `b`, …"""
    upstreams = {
        name: {"dialect": server.dialect, "url": server.url, "breaker_failures": 4, **upstream}
        for name, server in zip("abc", servers, strict=False)
    }
    settings = Settings(upstreams=upstreams, models={"m": {"routes": [f"{name}/m" for name in upstreams]}})
    async with open_models(settings, clock=clock or Time().clock) as models:
        yield models


@both
async def test_faults_before_an_answer_are_tried_again(dialect: Dialect) -> None:
    scenes = (Fails(500), busy(retry_after=2), Silent(closes=True), PAGE, Says("Hello"))
    async with Scripted(dialect, *scenes) as server, opened(server, attempts=9, breaker_failures=9) as models:
        told = await tell(models, whole=False)
    assert told.outcomes == ["a failed", "a busy", "a failed", "a failed", "a answered"]
    assert (told.text, told.reply.message.text, told.reply.upstream) == ("Hello", "Hello", "a")


@both
@pytest.mark.parametrize("how", ["cut", "garbage", "error"])
async def test_an_answer_that_breaks_off_is_one_answer_or_one_error(dialect: Dialect, how: str) -> None:
    says = Says("A sentence that is long enough to come in many pieces, so that some are shown.")
    broken = Breaks(how, says, after=6)  # type: ignore[arg-type]
    async with Scripted(dialect, broken, broken, Says("Hello")) as server, opened(server) as models:
        watched = await tell(models, whole=False)
        assert isinstance(watched.error, UpstreamFailed | UpstreamBusy)
        assert says.text.startswith(watched.text)
        assert watched.text
        unwatched = await tell(models, whole=True)
        assert len(unwatched.outcomes) == 2
        assert unwatched.reply.message.text == "Hello"


@both
async def test_a_minute_of_rate_limit_is_told_at_once_and_then_over(dialect: Dialect) -> None:
    time = Time()
    async with Scripted(dialect, busy(retry_after=60), Says("Hello")) as server:
        async with opened(server, clock=time.clock) as models:
            first, second = await tell(models), await tell(models)
            for told in (first, second):
                assert isinstance(told.error, UpstreamBusy)
                assert told.error.retry_after == 60
            assert (first.outcomes, second.outcomes) == (["a busy"], ["a full"])
            time.pass_(60)
            assert (await tell(models)).outcomes == ["a answered"]
        assert len(server.asked) == 2


@both
async def test_a_server_that_is_down_opens_the_breaker_and_is_found_again(dialect: Dialect) -> None:
    time = Time()
    down = Scripted(dialect, *[Fails(500)] * 4, Says("Hello"))
    async with down as server, opened(server, clock=time.clock, attempts=2) as models:
        outcomes = [(await tell(models)).outcomes for _ in range(3)]
        assert outcomes == [["a failed"] * 2, ["a failed"] * 2, ["a open"]]
        time.pass_(30)
        assert (await tell(models)).outcomes == ["a answered"]
        assert models.states() == {"a": "closed"}


async def test_another_upstream_of_another_dialect_takes_over() -> None:
    locked, other = Scripted("openai", key="sk-other"), Scripted("anthropic", Says("Bonjour"))
    async with locked as a, other as b, opened(a, b) as models:
        told = await tell(models)
    assert told.outcomes == ["a refused", "b answered"]
    assert told.attempts[0].status == 401
    assert told.reply.message.text == "Bonjour"


@both
async def test_a_server_that_is_not_there_is_failed_over(dialect: Dialect) -> None:
    async with Scripted(dialect) as gone:
        pass
    async with Scripted(dialect, Says("Hello")) as server, opened(gone, server) as models:
        assert (await tell(models)).outcomes == ["a failed"] * 3 + ["b answered"]


@both
async def test_a_bad_request_is_refused_in_the_servers_words(dialect: Dialect) -> None:
    async with Scripted(dialect, Fails(400, "temperature is too hot")) as server, opened(server) as models:
        told = await tell(models)
        assert len(server.asked) == 1
    assert isinstance(told.error, UpstreamRefused)
    assert "temperature is too hot" in str(told.error)


@both
async def test_leaving_early_closes_the_connection(dialect: Dialect) -> None:
    stalls = Breaks("stall", after=4)
    async with Scripted(dialect, stalls, Says("Hello")) as server, opened(server, concurrency=1) as models:
        async with contextlib.aclosing(models.stream(ask(), whole=False)) as items:
            await anext(items)
        assert (await tell(models)).reply.message.text == "Hello"


async def test_one_connection_serves_many_requests() -> None:
    async with Scripted("openai", lambda _: Says("Hello")) as server, opened(server) as models:
        for _ in range(5):
            assert isinstance((await tell(models)).items[-1], Reply)
            await settle()
        assert server.connections == 1


@both
async def test_the_models_of_servers_are_listed_by_names_that_lead_to_them(dialect: Dialect) -> None:
    async with Scripted(dialect, models=("x", "y")) as server, opened(server, clock=Clock()) as models:
        listed = [model.name for model in await models.list()]
        assert listed == (["m", "x", "y"] if dialect == "openai" else ["m", "a/x", "a/y"])


@both
async def test_a_server_that_shows_a_page_instead_of_its_models_is_left_out(
    dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sandbox")
    page = Raw(b"<html><title>Log in</title></html>")
    listing = Scripted("openai", models=("x",))
    async with Scripted(dialect, models=page) as a, listing as b, opened(a, b, clock=Clock()) as models:
        assert [model.name for model in await models.list()] == ["m", "x" if dialect == "anthropic" else "b/x"]
    assert "an upstream does not list its models" in caplog.text


@pytest.fixture
def one_address(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes an address that of the only upstream."""

    def point(url: str) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
            monkeypatch.delenv(name, raising=False)

    return point


async def test_a_local_servers_first_model_is_chosen_where_nothing_is_said(one_address: Callable[[str], None]) -> None:
    async with Scripted("openai", models=("qwen", "llama")) as server:
        one_address(server.url)
        async with open_models(Settings()) as models:
            assert (await models.chosen("")).name == "qwen"


async def test_a_model_that_cannot_chat_is_not_chosen_before_one_that_may(one_address: Callable[[str], None]) -> None:
    async with Scripted("openai", models=("text-embedding-ada-002", "whisper-1", "gpt-4o")) as server:
        one_address(server.url)
        async with open_models(Settings()) as models:
            assert (await models.chosen("")).name == "gpt-4o"


async def test_who_names_no_model_is_told_that_the_server_is_away(one_address: Callable[[str], None]) -> None:
    async with Scripted("openai", models=("qwen",)) as server:
        one_address(server.url)
    async with open_models(Settings()) as models:
        with pytest.raises(UpstreamFailed, match="no model is named, and none can be chosen: openai does not list"):
            await models.chosen("")
