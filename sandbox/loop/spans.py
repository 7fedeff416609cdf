"""A turn as a span, by OpenTelemetry's GenAI conventions."""

from sandbox.loop.messages import Reply, Request
from sandbox.telemetry import Attribute


def asked(request: Request) -> dict[str, Attribute | None]:
    """What is known when it begins."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
    }


def replied(reply: Reply) -> dict[str, Attribute | None]:
    """What is known at its end."""
    return {
        "gen_ai.provider.name": reply.upstream,
        "gen_ai.response.model": reply.model,
        "gen_ai.response.id": reply.id or None,
        "gen_ai.usage.input_tokens": reply.usage.input_tokens,
        "gen_ai.usage.output_tokens": reply.usage.output_tokens,
    }
