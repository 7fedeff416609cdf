"""From the settings' tables to the plans of the model loop."""

import dataclasses
import os
from collections.abc import Mapping

from pydantic import SecretStr

from sandbox.config import Settings
from sandbox.errors import InvalidSetting
from sandbox.loop.budget import Budget
from sandbox.loop.catalogue import (
    KEY_VARIABLES,
    Catalogue,
    ModelPlan,
    Prices,
    Route,
    Shadow,
    UpstreamPlan,
    environment_upstreams,
)
from sandbox.tables import ModelTable, PricesTable, UpstreamTable


def catalogue(settings: Settings, environment: Mapping[str, str] = os.environ) -> Catalogue:
    """The upstreams and models of the settings; without upstreams, those of the vendors' own variables.

    Raises `InvalidSetting` for a key that the environment does not have, and for a route that leads nowhere.
    """
    upstreams = {name: _upstream_plan(name, table, environment) for name, table in settings.upstreams.items()}
    upstreams = upstreams or environment_upstreams(environment)
    models = {name: _model_plan(name, table, settings, upstreams) for name, table in settings.models.items()}
    return Catalogue(upstreams, models, settings.model, closed=not settings.unlisted_models)


def budget(settings: Settings) -> Budget:
    """What one run of the model loop may spend."""
    return Budget(
        turns=settings.loop_turns,
        attempts=settings.loop_attempts,
        tokens=settings.loop_tokens,
        usd=settings.loop_usd,
        seconds=settings.loop_seconds,
    )


def known_secrets(settings: Settings, catalogue: Catalogue) -> list[str]:
    """What must not be kept in traces, whatever it looks like."""
    keys = [settings.api_key, *(plan.key for plan in catalogue.upstreams.values())]
    headers = [value for plan in catalogue.upstreams.values() for value in plan.headers.values()]
    return [key.get_secret_value() for key in keys if key is not None] + headers


def _upstream_plan(name: str, table: UpstreamTable, environment: Mapping[str, str]) -> UpstreamPlan:
    plan = UpstreamPlan(
        name,
        table.dialect,
        (table.url or "").rstrip("/"),
        table.key,
        table.key_variable or "",
        concurrency=table.concurrency,
        requests_per_minute=table.requests_per_minute,
        tokens_per_minute=table.tokens_per_minute,
        timeout_s=table.timeout_s,
        attempts=table.attempts,
        breaker_failures=table.breaker_failures,
        breaker_rest_s=table.breaker_rest_s,
        headers={header: value.get_secret_value() for header, value in table.headers.items()},
        prices=_prices(table.prices),
    )
    # A vendor's key goes to that vendor, and to another server only where the settings say so.
    variable = table.key_variable or (KEY_VARIABLES[plan.dialect] if plan.is_vendors else "")
    if plan.key is not None or not variable:
        return plan
    key = environment.get(variable, "")
    if not key and table.key_variable:
        raise InvalidSetting(
            f"upstreams.{name}.key_variable is {variable!r}, but the environment has no {variable}; set it to the key"
        )
    return dataclasses.replace(plan, key=SecretStr(key) if key else None, key_variable=variable)


def _model_plan(name: str, table: ModelTable, settings: Settings, upstreams: Mapping[str, UpstreamPlan]) -> ModelPlan:
    routes = tuple(_route(route) for route in table.routes)
    first = upstreams.get(routes[0].upstream)
    return ModelPlan(
        name,
        routes,
        table.policy or settings.model_policy,
        _prices(table.prices),
        pictures=bool(first and first.is_vendors) if table.pictures is None else table.pictures,
        fenced=table.fenced,
        cache=table.cache,
        shadow=Shadow(_route(table.shadow), table.shadow_share, table.shadow_usd) if table.shadow else None,
    )


def _route(text: str) -> Route:
    upstream, _, model = text.partition("/")
    return Route(upstream, model)


def _prices(table: PricesTable | None) -> Prices | None:
    return None if table is None else Prices(table.input, table.output, table.cache_read, table.cache_write)
