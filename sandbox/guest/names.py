"""Names of things without asking the things, and which of them are alike.

Read from the dictionaries of objects and classes: no `__getattr__`, `__dir__`, `__eq__` or property of a program's is
called. Bounded in number, length and time.
"""

import difflib
import os
import re
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from types import FrameType, GetSetDescriptorType, ModuleType
from typing import Any

NAMES = 30
LENGTH = 80
"""Characters of a name."""
CONSIDERED = 2000
"""Names that are looked at."""
_SECONDS = 0.1
"""Of processor time, for comparing them."""
_NEAR = 0.6
_SHELL = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open"})


def words(text: Any) -> str:
    """A string, or none of it."""
    return text if type(text) is str else ""


def is_pandas(thing: Any, name: str) -> bool:
    """Whether it is of pandas' class of that name, or of one that pandas derives from it."""
    kind = type(thing)
    if words(type.__getattribute__(kind, "__module__")).partition(".")[0] != "pandas":
        return False
    return not name or any(each.__name__ == name for each in type.__getattribute__(kind, "__mro__"))


def locals_of(frame: FrameType) -> dict[str, Any]:
    """The frame's own; of a class body with a namespace of its own making, nothing."""
    scope: Any = frame.f_locals
    return dict(scope) if type(scope) is dict or type(scope).__name__ == "FrameLocalsProxy" else {}


def visible(scope: dict[str, Any]) -> list[str]:
    names = [name for name in islice(scope, CONSIDERED) if type(name) is str]
    return [name for name in names if not name.startswith("_") and name not in _SHELL]


def dict_of(thing: Any) -> dict[str, Any]:
    """An object's own dictionary, from the slot itself."""
    for kind in type.__getattribute__(type(thing), "__mro__"):
        slot = type.__getattribute__(kind, "__dict__").get("__dict__")
        if type(slot) is GetSetDescriptorType:
            own = slot.__get__(thing)
            return own if type(own) is dict else {}
    own = vars(ModuleType)["__dict__"].__get__(thing) if issubclass(type(thing), ModuleType) else {}
    return own if type(own) is dict else {}


def attributes(thing: Any) -> Iterator[str]:
    for names in (dict_of(thing), *map(_class_dict, type.__getattribute__(type(thing), "__mro__"))):
        yield from [name for name in islice(names, CONSIDERED) if type(name) is str]
    if issubclass(type(thing), type):
        for kind in type.__getattribute__(thing, "__mro__"):
            yield from [name for name in islice(_class_dict(kind), CONSIDERED) if type(name) is str]


def _class_dict(kind: type) -> dict[str, Any]:
    return dict(type.__getattribute__(kind, "__dict__"))


def class_value(kind: type, name: str) -> Any:
    for each in type.__getattribute__(kind, "__mro__"):
        if name in (own := _class_dict(each)):
            return own[name]
    return None


def module_names(module: ModuleType) -> list[str]:
    own = dict_of(module)
    public = own.get("__all__")
    names = [*own, *(public if isinstance(public, list | tuple) else ())]
    return [name for name in names if type(name) is str and not name.startswith("_")] + submodules(module)


def submodules(module: ModuleType) -> list[str]:
    """By the files in its directories."""
    found = []
    path = dict_of(module).get("__path__")
    for directory in islice(path, 4) if type(path) is list else ():
        if type(directory) is str and os.path.isdir(directory):
            found += [entry.partition(".")[0] for entry in islice(os.listdir(directory), CONSIDERED)]
    return [name for name in found if name.isidentifier() and not name.startswith("_")]


# The nearest first.


def keys_as_code(keys: Iterable[Any], wanted: Any) -> list[str]:
    """As literals, the nearest first. Keys of types that are not plain are left out."""
    told = [text for key in islice(keys, CONSIDERED) if (text := _as_code(key))]
    return near_first(meant(wanted), told)


def meant(said: Any) -> str:
    """The key in `'Price'`, `["'Price'"] not in index`, `Column not found: Price`."""
    if type(said) is not str:
        return str(said) if type(said) in (int, float) else ""
    match = re.search(r"'([^']+)'|not found: (.+)", said)
    return (match[1] or match[2]) if match else said


def _as_code(key: Any) -> str:
    kind = type(key)
    if kind in (str, int, float, bool, bytes) or key is None:
        text = repr(key[:LENGTH] if kind in (str, bytes) else key)
    elif kind is tuple and len(key) <= 5 and all(type(each) in (str, int, float, bool) for each in key):
        text = repr(key)
    elif kind.__module__ in ("numpy", "datetime") or is_pandas(key, ""):
        text = str(key)
    else:
        return ""
    return text[: LENGTH + 2]


def near_first(wanted: str, names: list[str]) -> list[str]:
    alike = near(wanted, names)
    return [*alike, *(name for name in islice(names, NAMES) if name not in alike)][:NAMES]


def near(wanted: str, names: Iterable[str]) -> list[str]:
    """Those alike, whatever their case and whatever stands between their words; the most alike first."""
    until = time.thread_time() + _SECONDS
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(_plain(wanted))
    scores = {}
    for name in islice(dict.fromkeys(names), CONSIDERED):
        matcher.set_seq1(_plain(name))
        if matcher.real_quick_ratio() >= _NEAR and matcher.quick_ratio() >= _NEAR and matcher.ratio() >= _NEAR:
            scores[name] = matcher.ratio()
        elif len(wanted) > 2 and _plain(wanted) and _plain(wanted) in _plain(name):
            scores[name] = _NEAR
        if time.thread_time() > until:
            break
    return sorted(scores, key=lambda name: -scores[name])[:8]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name[:LENGTH]).casefold()
