"""Who answers: the whole seam between a loop and a model's server.

An upstream knows one address, one dialect and one key, and tries once. Trying again, elsewhere, or not at all is up to
`models`, which reads from an upstream's error whether that can help.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from sandbox.loop.messages import Delta, Dialect, Reply, Request

CONNECT_S = 5.0
"""Seconds until there must be a connection."""
SILENCE_S = 120.0
"""Seconds from one piece of an answer to the next; before the first one, models that think are silent for long."""


class Upstream(Protocol):
    """One server that has models."""

    @property
    def name(self) -> str:
        """As the settings have it."""

    @property
    def dialect(self) -> Dialect:
        """What it speaks."""

    def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """One turn: pieces as they come, and the whole `Reply` last. Close the generator to leave early.

        Raises `UpstreamRefused`, `UpstreamBusy`, `UpstreamFailed`; also after pieces have come.
        """

    async def models(self) -> list[str]:
        """The names of the models it has. Raises as `stream` does."""

    async def aclose(self) -> None:
        """Give its connections up. May be called twice."""
