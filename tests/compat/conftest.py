"""What tests of the vendors' APIs share: a server whose model is scripted, and SDKs of several ages."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import NewDataDir, new_data_dir
from tests.api.served import Served, serving
from tests.compat.environments import Environments
from tests.upstreams import Scripted

__all__ = ["new_data_dir"]


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[Scripted]:
    """The model: it says what a test has told it to say."""
    async with Scripted("openai", models=("scripted", "other")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def hosted(new_data_dir: NewDataDir, nothing_left: None, upstream: Scripted) -> AsyncIterator[Served]:
    """A server in the place of the vendor's."""
    table = {"scripted": {"url": upstream.url, "attempts": 1, "breaker_failures": 1000}}
    async with serving(new_data_dir(), pool_size=2, upstreams=json.dumps(table)) as served:
        yield served


@pytest.fixture(autouse=True)
def _nothing_said_yet(request: pytest.FixtureRequest) -> None:
    """Each test reads only what was asked of the model in it."""
    if "upstream" in request.fixturenames:
        request.getfixturevalue("upstream").asked.clear()


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Older SDKs, each in an environment of its own."""
    return Environments(tmp_path_factory.mktemp("sdks"))
