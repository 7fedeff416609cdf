"""A text editor for models: look at a file, make one, put one piece of text in the place of another."""

import base64
import os
from typing import Any

HOME = "/mnt/data"
MOST = 100_000
"""Characters that are shown of a file."""
MOST_BYTES = 3_500_000
"""Of an image or a PDF."""
SEEN = {".png": "image", ".jpg": "image", ".jpeg": "image", ".gif": "image", ".webp": "image", ".pdf": "pdf"}
LISTED = 500
"""Entries of a directory."""


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Do what `command` says; with `error_code` and `error_message` when that cannot be done."""
    path = os.path.join(HOME, asked["path"])
    try:
        if asked["command"] == "view":
            return view(path, asked.get("view_range"))
        if asked["command"] == "create":
            return create(path, asked["file_text"])
        return replace(path, asked["old_str"], asked["new_str"])
    except FileNotFoundError:
        return failure("file_not_found", f"there is no file {path}")
    except OSError as error:
        return failure("invalid_tool_input", f"{path}: {error.strerror or error}")


def failure(code: str, message: str) -> dict[str, Any]:
    return {"error_code": code, "error_message": message}


def view(path: str, view_range: list[int] | None) -> dict[str, Any]:
    if os.path.isdir(path):
        return shown("\n".join(listing(path)), 1, None)
    kind = SEEN.get(os.path.splitext(path)[1].lower(), "text")
    if kind != "text":
        if os.path.getsize(path) > MOST_BYTES:
            return failure("invalid_tool_input", f"{path} has more than {MOST_BYTES} bytes, too many to be shown")
        with open(path, "rb") as file:
            return {"file_type": kind, "content": base64.b64encode(file.read()).decode()}
    # Line by line: a file may be larger than memory, and half of one is better than none.
    first, last = view_range or (1, -1)
    if first < 1 or (last != -1 and last < first):
        return failure("invalid_tool_input", f"view_range: {first} to {last} are no lines; count from 1, -1 is the end")
    lines, room, total = [], MOST, 0
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        for total, line in enumerate(file, 1):  # it is the number of the last
            if total >= first and (last == -1 or total <= last) and room > 0:
                lines.append(line[:room])
                room -= len(line)
    if first > max(total, 1):
        return failure("invalid_tool_input", f"view_range: {path} has {total} lines")
    return shown("".join(lines), first, total)


def shown(text: str, first: int, total: int | None) -> dict[str, Any]:
    lines = len(text.splitlines())
    return {
        "file_type": "text",
        "content": text,
        "num_lines": lines,
        "start_line": first,
        "total_lines": lines if total is None else total,
    }


def listing(path: str) -> list[str]:
    """What is in a directory, and in those below it."""
    found = []
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        found.append(entry.name + ("/" if entry.is_dir() else ""))
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            inner = sorted(os.scandir(entry.path), key=lambda entry: entry.name)
            found += [f"{entry.name}/{each.name}{'/' if each.is_dir() else ''}" for each in inner]
    more = [f"... and {len(found) - LISTED} more"] if len(found) > LISTED else []
    return [name.encode("utf-8", "replace").decode() for name in found[:LISTED]] + more


def create(path: str, text: str) -> dict[str, Any]:
    was = os.path.exists(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return {"is_file_update": was}


def replace(path: str, old: str, new: str) -> dict[str, Any]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read()
    count = text.count(old) if old else 0
    if count != 1:
        many = f"{count} times" if count else "not"
        return failure("invalid_tool_input", f"old_str is {many} in {path}; it has to be there exactly once")
    before, _, after = text.partition(old)
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(before + new + after)
    return changed(before, old, new, after)


def changed(before: str, old: str, new: str, after: str) -> dict[str, Any]:
    """Which whole lines became which."""
    head = before.rpartition("\n")[2]
    tail, end, _ = after.partition("\n")
    start = before.count("\n") + 1
    was, now = (head + old + tail + end).splitlines(), (head + new + tail + end).splitlines()
    while was and now and was[-1] == now[-1]:
        was, now = was[:-1], now[:-1]
    while was and now and was[0] == now[0]:
        was, now, start = was[1:], now[1:], start + 1
    lines = [f"-{line}" for line in was] + [f"+{line}" for line in now]
    return {
        "old_start": start,
        "old_lines": len(was),
        "new_start": start,
        "new_lines": len(now),
        "lines": [line.encode("utf-8", "replace").decode() for line in lines],
    }
