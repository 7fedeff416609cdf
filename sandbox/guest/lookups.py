"""What a failed name was looked up in, and which names there are: read from the live objects while they live.

The objects are the program's and may be hostile: decided by type, read from the dictionaries of objects and classes,
and of pandas' own classes by pandas' own attributes. No `__getattr__`, `__dir__`, `__eq__` or property of the
program's is called. Bounded in number, length and time, and never raises: an error is told with or without this.
"""

import ast
import builtins
import linecache
import re
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from types import CodeType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

from sandbox.guest.names import (
    CONSIDERED,
    LENGTH,
    NAMES,
    attributes,
    class_value,
    dict_of,
    is_pandas,
    keys_as_code,
    locals_of,
    meant,
    module_names,
    near,
    near_first,
    submodules,
    visible,
    words,
)

_FRAMES = 60

Found = tuple[str, list[str]]
"""Where it was looked for, and what there is."""


def find(value: BaseException, is_users: Callable[[str], bool]) -> Found:
    """Where what `value` misses was looked up, and what there is instead; empty when that cannot be told."""
    try:
        tb = _slot(BaseException, "__traceback__", value)
        where, names = _find(value, _stack(tb), is_users) or ("", [])
        return where[: 2 * LENGTH], names[:NAMES]
    except Exception:
        return "", []


def _find(value: BaseException, stack: list[TracebackType], is_users: Callable[[str], bool]) -> Found | None:
    kind = type(value)
    frames = [link.tb_frame for link in stack]
    users = [at for at, frame in enumerate(frames) if is_users(frame.f_code.co_filename)]
    if not users:
        return None
    at, below = stack[users[-1]], frames[users[-1] + 1 :]
    if issubclass(kind, KeyError):
        return _key(value, at, below)
    if issubclass(kind, AttributeError):
        return _attribute(*_owner(value), at.tb_frame)
    if issubclass(kind, NameError):
        return _name(_slot(NameError, "name", value), at.tb_frame) or _expression(value, at.tb_frame, below)
    if issubclass(kind, ImportError):
        return _import(value)
    if issubclass(kind, IndexError):
        return _position(at, below)
    if issubclass(kind, TypeError):
        return _keyword(value, at)
    return _argument(value, at, below)


def _stack(tb: TracebackType | None) -> list[TracebackType]:
    stack = []
    while tb is not None:
        stack.append(tb)
        tb = tb.tb_next
    return stack[-_FRAMES:]


# Errors, one by one.


def _key(value: BaseException, at: TracebackType, below: list[FrameType]) -> Found | None:
    wanted = _said(value)
    pandas = _pandas(at.tb_frame, below, meant(wanted))
    if pandas is not None:
        where, keys = pandas
        return where, keys_as_code(keys, wanted)
    if below and "self" in locals_of(below[0]):
        return None  # an object of another kind, which has its own ideas of keys
    node = _failed(at)
    if isinstance(node, ast.Subscript):
        mapping = _value(node.value, at.tb_frame)
        if issubclass(type(mapping), dict):
            return f"keys of {_source(node.value)}: {_type(mapping)}", keys_as_code(dict.keys(mapping), wanted)
    return None


def _owner(value: BaseException) -> tuple[Any, Any]:
    """Whose attribute was asked for, and which."""
    owner, name = _slot(AttributeError, "obj", value), _slot(AttributeError, "name", value)
    said = _said(value)
    if owner is None and type(said) is str:
        # A module with a `__getattr__` of its own does not say.
        match = re.match(r"module '([\w.]+)' has no attribute '(\w+)'", said)
        return (sys.modules.get(match[1]), match[2]) if match else (None, None)
    return owner, name


def _attribute(owner: Any, name: Any, frame: FrameType) -> Found | None:
    if type(name) is not str:
        return None
    if issubclass(type(owner), ModuleType):
        module = dict_of(owner).get("__name__")
        return f"module {module if type(module) is str else '?'}", near(name, module_names(owner))
    if owner is None:
        return None  # the object is not what the program takes it for, and its attributes help nobody
    where = f"attributes of {_called(owner, frame)}"
    known = [each for each in attributes(owner) if not each.startswith("_") or name.startswith("_")]
    if name in known:
        return None  # it is there, and its own code complains
    if is_pandas(owner, "DataFrame"):
        # A column is meant as often as a method.
        columns = _texts(owner.columns)
        alike = near(name, columns)
        rest = [each for each in columns if each not in alike]
        told = [repr(each[:LENGTH]) for each in alike] + near(name, known) + [repr(e[:LENGTH]) for e in rest]
        return f"attributes and columns of {_called(owner, frame)}", told
    return where, near(name, known)


def _name(name: Any, frame: FrameType) -> Found | None:
    if type(name) is not str:
        return None
    scope = {**dict.fromkeys(visible(locals_of(frame))), **dict.fromkeys(visible(frame.f_globals))}
    alike = near(name, [*scope, *visible(vars(builtins))])
    return "names in scope", alike


