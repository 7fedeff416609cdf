"""What must not be kept: known secrets, and whatever looks like one.

The shapes are those that their issuers document, with a prefix of their own; a word after `password=` counts, too.
Better a harmless word blotted out than a key in a trace that somebody mails around.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

BLOT = "[secret]"

# What is looked through is hostile and long. So each pattern starts where few can (after what stands before a word, not
# within a run of its own characters), ends where the next starts, or is bounded. And it may be JSON as it stands,
# where quotes and line ends are written with backslashes, and must be JSON still when a secret is out of it.
_START = r"(?:\b|(?<=\\[bfnrt]))"
_QUOTE = r"""(?:\\*+["']){0,3}"""
_ESCAPE = r"""\\++(?!["'])"""
_SHAPES = re.compile(
    _START
    + "(?:"
    + "|".join(
        (
            r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and many who copy them
            r"sbx_[A-Za-z0-9_-]{16,}",  # ours
            r"(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
            r"glpat-[A-Za-z0-9_-]{16,}",
            r"xox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
            r"(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
            r"AIza[A-Za-z0-9_-]{30,}",  # Google
            r"hf_[A-Za-z0-9]{20,}",
            r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
            r"eyJ[A-Za-z0-9_-]{8,1024}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}",  # a JSON web token
        )
    )
    + ")"
    + r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!-))*-----END [A-Z ]{0,40}PRIVATE KEY-----",
)
_BEARER = re.compile(rf"({_START}bearer\s+)[A-Za-z0-9._~+/=-]{{12,}}", re.IGNORECASE)
_NAME = r"(?:password|passwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token)"
_NAMED = re.compile(
    rf"""({_NAME}{_QUOTE}\s*+[:=]\s*+{_QUOTE})(?!{re.escape(BLOT)})(?:[^\s"',;)}}\]\\]|{_ESCAPE}){{6,}}""",
    re.IGNORECASE,
)
_NAMES = re.compile(rf"(?i){_NAME}\s*\Z")
_IN_URL = re.compile(rf"""((?<=[A-Za-z0-9+.-]):(?:\\?/){{2}}[^\s/:@"']+:)(?:[^\s/@"\\]|{_ESCAPE})+(?=@)""")
_ANY = "|".join((_SHAPES.pattern, f"(?i:{_BEARER.pattern})", f"(?i:{_NAMED.pattern})", _IN_URL.pattern))
"""Where this is not found nothing of the above is: to look once is cheaper, and most texts are words and names."""
_MARKS = (
    *("sk-", "sbx_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "akia", "asia", "aiza"),
    *("hf_", "sk_", "rk_", "eyj", "-----begin", "bearer", "password", "passwd", "secret", ":/", ":\\/"),
    *("api_key", "api-key", "apikey", "access_key", "access-key", "accesskey", "auth_token", "auth-token", "authtoken"),
)
"""One of them is in whatever is found by the above, as `_folded` has it. To look for all of them takes less time."""
_LEAST = 8
"""A known secret shorter than this would blot out harmless words."""
_NAME_KEPT, _NAMES_KEPT = 64, 1024
"""What is known of names of fields is kept for so many, up to that length: every trace has the same ones."""
_LEAST_NAMED = 6
_LONG = 4096
_ARGUMENTS = "arguments"
"""A field whose text is JSON, as a model has written it."""
_DATA = frozenset({"data", "image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
"""Fields whose text is base64: nothing to find, and long."""


class Secrets:
    """Blots secrets out of texts."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """known: secrets of this installation, whatever they look like."""
        long = [word for word in known if len(word) >= _LEAST]
        quoted = [json.dumps(word, ensure_ascii=plain)[1:-1] for word in long for plain in (True, False)]
        words = sorted({*long, *quoted}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None
        self._any = re.compile("|".join((*map(re.escape, words), _ANY)))
        self._marks = (*map(_folded, words), *_MARKS)
        self._seen = functools.lru_cache(_NAMES_KEPT)(self._look_at)

    def blot(self, text: str) -> str:
        """The text without secrets. It takes long where a long text has many words that could begin one."""
        if not self._tells(text):
            return text
        if self._known is not None:
            text = self._known.sub(BLOT, text)
        text = _SHAPES.sub(BLOT, text)
        for shape in (_BEARER, _NAMED, _IN_URL):
            text = shape.sub(rf"\g<1>{BLOT}", text)
        return text

    def blot_json(self, text: str) -> str:
        """A text that should be JSON, as a call's arguments are. What is JSON stays JSON; what is none is blotted, too.

        The same text where there is nothing to blot, else written anew.
        """
        try:
            value = json.loads(text, strict=False)
            blotted = _Walk(self, {}, frozenset()).all(value)
            if blotted == value and self.blot(text) == text:
                return text
            return json.dumps(blotted)
        except (ValueError, RecursionError):
            return self.blot(text)

    def blot_all(self, value: Any) -> Any:
        """The same, for every text in a JSON value. Arguments of calls stay JSON."""
        return _Walk(self, {_ARGUMENTS: self.blot_json}, _DATA).all(value)

    def _tells(self, text: str) -> bool:
        """Whether there is something in it."""
        folded = _folded(text)
        return any(mark in folded for mark in self._marks) and self._any.search(text) is not None

    def look_at_name(self, name: Any) -> tuple[Any, bool]:
        """A field's name without secrets, and whether its value may be one because the name says so."""
        if not isinstance(name, str):
            return name, False
        return self._seen(name) if len(name) <= _NAME_KEPT else self._look_at(name)

    def _look_at(self, name: str) -> tuple[str, bool]:
        return self.blot(name), _NAMES.search(name) is not None


class _Walk:
    """Through a JSON value, once."""

    def __init__(self, secrets: Secrets, ways: Mapping[str, Callable[[str], str]], data: frozenset[str]) -> None:
        """ways: how the text of a field is blotted that is not like others. data: fields with nothing to find."""
        self._secrets = secrets
        self._ways = ways
        self._data = data
        self._known: dict[tuple[Callable[[str], str], str], str] = {}
        """What is long is often there twice, as a text and as a part of one."""

    def all(self, value: Any, blot: Callable[[str], str] | None = None) -> Any:
        if isinstance(value, str):
            return self._text(value, blot or self._secrets.blot)
        if isinstance(value, Mapping):
            made = {}
            for key, each in value.items():
                kept, tells = self._secrets.look_at_name(key)
                if key in self._data:
                    made[kept] = each
                else:
                    made[kept] = self._named(each) if tells else self.all(each, self._ways.get(key))
            return made
        if isinstance(value, list | tuple):
            return [self.all(each) for each in value]
        return value

    def _text(self, text: str, blot: Callable[[str], str]) -> str:
        if len(text) < _LONG:
            return blot(text)
        if (blot, text) not in self._known:
            self._known[blot, text] = blot(text)
        return self._known[blot, text]

    def _named(self, value: Any) -> Any:
        """What may be a secret because of its name."""
        if isinstance(value, str | int | float):
            return BLOT if len(str(value)) >= _LEAST_NAMED else value
        return self.all(value)


def _folded(text: str) -> str:
    """As patterns that ignore case see it."""
    return text.casefold() if text.isascii() else text.casefold().replace("\u0131", "i")
