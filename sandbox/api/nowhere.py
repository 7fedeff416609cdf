"""What is said of a path that is nobody's: mostly it is one of ours under another base URL."""

import re
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

_VERSION = "/v1"
_HOME = "/openapi.json describes all that is here, and /health says how it is"
OF_OPENAI = {
    "audio": "speech",
    "batches": "batches",
    "completions": "completions of plain text",
    "conversations": "conversations; a chain of responses goes on by `previous_response_id`",
    "embeddings": "embeddings",
    "evals": "evals",
    "fine_tuning": "fine-tuning",
    "images/edits": "way to make pictures",
    "images/generations": "way to make pictures",
    "images/variations": "way to make pictures",
    "moderations": "moderations",
    "organization": "administration",
    "realtime": "realtime sessions",
    "vector_stores": "vector stores; let programs read the files",
}
"""What is not offered of its API, by the path below `/v1`."""
_NOT_OFFERED = OF_OPENAI | {
    "messages/batches": "batches",
    "organizations": "administration",
    "skills": "skills",
}
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_MOST = 200
"""Characters of a path that is worth a guess."""


def told(error: HTTPException, routes: Sequence[BaseRoute], method: str, path: str) -> HTTPException:
    """The framework's error in words. routes: all that there are."""
    if len(path) > _MOST:
        return error
    offer = next((found for each in (path, *_variants(path)) if (found := _not_offered(each)) is not None), None)
    if offer is not None:
        return HTTPException(404, f"{path!r} is not offered here: this server has no {offer}")
    if error.status_code == 405:
        return _method(routes, method, path)
    return error if error.status_code != 404 else HTTPException(404, _words(routes, method, path))


def _method(routes: Sequence[BaseRoute], method: str, path: str) -> HTTPException:
    """The framework knows of the first route alone that has this path."""
    taken = sorted(each for each in _METHODS if _takes(routes, each, path))
    is_of_files = path.startswith("/v1/sessions/") and "/files" in path
    advice = "PUT one file at its path below /files, or POST a form with several to /files" if is_of_files else _HOME
    words = f"{method} is not offered at {path!r}, which takes {', '.join(taken)}; {advice}"
    return HTTPException(405, words, {"allow": ", ".join(taken)})


def _takes(routes: Sequence[BaseRoute], method: str, path: str) -> bool:
    return any(route.matches(_scope(method, path))[0] is Match.FULL for route in routes)


def _words(routes: Sequence[BaseRoute], method: str, path: str) -> str:
    """Where it may have been meant to go."""
    if path in ("", "/"):
        return f"nothing is at /; {_HOME}"
    if (meant := next((each for each in _variants(path) if _is_known(routes, method, each)), None)) is not None:
        return f"nothing is at {path!r}; {meant} is what you may mean. {_advice(path, meant)}"
    return f"nothing is at {path!r}; {_HOME}"


def _not_offered(path: str) -> str | None:
    below = path.removeprefix(_VERSION + "/") if path.startswith(_VERSION + "/") else ""
    return next((offer for start, offer in _NOT_OFFERED.items() if (below + "/").startswith(start + "/")), None)


def _variants(path: str) -> tuple[str, str]:
    """What it would be without the mistakes that base URLs have."""
    bare = "/" + "/".join([part for part in path.split("/") if part])
    return bare, with_version(bare)


def with_version(path: str) -> str:
    """With `/v1` in front exactly once: base URLs lack it, or have it twice."""
    return _VERSION + re.sub(r"^(/v1)+(?=/)", "", path)


def _is_known(routes: Sequence[BaseRoute], method: str, path: str) -> bool:
    return any(route.matches(_scope(method, path))[0] is not Match.NONE for route in routes)


def _scope(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": [(b"anthropic-version", b"")]}


def _advice(path: str, meant: str) -> str:
    if meant.startswith(_VERSION + "/") and not path.startswith(_VERSION + "/"):
        return "The base URL of OpenAI's SDKs ends with /v1, that of Anthropic's does not"
    if path.startswith(2 * _VERSION):
        return "The base URL has /v1 once too often: Anthropic's SDKs add it themselves"
    return "Leave out the slashes that are too many"
