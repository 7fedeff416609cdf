"""The address of a session's file as a resource."""

from urllib.parse import quote, unquote

from sandbox.errors import FileMissing

TEMPLATE = "sandbox://session/{session_id}/{+path}"
_PREFIX = "sandbox://session/"


def uri_of(session_id: str, path: str) -> str:
    """path: below `/mnt/data`."""
    return f"{_PREFIX}{quote(session_id, safe='')}/{quote(path, errors='surrogatepass')}"


def parsed(uri: str) -> tuple[str, str]:
    """The session's id and the file's path. Raises `FileMissing` for what is no such address."""
    session_id, slash, path = uri.removeprefix(_PREFIX).partition("/")
    if not (uri.startswith(_PREFIX) and session_id and slash and path):
        raise FileMissing(f"{uri[:256]!r} is not the address of a file; one looks like {_PREFIX}ses_1/data/a.csv")
    return unquote(session_id), unquote(path, errors="surrogatepass")
