"""Files that are not there or cannot be written, and addresses that cannot be reached."""

import difflib
import posixpath
import re
from collections.abc import Iterator, Sequence

from sandbox.loop.hints.case import Case
from sandbox.loop.tool import listing, shortened
from sandbox.remote import File

_COMPARED = 500
"""Files whose names are compared with one that is missing."""
_NAME = 100
"""Characters of those names."""

NETWORK_ERRORS = frozenset(
    (
        *("URLError", "HTTPError", "gaierror", "herror", "ConnectionError", "ConnectionRefusedError", "ConnectTimeout"),
        *("ConnectError", "NewConnectionError", "MaxRetryError", "ReadTimeout", "RemoteDisconnected", "ProxyError"),
        *(
            "ConnectionResetError",
            "ConnectTimeoutError",
            "NameResolutionError",
            "SSLError",
            "ServerSelectionTimeoutError",
        ),
    )
)
NO_NETWORK = re.compile(
    r"Network is unreachable|Name or service not known|Temporary failure in name resolution|No address associated|"
    r"Max retries exceeded|Failed to establish a new connection|Could not resolve host"
)


def missing_file(case: Case) -> Iterator[str]:
    match = re.search(
        r"No such file or directory: b?'([^']+)'|non-existent directory: '([^']+)'|File (\S+) does not exist",
        case.value,
    )
    path = next((group for group in match.groups() if group), "") if match else ""
    if not path:
        yield files_here(case)
        return
    if re.search(r"\bsubprocess\b|os\.exec|Popen", case.code) and "/" not in path and "." not in path:
        yield f"The program {path} is not installed and cannot be."
        return
    if path.startswith(("/proc/", "/sys/")):
        yield "A sandbox does not show /proc and /sys; its limits are in the description of the tool."
        return
    directory = path if match and match[2] else posixpath.dirname(path)
    inside = directory.removeprefix("/mnt/data").strip("/")
    if _writes(case, path) and directory:
        if directory.startswith("/") and not directory.startswith(("/mnt/data", "/tmp")):
            yield "Only /mnt/data can be written: save it there."
        else:
            yield f"There is no directory {inside or directory} yet: os.makedirs('{directory}', exist_ok=True) first."
        return
    yield files_here(case) + _nearest_file(path, case.files)


def _writes(case: Case, path: str) -> bool:
    line = case.line
    name = re.escape(posixpath.basename(path))
    opened = rf"{name}['\"],\s*(?:mode\s*=\s*)?['\"](?:w|a|x)"
    return bool(
        re.search(r"\.(?:to_\w+|save\w*|write\w*|dump)\(|non-existent directory", line + case.value)
        or re.search(opened, case.code)
        or re.search(r"open\([^)]*,\s*(?:mode\s*=\s*)?['\"](?:w|a|x)", line)
    )


def files_here(case: Case) -> str:
    listed = listing(case.files, 12)
    return "/mnt/data is empty: no file was given." if listed == "nothing yet" else f"/mnt/data holds {listed}."


def _nearest_file(path: str, files: Sequence[File]) -> str:
    name = posixpath.basename(path)[:_NAME].casefold()
    by_name = {posixpath.basename(file.path)[:_NAME].casefold(): file.path for file in files}
    close = [name] if name in by_name else difflib.get_close_matches(name, [*by_name][:_COMPARED], 1, 0.6)
    if not close:
        stem = posixpath.splitext(name)[0]
        close = [each for each in by_name if stem and (stem in each or posixpath.splitext(each)[0] in stem)][:1]
    return f" The nearest is '{shortened(by_name[close[0]])}'." if close else ""


def unwritable(case: Case) -> Iterator[str]:
    if re.search(r"Read-only file system|Permission denied|Operation not permitted", case.value):
        yield "Only /mnt/data (and /tmp) can be written: save it there."
    elif "No space left on device" in case.value or "Disk quota exceeded" in case.value:
        yield f"/mnt/data holds {case.facts.disk_mb} MB at most: remove what is no longer needed, or write less."
    elif "non-existent directory" in case.value:
        yield from missing_file(case)


def no_network(case: Case) -> Iterator[str]:
    if case.name in NETWORK_ERRORS or NO_NETWORK.search(case.value):
        yield f"There is no network here, and trying again will not help. {files_here(case)}"
