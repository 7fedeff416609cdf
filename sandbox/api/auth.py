"""Whose request it is."""

from fastapi import Request

from sandbox.api.visit import Visit
from sandbox.keys import Owner


def secret_of(request: Request) -> str | None:
    """The key of `Authorization: Bearer` or, for programs that send it so, of `x-api-key`."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return request.headers.get("x-api-key") or None


async def authenticate(request: Request) -> Owner:
    """The owner, also for whoever asks the visit later. Raises `Unauthorized`, `Overloaded`."""
    owner: Owner = await request.app.state.node.owner(secret_of(request))
    Visit.of(request).enter(owner)
    return owner
