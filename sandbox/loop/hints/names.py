"""Names, keys, attributes, modules, positions and parameters that are not there."""

import posixpath
import re
import sys
from collections.abc import Iterator

from sandbox.loop.hints import libraries
from sandbox.loop.hints.case import NEAR, Case, nearest, ratio, several, versions, wanted
from sandbox.loop.hints.files import files_here
from sandbox.loop.hints.removals import removals
from sandbox.loop.tool import shortened


def missing_key(case: Case) -> Iterator[str]:
    """`KeyError`, `usecols`, names in queries: what there is."""
    if not case.available:
        return
    where = case.looked_in.partition(": ")[0]
    key = wanted(case.value)
    as_text, same = f"'{key}'", key in case.available
    if same and as_text in case.value:
        yield f"{key} is a number there, not text: write it without quotes."
    elif as_text in case.available and as_text not in case.value:
        yield f"{as_text} is text there, not a number: write it with quotes."
    else:
        verb = "has" if where.startswith(("index ", "labels ")) else "are"
        yield f"The {where} {verb} {several(case.available)}.{nearest(key, case.available)}"
    if where.startswith("index of ") and re.fullmatch(r"-?\d+", case.value) and "Series" in case.looked_in:
        yield f"[{case.value}] is a label, not a position; for positions use .iloc[{case.value}]."


def missing_attribute(case: Case) -> Iterator[str]:
    gone = [*removals(case.said, versions(case))]
    yield from gone
    if gone:
        return
    yield from in_place(case)
    yield from hiding(case)
    near = [name for name in case.available if ratio(wanted(case.value), name) >= NEAR]
    columns = [name for name in case.available if name[:1] in "'\""]
    owner = re.sub(r"^attributes (?:and columns )?of (?:an? )?", "", case.looked_in).partition(":")[0]
    if columns and not any(name not in columns for name in near[:1]):
        yield f"The columns of {owner} are {several(columns)}.{nearest(wanted(case.value), columns)}"
    elif near and "se `" not in case.value:  # numpy says itself what to use
        yield f"{owner} has {several(near[:5])}."


def in_place(case: Case) -> Iterator[str]:
    if "'NoneType' object" in case.value and (
        match := re.search(r"^[ \t]*+(\w++)[ \t]*+=[^=\n].*\binplace[ \t]*=[ \t]*True", case.code, re.M)
    ):
        yield f"A call with inplace=True returns None, so {match[1]} is None: do not assign its result."


def hiding(case: Case) -> Iterator[str]:
    match = re.search(r"/mnt/data/(\w+)\.py|partially initialized module '(\w+)'", case.value)
    name = (match[1] or match[2]) if match else ""
    if any(file.path == f"{name}.py" for file in case.files):
        yield f"/mnt/data/{name}.py hides the library of that name: rename it."


def undefined(case: Case) -> Iterator[str]:
    if case.looked_in.startswith(("columns of ", "index of ")):
        yield from missing_key(case)
        return
    match = re.search(r"name '(\w+)' is not defined", case.value)
    if match is None:
        return
    name = match[1]
    gone = [*removals(case.said, versions(case))]
    yield from gone
    if case.lost or case.execution.state_lost:
        yield "The kernel was replaced since: all variables and imports are lost; define them again."
    if (how := libraries.ALIASES.get(name)) or (how := _import_of(name, case)):
        yield f"`{name}` is not imported: {how}"
        return
    near = [each for each in case.available if ratio(name, each) >= 0.7]
    if near:
        yield f"Defined are {several(near[:3])}."
    elif not gone and case.execution.execution_count == 1 and not (case.lost or case.execution.state_lost):
        yield "This was the first code in this kernel: nothing is defined from before."


def _import_of(name: str, case: Case) -> str:
    known = set(libraries.import_names(case.facts.libraries)) | set(sys.stdlib_module_names)
    return f"import {name}" if name in known and not name.startswith("_") else ""


def missing_module(case: Case) -> Iterator[str]:
    gone = [*removals(case.said, versions(case))]
    yield from gone
    match = re.search(r"No module named '([\w.]+)'", case.value)
    if gone or match is None:
        return
    module = match[1]
    root = module.partition(".")[0]
    if "." in module and libraries.installed(root, case.facts.libraries):
        yield from hiding(case)
        if near := [name for name in case.available if ratio(module.rpartition(".")[2], name) >= NEAR]:
            yield f"{module.rpartition('.')[0]} has {several(near[:4])}."
        return
    if own := next((file.path for file in case.files if posixpath.basename(file.path) == f"{root}.py"), None):
        yield f"There is {shortened(own)} in /mnt/data: sys.path.insert(0, '/mnt/data/{posixpath.dirname(own)}') first."
        return
    if (near_one := libraries.nearest(root, case.facts.libraries)) and near_one != root:
        yield f"There is no {root} here; there is {near_one}."
        return
    yield from _not_installed(root, case)


def _not_installed(root: str, case: Case) -> Iterator[str]:
    if root in libraries.NETWORK:
        yield f"{root} is not installed and would be of no use: there is no network. {files_here(case)}"
        return
    instead, needs = libraries.SUBSTITUTES.get(root, ("", ""))
    if instead and (not needs or libraries.installed(needs, case.facts.libraries)):
        yield f"{root} is not installed and cannot be. Use {instead} instead."
    else:
        yield f"{root} is not installed and cannot be: do without it."


def missing_import(case: Case) -> Iterator[str]:
    gone = [*removals(case.said, versions(case))]
    yield from gone
    if match := re.search(r"Missing optional dependency '([\w.-]+)'|`?Import (\w+)`? failed", case.value):
        name = match[1] or match[2]
        without = libraries.OPTIONAL.get(name.lower())
        yield f"{name} is not installed and cannot be." + (f" Use {without}." if without else "")
    elif not gone:
        yield from hiding(case)
        if near := [name for name in case.available if ratio(wanted(case.value), name) >= NEAR]:
            yield f"{case.looked_in.removeprefix('module ')} has {several(near[:4])}."


def position(case: Case) -> Iterator[str]:
    if match := re.fullmatch(r"(.+): (\w+) of length (\d{1,18})", case.looked_in):
        last = int(match[3]) - 1
        yield f"{match[1]} is empty." if last < 0 else f"{match[1]} has {match[3]} items, 0 to {last}."
    elif match := re.fullmatch(r"(.+?): (.+)", case.looked_in):
        yield f"{match[1]} is a {match[2]}." if " of " in match[2] else ""


def parameter(case: Case) -> Iterator[str]:
    gone = [*removals(case.said, versions(case))]
    yield from gone
    if not gone and case.looked_in.startswith("parameters of "):
        function = case.looked_in.removeprefix("parameters of ")
        if near := [name for name in case.available if ratio(wanted(case.value), name) >= NEAR]:
            yield f"{function} takes {several(near[:3])}."
        elif case.available:
            yield f"{function} takes {several(case.available)}."