def _expression(value: BaseException, frame: FrameType, below: list[FrameType]) -> Found | None:
    """`df.query("price > 1")`: the names in it are columns."""
    said = _said(value)
    match = re.match(r"name '(.+)' is not defined", said) if type(said) is str else None
    pandas = _pandas(frame, below, match[1]) if match else None
    return None if pandas is None or match is None else (pandas[0], keys_as_code(pandas[1], match[1]))


def _import(value: BaseException) -> Found | None:
    said = _said(value)
    if type(said) is not str:
        return None
    if match := re.match(r"cannot import name '([^']+)' from (?:partially initialized module )?'([^']+)'", said):
        module = sys.modules.get(match[2])
        if module is not None and issubclass(type(module), ModuleType):
            return f"module {match[2]}", near(match[1], [*module_names(module), *submodules(module)])
    if match := re.match(r"No module named '([\w.]+)\.(\w+)'", said):
        module = sys.modules.get(match[1])
        if module is not None and issubclass(type(module), ModuleType):
            return f"module {match[1]}", near(match[2], submodules(module))
    return None


def _position(at: TracebackType, below: list[FrameType]) -> Found | None:
    for frame in below:
        owner: Any = locals_of(frame).get("self")
        held: Any = owner.obj if is_pandas(owner, "_iLocIndexer") else owner
        if is_pandas(held, "DataFrame"):
            return f"{_called(held, at.tb_frame)} of {len(held)} rows and {len(held.columns)} columns", []
        if is_pandas(held, "Series"):
            return f"{_called(held, at.tb_frame)} of {len(held)} values", []
    node = _failed(at)
    if isinstance(node, ast.Subscript) and not below:
        held = _value(node.value, at.tb_frame)
        for kind in (list, tuple, str):
            if type(held) is kind:
                return f"{_source(node.value)}: {kind.__name__} of length {len(held)}", []
        if type(held).__module__ == "numpy" and type(held).__name__ == "ndarray":
            return f"{_source(node.value)}: array of shape {held.shape}", []
    return None


def _keyword(value: BaseException, at: TracebackType) -> Found | None:
    said = _said(value)
    match = re.search(r"got an unexpected keyword argument '(\w+)'", said) if type(said) is str else None
    node = _failed(at)
    if match is None or not isinstance(node, ast.Call):
        return None
    called = _value(node.func, at.tb_frame)
    if issubclass(type(called), type):
        called = class_value(called, "__init__")
    while type(called) is FunctionType and "__wrapped__" in called.__dict__:
        called = called.__dict__["__wrapped__"]
    if type(called) is not FunctionType:
        return None
    code: CodeType = called.__code__
    parameters = [name for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if name != "self"]
    return f"parameters of {_source(node.func)}", near_first(match[1], parameters)


def _argument(value: BaseException, at: TracebackType, below: list[FrameType]) -> Found | None:
    """Columns that pandas and seaborn miss with a ValueError: the table is where the complaint is made."""
    said = _said(value)
    if type(said) is not str or not issubclass(type(value), ValueError):
        return None
    wanted = re.findall(r"['`]([^'`]+)['`]", said)
    if said.startswith("Could not interpret value `"):
        tables = (locals_of(frame).get("data") for frame in below)
        table: Any = next((table for table in tables if is_pandas(table, "DataFrame")), None)
        return table if table is None else (f"columns of {_called(table, at.tb_frame)}", _columns(table, wanted[0]))
    if said.startswith("Worksheet named "):
        return _sheets(below, wanted[0])
    if "Usecols do not match" in said or "parse_dates" in said:
        for frame in reversed([frame for frame in below if _module_of(frame).startswith("pandas.")]):
            for names in _names_of_file(locals_of(frame)):
                if type(names) is list or is_pandas(names, "Index"):
                    return "columns of the file", keys_as_code(names, wanted[-1] if wanted else "")
    return None


def _sheets(below: list[FrameType], wanted: str) -> Found | None:
    for frame in below:
        book: Any = locals_of(frame).get("self")
        for name in ("_reader", "book"):
            book = dict_of(book).get(name, book)
        if words(type(book).__module__).startswith("openpyxl."):
            return "sheets of the file", keys_as_code(book.sheetnames, wanted)
    return None


def _names_of_file(scope: dict[str, Any]) -> list[Any]:
    owner = scope.get("self")
    own = dict_of(owner) if is_pandas(owner, "") else {}
    return [scope.get("names"), scope.get("columns"), own.get("orig_names"), own.get("names")]


def _columns(table: Any, wanted: str) -> list[str]:
    return keys_as_code(table.columns, wanted)


# pandas: whose keys were asked for.


