"""Which upstream and model a name means."""

import pytest
from pydantic import SecretStr

from sandbox.errors import InvalidSetting, UnknownModel
from sandbox.loop.catalogue import Catalogue, ModelPlan, Route, Shadow, UpstreamPlan, environment_upstreams

LOCAL = UpstreamPlan("local", url="http://127.0.0.1:8080/v1")
OPENAI = UpstreamPlan("openai")
ANTHROPIC = UpstreamPlan("anthropic", "anthropic")
CODER = ModelPlan("coder", (Route("local", "qwen"), Route("openai", "gpt-5")), "cheapest", fenced=True)


def catalogue(*upstreams: UpstreamPlan, **fields: object) -> Catalogue:
    models = {"coder": CODER} if {"local", "openai"} <= {plan.name for plan in upstreams} else {}
    return Catalogue({plan.name: plan for plan in upstreams}, models, **fields)  # type: ignore[arg-type]


ALL = catalogue(LOCAL, OPENAI, ANTHROPIC)


def test_a_configured_name_means_its_plan() -> None:
    assert ALL.plan("coder") == CODER


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("openai/gpt-5", Route("openai", "gpt-5")),
        ("local/meta-llama/Llama-3", Route("local", "meta-llama/Llama-3")),
        ("meta-llama/Llama-3", Route("local", "meta-llama/Llama-3")),
        ("gpt-5", Route("local", "gpt-5")),
        ("claude-sonnet-4-5", Route("anthropic", "claude-sonnet-4-5")),
        ("openai/", Route("local", "openai/")),
    ],
)
def test_another_name_means_an_upstream_by_its_prefix_or_by_who_has_it(name: str, route: Route) -> None:
    assert ALL.plan(name).routes == (route,)


def test_a_gateway_has_claude_where_anthropic_is_not() -> None:
    assert catalogue(OPENAI).plan("claude-x").routes == (Route("openai", "claude-x"),)


def test_no_name_means_the_default_or_the_first() -> None:
    assert ALL.plan("").name == "coder"
    assert catalogue(OPENAI, default="gpt-5").plan("").routes == (Route("openai", "gpt-5"),)
    with pytest.raises(UnknownModel, match="names no model, and there is no default; set `model`"):
        catalogue(OPENAI).plan("")


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (Catalogue(), "there is no upstream: set OPENAI_API_KEY or ANTHROPIC_API_KEY"),
        (catalogue(ANTHROPIC), "no model 'gpt-5'; choose from: anthropic/MODEL"),
        (catalogue(LOCAL, OPENAI, closed=True), "no model 'gpt-5'; choose from: coder"),
    ],
)
def test_a_name_that_means_nothing_is_refused_with_what_would_do(known: Catalogue, words: str) -> None:
    with pytest.raises(UnknownModel, match=words):
        known.plan("gpt-5")


def test_a_vendors_models_can_see_and_a_local_servers_cannot_unless_it_is_said() -> None:
    assert (ALL.plan("openai/gpt-5").pictures, ALL.plan("local/qwen").pictures) == (True, False)


@pytest.mark.parametrize(
    ("route", "name"),
    [
        (Route("local", "qwen"), "qwen"),
        (Route("local", "coder"), "local/coder"),
        (Route("openai", "gpt-5"), "openai/gpt-5"),
        (Route("anthropic", "claude-x"), "claude-x"),
        (Route("local", "openai/gpt-5"), "local/openai/gpt-5"),
    ],
)
def test_a_route_is_named_as_shortly_as_it_can_be(route: Route, name: str) -> None:
    assert ALL.name_of(route) == name
    assert ALL.plan(name).routes == (route,)


def test_a_route_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(
        InvalidSetting, match=r"models\.coder leads to 'local/qwen', .* no upstream 'local'; .*: openai"
    ):
        Catalogue({"openai": OPENAI}, {"coder": CODER})
    shadowed = ModelPlan("m", (Route("openai", "x"),), shadow=Shadow(Route("b", "y"), 0.1))
    with pytest.raises(InvalidSetting, match=r"models\.m leads to 'b/y'"):
        Catalogue({"openai": OPENAI}, {"m": shadowed})


def test_the_vendors_own_variables_make_upstreams() -> None:
    found = environment_upstreams({"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2"})
    assert [(plan.name, plan.dialect, plan.address) for plan in found.values()] == [
        ("openai", "openai", "https://api.openai.com/v1"),
        ("anthropic", "anthropic", "https://api.anthropic.com"),
    ]
    assert found["anthropic"].key == SecretStr("sk-2")


def test_an_address_alone_is_enough_because_a_local_server_needs_no_key() -> None:
    found = environment_upstreams({"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1/", "ANTHROPIC_API_KEY": ""})
    assert [(plan.name, plan.address, plan.key) for plan in found.values()] == [
        ("openai", "http://127.0.0.1:8080/v1", None)
    ]
    assert environment_upstreams({}) == {}
    with pytest.raises(InvalidSetting, match="OPENAI_BASE_URL is 'localhost:8080/v1'; it must begin with http://"):
        environment_upstreams({"OPENAI_BASE_URL": "localhost:8080/v1"})


def test_keys_and_headers_are_not_shown() -> None:
    plan = UpstreamPlan("a", key=SecretStr("sk-hidden"), headers={"authorization": "Bearer hidden"})
    assert "hidden" not in repr(plan)


@pytest.mark.parametrize("url", ["https://api.openai.com.evil.example/v1", "http://api.openai.com/v1", LOCAL.url])
def test_only_the_vendors_own_address_is_the_vendors(url: str) -> None:
    assert not UpstreamPlan("a", url=url).is_vendors
    assert UpstreamPlan("a", url="https://api.openai.com/v1").is_vendors
