"""How many tokens a text is, near enough and the same everywhere.

No tokeniser's data is at hand offline, so this is an estimate: a text is taken apart as GPT's and Qwen's tokenisers do
before they merge (words with the space before them, numbers, runs of punctuation, runs of space), and each piece is
counted by its length. Terminal escapes are counted as the characters that they are.
"""

import re

_PIECES = re.compile(r"(?P<word> ?[^\W\d_]+)|(?P<digits>\d)|(?P<space>\s+)|(?P<marks> ?(?:[^\w\s]|_)+)")
_WORD, _MARKS, _SPACE = 6, 3, 16
"""Characters of a piece that one token holds."""


def tokens(text: str) -> int:
    """An estimate."""
    count = 0
    for match in _PIECES.finditer(text):
        piece = match[0].encode() if not match[0].isascii() else match[0]
        size = {"word": _WORD, "digits": 1, "space": _SPACE, "marks": _MARKS}[match.lastgroup or "marks"]
        count += -(-len(piece) // size)
    return count
