"""The compatibility pages: every endpoint that there is, nothing that there is not, and each line shown by a test."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from sandbox.api import chat, vendors
from sandbox.api.route import AnthropicRoute

PAGES = sorted(Path("docs/compatibility").glob("*.md"))
_HEADER = "| endpoint or field | status | proved by |"
_ENDPOINT = re.compile(r"`(GET|POST|DELETE|PUT|PATCH) (/\S+?)`")
_STATUS = re.compile(r"works(?:: .{5,})?|(?:partial|refused|ignored): .{10,}")


@dataclass(frozen=True, slots=True)
class Line:
    page: str
    what: str
    status: str
    proved_by: str

    @property
    def endpoints(self) -> list[tuple[str, str]]:
        return [(method, _shape(path)) for method, path in _ENDPOINT.findall(self.what)]


def _shape(path: str) -> str:
    """Whatever its parameters are called."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def _lines() -> list[Line]:
    lines = []
    for page in PAGES:
        inside = False
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            if line.strip() == _HEADER:
                inside = True
            elif not line.startswith("|"):
                inside = False
            elif inside and not line.startswith("|--") and not line.startswith("| --"):
                assert len(cells) == 3, f"{page}: {line}"
                lines.append(Line(page.name, *cells))
    return lines


LINES = _lines()


def _routes() -> set[tuple[str, str]]:
    """Of the vendors' APIs; chat completions and models are in the OpenAPI document, and on their own page."""
    routers = [router for router in vendors._ROUTERS if router is not chat.router]
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    theirs = [route for route in routes if not route.include_in_schema or isinstance(route, AnthropicRoute)]
    return {(method, _shape(route.path_format)) for route in theirs for method in route.methods or ()}


def _tests() -> set[str]:
    found = (
        re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
        for path in Path("tests").rglob("*.py")
    )
    return {name for names in found for name in names}


def test_there_are_pages_with_tables() -> None:
    assert {line.page for line in LINES} == {page.name for page in PAGES}
    assert len(LINES) > 100


def test_every_route_is_on_a_page_and_what_works_has_a_route() -> None:
    told = {endpoint for line in LINES for endpoint in line.endpoints}
    assert not _routes() - told
    working = {endpoint for line in LINES if not line.status.startswith("refused") for endpoint in line.endpoints}
    assert not working - _routes() - {("GET", "/v1/models"), ("GET", "/v1/models/{}")}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.page}-{line.what[:60]}")
def test_a_line_says_how_far_it_goes_and_which_test_shows_it(line: Line) -> None:
    assert _STATUS.fullmatch(line.status)
    proofs = re.findall(r"`(test_\w+)`", line.proved_by)
    assert proofs
    assert not set(proofs) - _tests()
