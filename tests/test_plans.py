"""From settings to the plans of the model loop."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from sandbox import tables
from sandbox.config import Settings
from sandbox.engine import open_models
from sandbox.errors import HostUnfit, InvalidSetting
from sandbox.loop.attempt import OUTCOMES
from sandbox.loop.catalogue import CacheRule, Catalogue, ModelPlan, Policy, Prices, Route, Shadow, UpstreamPlan
from sandbox.loop.messages import Message, Request
from sandbox.metrics import Metrics
from sandbox.plans import catalogue
from sandbox.tables import ModelTable

LOCAL = {"url": "http://127.0.0.1:8080/v1/"}


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SANDBOX_"):
            monkeypatch.delenv(name)
    file = tmp_path / "config.toml"
    file.touch()
    monkeypatch.setenv("SANDBOX_CONFIG", str(file))


def read(environment: dict[str, str] | None = None, **settings: object) -> Catalogue:
    return catalogue(Settings(**settings), environment or {})


def test_a_table_becomes_the_plan_of_an_upstream() -> None:
    table = {
        **LOCAL,
        "concurrency": 2,
        "requests_per_minute": 30,
        "tokens_per_minute": 4000,
        "timeout_s": 5,
        "attempts": 6,
        "breaker_failures": 7,
        "breaker_rest_s": 8,
        "headers": {"x-team": "blue"},
        "prices": {"input": 0, "output": 0},
    }
    plan = read(upstreams={"local": table}).upstreams["local"]
    assert plan == UpstreamPlan(
        "local",
        url="http://127.0.0.1:8080/v1",
        concurrency=2,
        requests_per_minute=30,
        tokens_per_minute=4000,
        timeout_s=5,
        attempts=6,
        breaker_failures=7,
        breaker_rest_s=8,
        headers={"x-team": "blue"},
        prices=Prices(0, 0),
    )


def test_the_defaults_of_the_tables_are_those_of_the_plans() -> None:
    assert read(upstreams={"local": LOCAL}).upstreams["local"] == UpstreamPlan("local", url="http://127.0.0.1:8080/v1")
    routes = ["local/x"]
    assert read(upstreams={"local": LOCAL}, models={"m": {"routes": routes}}).models["m"] == ModelPlan(
        "m", (Route("local", "x"),)
    )


def test_a_table_becomes_the_plan_of_a_model() -> None:
    model = {
        "routes": ["local/meta/llama", "openai/gpt-5"],
        "policy": "fastest",
        "prices": {"input": 1, "output": 2, "cache_read": 0.1},
        "pictures": True,
        "fenced": True,
        "cache": "never",
        "shadow": "openai/gpt-5-mini",
        "shadow_share": 0.5,
        "shadow_usd": 3,
    }
    known = read(upstreams={"local": LOCAL, "openai": {}}, models={"m": model})
    assert known.models["m"] == ModelPlan(
        "m",
        (Route("local", "meta/llama"), Route("openai", "gpt-5")),
        "fastest",
        Prices(1, 2, 0.1),
        pictures=True,
        fenced=True,
        cache="never",
        shadow=Shadow(Route("openai", "gpt-5-mini"), 0.5, 3),
    )


def test_the_flat_settings_hold_for_all_models() -> None:
    models = {"m": {"routes": ["openai/x"]}}
    known = read(
        upstreams={"openai": {}}, models=models, model="openai/y", model_policy="cheapest", unlisted_models=False
    )
    assert (known.models["m"].policy, known.default, known.closed) == ("cheapest", "openai/y", True)
    assert known.models["m"].pictures, "a vendor's models can see"


def test_a_key_is_read_from_the_variable_that_is_named() -> None:
    plan = read({"MY_KEY": "sk-1"}, upstreams={"local": {**LOCAL, "key_variable": "MY_KEY"}}).upstreams["local"]
    assert (plan.key, plan.key_variable) == (SecretStr("sk-1"), "MY_KEY")
    with pytest.raises(InvalidSetting, match=r"upstreams\.local\.key_variable is 'MY_KEY', but the environment has no"):
        read(upstreams={"local": {**LOCAL, "key_variable": "MY_KEY"}})


def test_a_vendors_key_goes_to_the_vendor_and_to_nobody_else() -> None:
    keys = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2"}
    known = read(keys, upstreams={"openai": {}, "a": {"dialect": "anthropic"}, "local": LOCAL}).upstreams
    assert [plan.key and plan.key.get_secret_value() for plan in known.values()] == ["sk-1", "sk-2", None]
    assert sorted(read(keys, upstreams={"openai": {}, "x": {"key": "sk-3"}}).secrets) == ["sk-1", "sk-3"]


def test_the_vendors_variables_count_only_where_no_upstream_is_configured() -> None:
    keys = {"OPENAI_API_KEY": "sk-1"}
    assert list(read(keys).upstreams) == ["openai"]
    assert list(read(keys, upstreams={"local": LOCAL}).upstreams) == ["local"]
    assert read().upstreams == {}


def test_a_route_to_no_upstream_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="there is no upstream 'locl'; there are: local"):
        read(upstreams={"local": LOCAL}, models={"m": {"routes": ["locl/x"]}})


async def test_models_open_without_an_engine_and_connect_nothing() -> None:
    async with open_models(Settings(upstreams={"local": LOCAL})) as models:
        assert models.states() == {"local": "closed"}


def test_whoever_runs_code_only_loads_no_vendors_library() -> None:
    program = "import sys, sandbox.cli; print([m for m in ('openai', 'anthropic', 'genai_prices') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = [
    pytest.param(example, id=f"{page}-{number}")
    for page in ("models.md", "settings.md")
    for number, example in enumerate(re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_settings_that_the_documentation_shows_are_settings(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "example.toml"
    file.write_text(example)
    monkeypatch.setenv("SANDBOX_CONFIG", str(file))
    known = catalogue(Settings(), {"GATEWAY_KEY": "sk-1"})
    assert known.upstreams
    for name in known.models:
        assert known.plan(name).routes


def test_what_the_documentation_shows_for_the_environment_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    [json] = re.findall(r"SANDBOX_UPSTREAMS='(.*?)'", (DOCS / "models.md").read_text())
    monkeypatch.setenv("SANDBOX_UPSTREAMS", json)
    assert list(read().upstreams) == ["local"]


@pytest.mark.parametrize("word", [*get_args(Policy), *OUTCOMES, *get_args(CacheRule)])
def test_every_policy_outcome_and_cache_rule_is_documented(word: str) -> None:
    assert f"`{word}`" in (DOCS / "models.md").read_text()


def test_every_metric_of_upstreams_is_documented() -> None:
    metrics = Metrics()
    metrics.observe_breakers(dict)
    told = re.findall(r"^# TYPE (sandbox_upstream_\w+) ", metrics.exposition()[0].decode(), re.MULTILINE)
    page = (DOCS / "models.md").read_text()
    documented = re.findall(r"^\| `(sandbox_\w+)`", page, re.MULTILINE)
    assert sorted(name for name in told if not name.endswith("_created")) == sorted(documented)


def test_the_policies_of_the_settings_are_those_of_the_loop() -> None:
    assert get_args(tables.Policy) == get_args(Policy)
    assert get_args(ModelTable.model_fields["cache"].annotation) == get_args(CacheRule)


async def test_without_the_vendors_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "sandbox.loop.upstream.openai", raising=False)
    async with open_models(Settings(upstreams={"local": {"url": "http://127.0.0.1:1/v1"}})) as models:
        request = Request("local/m", (Message.of("user", "hi"),))
        with pytest.raises(HostUnfit, match=r"needs openai: pip install '\.\[models\]' in the checkout"):
            await anext(models.stream(request, whole=True))
