"""The OpenAPI document, and the server held against it."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import DataObject, data
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import sandbox.errors
from sandbox.api.problems import code_of, documented, status_of
from sandbox.errors import SandboxError
from tests.api.served import WAIT_SECONDS, Served

BOUNDED = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=tuple(HealthCheck),
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
async def document(served: Served) -> dict[str, Any]:
    async with served.client() as client:
        found: dict[str, Any] = (await client.get("/openapi.json")).json()
        return found


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


async def test_every_operation_has_words_examples_and_its_errors(document: dict[str, Any]) -> None:
    operations = _operations(document)
    assert len(operations) == 25
    for name, operation in operations:
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["operationId"], name
        errors = {status: told for status, told in operation["responses"].items() if status >= "400"}
        assert "403" in errors, name
        assert "422" not in errors, name
        for status, told in errors.items():
            assert told["content"].keys() <= {"application/problem+json", "application/json"}, (name, status)
        if operation.get("security") != []:
            assert {"400", "401", "500", "503"} <= errors.keys(), name
        if _takes_a_body(operation):
            assert {"408", "413"} <= errors.keys(), name
        if "{session_id}" in name:
            assert "404" in errors, name


def _takes_a_body(operation: dict[str, Any]) -> bool:
    """What bears an Idempotency-Key is compared with its body, even where none is wanted."""
    names = [parameter["name"] for parameter in operation.get("parameters", ())]
    return "requestBody" in operation or "Idempotency-Key" in names


async def test_whatever_goes_in_or_comes_out_has_an_example(document: dict[str, Any]) -> None:
    shapes = document["components"]["schemas"]
    for name, operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            assert _has_example(parameter, shapes), (name, parameter["name"])
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for where, body in bodies.items():
            for kind, content in body.get("content", {}).items():
                assert _has_example(content, shapes), (name, where, kind)


def _has_example(told: dict[str, Any], shapes: dict[str, Any]) -> bool:
    schema = told.get("schema", {})
    if "$ref" in schema:
        schema = shapes[schema["$ref"].rpartition("/")[2]]
    return bool({"example", "examples"} & (told.keys() | schema.keys()))


async def test_every_shape_in_the_document_that_is_a_whole_body_has_an_example(document: dict[str, Any]) -> None:
    shapes = document["components"]["schemas"]
    for name in (
        "RunIn",
        "ExecutionIn",
        "SessionIn",
        "ExecutionOut",
        "SessionOut",
        "FileOut",
        "ImageOut",
        "HealthOut",
        "Problem",
    ):
        assert shapes[name]["examples"], name
    for name, operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (name, parameter["name"])


@pytest.mark.attack("I01")
async def test_there_is_no_page_that_loads_scripts(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/redoc"):
        assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("error", [each for each in vars(sandbox.errors).values() if isinstance(each, type)])
def test_every_error_of_ours_has_a_status_and_a_code(error: type[SandboxError]) -> None:
    assert documented(status_of(error))
    assert code_of(error).replace("_", "") == error.__name__.lower()


@pytest.mark.attack("H16")
@pytest.mark.parametrize("mode", GenerationMode)
async def test_nothing_that_the_document_allows_or_forbids_makes_the_server_fail(
    served: Served, session: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    session_id = session.rpartition("/")[2]
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        await asyncio.to_thread(_try, operation, mode, {})
        if "{session_id}" in operation.path and operation.method != "delete":
            await asyncio.to_thread(_try, operation, mode, {"session_id": session_id})


def _try(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, known: dict[str, str]) -> None:
    """Generated requests, half of them to a session that is there; what comes back must be as documented."""

    @BOUNDED
    @given(data())
    def generated(draw: DataObject) -> None:
        case = draw.draw(operation.as_strategy(generation_mode=mode))
        case.path_parameters.update(known)
        if isinstance(case.body, dict) and "timeout_s" in case.body:
            case.body["timeout_s"] = 1.0  # of programs that nobody has read
        case.call_and_validate(checks=CHECKS, timeout=WAIT_SECONDS)

    # Some operations take nothing that could be wrong.
    with contextlib.suppress(*((Unsatisfiable,) if mode is GenerationMode.NEGATIVE else ())):
        generated()
