"""What tests of the API share: one server for many, a session on it, and data directories for servers of their own."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from sandbox.image import Image
from sandbox.keys import KeyLimits, new_key
from sandbox.store import Store
from tests.api.served import Served, serving

NewDataDir = Callable[[], Path]


@pytest.fixture(scope="session")
def new_data_dir(tmp_path_factory: pytest.TempPathFactory, python_image: Image, root: None) -> NewDataDir:
    """Makes empty data directories."""
    return lambda: tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
async def served(new_data_dir: NewDataDir, nothing_left: None) -> AsyncIterator[Served]:
    """One server without keys for all tests that do not break it."""
    async with serving(new_data_dir(), pool_size=2, max_upload_mb=64) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with served.client() as client:
        yield client


@pytest.fixture
async def session(client: httpx.AsyncClient) -> AsyncIterator[str]:
    """The URL path of a fresh session."""
    response = await client.post("/v1/sessions", json={})
    assert response.status_code == 201, response.text
    path = f"/v1/sessions/{response.json()['id']}"
    yield path
    await client.delete(path)


async def add_key(data_dir: Path, name: str = "test", limits: KeyLimits | None = None) -> str:
    """The secret of a new key of the server there."""
    secret, row = new_key(name, limits or KeyLimits(), time.time())
    async with Store.open(f"sqlite:///{data_dir}/sandbox.db") as store:
        await store.add_key(row)
    return secret