def _pandas(frame: FrameType, below: list[FrameType], wanted: str) -> tuple[str, Iterable[Any]] | None:
    """The labels in which pandas looked, by what its frames hold."""
    tables: list[Any] = []
    index: Any = None
    for each in below:
        owner: Any = locals_of(each).get("self")
        if is_pandas(owner, "Index"):
            index = owner
            continue
        if is_pandas(owner, "_LocIndexer"):
            owner = owner.obj
        if is_pandas(owner, "GroupBy"):
            if each.f_code.co_name == "get_group":
                return f"groups of {_called(owner, frame)}", owner._grouper.result_index
            owner = dict_of(owner).get("obj")  # not there yet while it is made
        if is_pandas(owner, "DataFrame") or is_pandas(owner, "Series"):
            tables.append(owner)
    if not tables:
        return None if index is None else ("labels of an index", index)
    table = _table(tables, frame, wanted)
    called = _called(table, frame)
    if is_pandas(table, "Series"):
        return f"index of {called}", table.index if index is None else index
    if index is not None and index is not table.columns and _same(index, table.index):
        return f"index of {called}", index
    return f"columns of {called}", table.columns


def _table(tables: list[Any], frame: FrameType, wanted: str) -> Any:
    """Whose labels were meant: pandas makes copies and parts on its way, and has two of them in a merge."""
    named = [table for table in reversed(tables) if not _called(table, frame).startswith(("a ", "an "))]
    candidates = [*named, *tables]
    lacking = (each for each in candidates if not (is_pandas(each, "DataFrame") and wanted in _texts(each.columns)))
    return next(lacking, candidates[-1])


def _texts(labels: Any) -> list[str]:
    return [label for label in islice(labels, CONSIDERED) if type(label) is str]


def _same(one: Any, other: Any) -> bool:
    """Two Index objects that are views of one."""
    return one is other or (len(one) == len(other) and getattr(one, "_id", 0) is getattr(other, "_id", 1))


# The user's frame: what failed, by its place in the source, and what the names in it are.


def _failed(at: TracebackType) -> ast.AST | None:
    """The smallest expression that holds the failed instruction."""
    code = at.tb_frame.f_code
    position = next(islice(code.co_positions(), at.tb_lasti // 2, None), None)
    if position is None or None in position:
        return None
    lines = linecache.getlines(code.co_filename)
    if not lines or len(lines) > CONSIDERED:
        return None
    line, end_line, column, end_column = position
    text = "".join(lines)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.expr):
            continue
        if (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset) == (line, end_line, column, end_column):
            return node
    return None


def _value(node: ast.AST, frame: FrameType) -> Any:
    """What a name, or an item or attribute of one, is; None when saying so would run code."""
    if isinstance(node, ast.Name):
        scope = locals_of(frame)
        return scope[node.id] if node.id in scope else frame.f_globals.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, frame)
        own = dict_of(owner)
        return own[node.attr] if node.attr in own else _function(type(owner), node.attr)
    if isinstance(node, ast.Subscript):
        owner, key = _value(node.value, frame), _literal(node.slice, frame)
        if type(owner) is dict and type(key) in (str, int):
            return owner.get(key)
        if type(owner) in (list, tuple) and type(key) is int:
            return owner[key]
    return None


def _function(kind: type, name: str) -> Any:
    """A method as its class has it; nothing that would have to be called first."""
    found = class_value(kind, name)
    return found if type(found) is FunctionType else None


def _literal(node: ast.AST, frame: FrameType) -> Any:
    return node.value if isinstance(node, ast.Constant) else _value(node, frame)


def _source(node: ast.AST) -> str:
    return ast.unparse(node)[:LENGTH]


def _called(thing: Any, frame: FrameType) -> str:
    """`df: DataFrame` by the program's own name for it, else `a DataFrame`."""
    for scope in (locals_of(frame), frame.f_globals):
        for name, each in islice(reversed(scope.items()), CONSIDERED):
            if each is thing and type(name) is str and name.isidentifier() and not name.startswith("_"):
                return f"{name}: {_type(thing)}"
    name = _type(thing)
    return f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"


def _type(thing: Any) -> str:
    return words(type.__getattribute__(type(thing), "__name__"))[:LENGTH]


def _module_of(frame: FrameType) -> str:
    return words(frame.f_globals.get("__name__"))


def _said(value: BaseException) -> Any:
    """The first argument, where it is of a type that is safe to look at."""
    arguments = _slot(BaseException, "args", value)
    first: Any = arguments[0] if arguments else None
    if (type(first) in (list, tuple) or is_pandas(first, "Index")) and len(first):
        first = first[0]
    return first if type(first) in (str, int, float) else None


def _slot(kind: type, name: str, value: BaseException) -> Any:
    """An attribute as the interpreter has set it, past what a subclass has put in its way."""
    return vars(kind)[name].__get__(value)
