"""How many values JSON has, counted while it comes and before anybody parses it.

A parser makes an object of every three bytes of `[{},{},…]`, and what is checked and told of each makes that many times
more, all in one go. Of text and of base64, which is what large requests are made of, there is one value for a megabyte.
"""

import re

from sandbox.errors import InvalidRequest, TooLarge

MOST = 50_000
"""Values that a request may have; an empty object or list counts twice."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_WHOLE = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Up to a string that has not ended yet."""


class Tally:
    """Of one body, piece by piece."""

    __slots__ = ("_open", "_strings", "_values")

    def __init__(self) -> None:
        self._values = 1
        self._strings = 0
        """With keys, so there are twice as many at most."""
        self._open = b""
        """What a string begins with that has not ended yet: its quote, and a backslash whose character is to come."""

    def add(self, piece: bytes) -> None:
        """The next bytes. Raises `TooLarge`, and `InvalidRequest` for what is not UTF-8: a parser may know others, in
        whose characters the bytes of quotes and commas mean nothing.
        """
        if b"\0" in piece:
            raise InvalidRequest("the body is no JSON in UTF-8; encode it so")
        text, whole = self._open + piece, 0
        if not self._open or b'"' in piece:  # else it is all of one string, a picture or a long text
            match = _WHOLE.match(text)
            whole = match.end() if match is not None else 0
            self._count(text[:whole])
        is_escaped = (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
        self._open = b"" if whole == len(text) else b'"\\' if is_escaped else b'"'

    def _count(self, text: bytes) -> None:
        rest, strings = _STRING.subn(b"", text)
        self._strings += strings
        self._values += sum(rest.count(sign) for sign in (b",", b"[", b"{"))
        if max(self._values, self._strings // 2) > MOST:
            raise TooLarge(f"the body has more than {MOST:,} values of JSON; send less, or files as uploads")
