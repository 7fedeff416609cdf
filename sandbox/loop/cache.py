"""Replies that need not be paid for twice."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cachetools import TTLCache

from sandbox.loop.catalogue import ModelPlan
from sandbox.loop.clock import Clock
from sandbox.loop.messages import Reply, Request, Usage
from sandbox.loop.openai_chat import is_plural


class Replies:
    """Whole replies by all that was asked. The least recently used leaves first, each after its time."""

    def __init__(self, entries: int, seconds: float, clock: Clock) -> None:
        """entries: 0 keeps nothing."""
        self._kept: TTLCache[str, Reply] | None = TTLCache(entries, seconds, clock.now) if entries else None

    def get(self, plan: ModelPlan, request: Request) -> Reply | None:
        """A reply to the very same request, or None."""
        if self._kept is None or (digest := _digest(plan, request)) is None:
            return None
        return self._kept.get(digest)

    def put(self, plan: ModelPlan, request: Request, reply: Reply) -> None:
        """Keep it, if the plan's rule has it and it is complete."""
        if self._kept is None or reply.finish not in ("stop", "tool_calls"):
            return
        if (digest := _digest(plan, request)) is not None:
            # Nothing is spent on it any more, which is what a budget asks.
            self._kept[digest] = dataclasses.replace(reply, cached=True, cost=0.0, usage=Usage())


def _digest(plan: ModelPlan, request: Request) -> str | None:
    """Equal for equal requests alone; None for one that is not to be cached."""
    if plan.cache == "never" or (plan.cache == "temperature_0" and request.temperature != 0):
        return None
    if is_plural(request):  # a reply holds one choice, without log probabilities
        return None
    # The default model may be asked for with and without a name.
    asked = dataclasses.replace(request, model=plan.name, caller="")
    try:
        text = json.dumps(asked, default=_plain, sort_keys=True, ensure_ascii=False)
    except TypeError:  # an extra field that is no JSON
        return None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
