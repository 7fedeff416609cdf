"""Ways around work of IPython's that an ordinary cell does not need, each with the same outcome.

A cell without a mark of IPython's syntax need not be read token by token, and a number has but one representation.
Together they are a third of what a short cell costs.
"""

import re
from typing import Any

from IPython.core.formatters import DisplayFormatter
from IPython.core.inputtransformer2 import EscapedCommand, HelpEnd, MagicAssign, SystemAssign, TransformerManager

_SYNTAX = re.compile(r"[%!?]|^\s*[,;/]", re.MULTILINE)
"""What every one of `_TOKEN_TRANSFORMERS` looks for, and more."""
_TOKEN_TRANSFORMERS = [MagicAssign, SystemAssign, EscapedCommand, HelpEnd]
_PLAIN = frozenset({bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset})
"""Types without a method for any representation but text."""


class Transformer(TransformerManager):
    """From a cell to Python."""

    def do_token_transforms(self, lines: list[str]) -> list[str]:
        if self.token_transformers == _TOKEN_TRANSFORMERS and not _SYNTAX.search("".join(lines)):
            return lines
        changed: list[str] = super().do_token_transforms(lines)
        return changed


class Formatter(DisplayFormatter):
    """From an object to its representations."""

    def format(self, obj: Any, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        if type(obj) in _PLAIN and not include and not exclude and not self._has_printer(type(obj)):
            text = self.formatters["text/plain"](obj)
            return ({} if text is None else {"text/plain": text}), {}
        representations: tuple[dict[str, Any], dict[str, Any]] = super().format(obj, include, exclude)
        return representations

    def _has_printer(self, kind: type) -> bool:
        """Whether somebody registered another representation for it."""
        others = [formatter for mime, formatter in self.formatters.items() if mime != "text/plain"]
        for formatter in (self.ipython_display_formatter, self.mimebundle_formatter, *others):
            printers = formatter.type_printers
            if printers and (kind in printers or object in printers):
                return True
            if formatter.deferred_printers:
                return True
        return False
