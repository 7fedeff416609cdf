"""What must not be kept: known secrets, and whatever looks like one.

The shapes are those that their issuers document, with a prefix of their own; a word after `password=` counts, too.
Better a harmless word blotted out than a key in a trace that somebody mails around.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

BLOT = "[secret]"
_SHAPES = re.compile(
    "|".join(
        (
            r"\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and many who copy them
            r"\bsbx_[A-Za-z0-9_-]{16,}",  # ours
            r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}",
            r"\bglpat-[A-Za-z0-9_-]{16,}",
            r"\bxox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
            r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
            r"\bAIza[A-Za-z0-9_-]{30,}",  # Google
            r"\bhf_[A-Za-z0-9]{20,}",
            r"\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # a JSON web token
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----",
        )
    ),
    re.DOTALL,
)
_BEARER = re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{12,}")
_NAMED = re.compile(
    r"""(?ix)(\b[\w-]*(?:password|passwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token)["']?\s*[:=]\s*["']?)
    [^\s"',;)}\]]{6,}"""
)
_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]+:)[^\s/@]+(?=@)")
_LEAST = 8
"""A known secret shorter than this would blot out harmless words."""
_DATA = frozenset({"data", "image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
"""Fields whose text is base64: nothing to find, and long."""


class Secrets:
    """Blots secrets out of texts."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """known: secrets of this installation, whatever they look like."""
        words = sorted({word for word in known if len(word) >= _LEAST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def blot(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(BLOT, text)
        text = _SHAPES.sub(BLOT, text)
        for shape in (_BEARER, _NAMED, _IN_URL):
            text = shape.sub(rf"\g<1>{BLOT}", text)
        return text

    def blot_all(self, value: Any) -> Any:
        """The same, for every text in a JSON value."""
        if isinstance(value, str):
            return self.blot(value)
        if isinstance(value, Mapping):
            return {key: each if key in _DATA else self.blot_all(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.blot_all(each) for each in value]
        return value
