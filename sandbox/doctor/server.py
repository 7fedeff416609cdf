"""What keeps `sandbox serve` from starting with these settings, or its models from being asked, on any host."""

import ipaddress
import socket
from collections.abc import AsyncIterator

from sandbox.config import Settings
from sandbox.doctor.finding import Finding, Grade
from sandbox.errors import InvalidSetting, SandboxError
from sandbox.plans import catalogue
from sandbox.store import Store


async def examine_server(settings: Settings) -> list[Finding]:
    """Only what is not as it should be. Never raises for what it finds."""
    return [found async for found in _look(settings)]


async def _look(settings: Settings) -> AsyncIterator[Finding]:
    try:
        catalogue(settings)
    except InvalidSetting as error:
        yield Finding("models", Grade.C, str(error), "correct the setting: until then `sandbox serve` does not start")
    if _is_public(settings.host):
        try:
            async with Store.look_into(settings.database) as store:
                has_key = store is not None and await store.any_key()
        except SandboxError as error:
            yield Finding("database", Grade.C, str(error), "until then `sandbox serve` does not start")
            return
        if not has_key:
            found = f"host is {settings.host}, which others can reach, and there is no key; it will not start"
            yield Finding("server", Grade.C, found, "sandbox key create NAME")


def _is_public(host: str) -> bool:
    """Whether others than this machine can reach it. An address that cannot be had is said of by who listens there."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return not all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
