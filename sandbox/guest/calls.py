"""Functions of the caller's that a program may await: the call leaves the sandbox, and its answer comes back later.

Calls that are made in one turn of an event loop, as by `asyncio.gather`, travel together, so that whoever answers sees
them all at once. Answers come over the link to init, which the main thread's loop serves while a cell awaits.
"""

import asyncio
import collections
import contextlib
import functools
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.guest.frames import MAX_WAITING, BadFrame, arguments_of

_TOGETHER = 1 << 20
"""Characters of arguments in one message, or one call."""

Parameters = Mapping[str, Sequence[str]]
"""Function to the names of its parameters, in the order of positional arguments."""


class CallFailed(RuntimeError):
    """Whoever was called could not do it; the words are theirs."""


@dataclass(frozen=True, slots=True)
class _Lent:
    """What one execution was given."""

    functions: Parameters
    request: Any
    """The execution's request, whose messages the calls are."""


class Calls:
    """The calls of one kernel. `publish`: sends a batch of them, on behalf of a request."""

    def __init__(self, publish: Callable[[list[list[Any]], Any], None]) -> None:
        self._publish = publish
        self._lent = _Lent({}, None)
        self._numbers = itertools.count(1)
        self._unsent: collections.deque[tuple[asyncio.Future[str], list[Any]]] = collections.deque()
        self._sent: dict[int, asyncio.Future[str]] = {}
        """Until they are answered, which each is at some time, also when nobody waits for it any more."""

    @contextlib.contextmanager
    def lent(self, functions: Parameters, request: Any, namespace: MutableMapping[str, Any]) -> Iterator[None]:
        """Within the block, the functions are in the namespace; then what had their names is back."""
        ours = {name: self._function(name) for name in functions}
        hidden = {name: namespace[name] for name in ours if name in namespace}
        self._lent = _Lent(functions, request)
        namespace.update(ours)
        try:
            yield
        finally:
            self._lent = _Lent({}, None)
            self._forget()
            for name, function in ours.items():
                if namespace.get(name) is function:
                    del namespace[name]
                    if name in hidden:
                        namespace[name] = hidden[name]

    def _forget(self) -> None:
        """Calls of tasks that the cell has left behind: init has forgotten them, too."""
        left = [*self._sent.values(), *(answer for answer, _ in self._unsent)]
        self._sent.clear()
        self._unsent.clear()
        for answer in left:
            _tell(answer, answer.cancel)

    def _function(self, name: str) -> Callable[..., Awaitable[str]]:
        async def function(*args: Any, **kwargs: Any) -> str:
            return await self._call(name, args, kwargs)

        function.__name__ = function.__qualname__ = name
        return function

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if name not in self._lent.functions:
            raise RuntimeError(f"{name}() is not there for this code, but was for code that ran before")
        arguments = _encoded(name, _bound(name, self._lent.functions[name], args, kwargs))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        self._unsent.append((answer, [next(self._numbers), name, arguments]))
        loop.call_soon(self._send)  # behind all that runs in this turn and may call, too
        return await answer

    def _send(self) -> None:
        """As much as may be on its way."""
        while self._unsent and len(self._sent) < MAX_WAITING:
            batch: list[list[Any]] = []
            size = 0
            while self._unsent and len(self._sent) < MAX_WAITING and size < _TOGETHER:
                answer, call = self._unsent.popleft()
                if not answer.done():
                    self._sent[call[0]] = answer
                    batch.append(call)
                    size += len(call[2])
            if batch:
                self._publish(batch, self._lent.request)

    def answer(self, answers: list[tuple[int, str, str]]) -> None:
        """What became of calls; see `Frame.ANSWER`. In the main thread's loop.

        All in one turn: what the program calls next then travels together, too.
        """
        for number, how, text in answers:
            answer = self._sent.pop(number, None)
            if answer is not None:
                _tell(answer, functools.partial(_resolve, answer, how, text))
        if self._unsent:
            asyncio.get_running_loop().call_soon(self._send)


def _resolve(answer: "asyncio.Future[str]", how: str, text: str) -> None:
    if how == "ok":
        answer.set_result(text)
    else:
        answer.set_exception(TimeoutError(text) if how == "late" else CallFailed(text))


def _tell(answer: "asyncio.Future[str]", say: Callable[[], object]) -> None:
    """In the loop that waits for it, which may be another thread's and may be gone."""
    with contextlib.suppress(RuntimeError):
        answer.get_loop().call_soon_threadsafe(lambda: None if answer.done() else say())


def _bound(name: str, parameters: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name. Raises `TypeError` as Python would."""
    if len(args) > len(parameters):
        raise TypeError(f"{name}({', '.join(parameters)}) takes {len(parameters)} arguments but {len(args)} were given")
    named = dict(zip(parameters, args, strict=False))
    if twice := named.keys() & kwargs.keys():
        raise TypeError(f"{name}() got multiple values for {sorted(twice)[0]!r}")
    return named | kwargs


def _encoded(name: str, arguments: dict[str, Any]) -> str:
    try:
        text = json.dumps(arguments, allow_nan=False, separators=(",", ":"), default=_plain)
        arguments_of(text)
    except BadFrame as error:
        raise ValueError(f"{name}(): {error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{name}(): arguments must be what JSON can hold: {error}") from None
    return text


def _plain(value: Any) -> Any:
    """What programs have at hand in place of JSON's own: sets, dates, numbers and arrays of libraries."""
    if isinstance(value, set | frozenset):
        return list(value)
    for convert in ("tolist", "isoformat"):
        if callable(method := getattr(value, convert, None)):
            return method()
    raise TypeError(f"{type(value).__name__} is not")
