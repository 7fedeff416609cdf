"""Pictures in terminals that can show them: those that speak iTerm2's or kitty's protocol and say so.

What is sent is base64 that we have made, between escape sequences of ours; nothing a program wrote gets through as is.
"""

import base64
import os
import sys
from collections.abc import Mapping

_PNG = b"\x89PNG\r\n\x1a\n"
_KITTY_PIECE = 4096
_MOST_BYTES = 4 << 20


def show(data: bytes, environment: Mapping[str, str] = os.environ) -> bool:
    """Show it on stdout, if that is a terminal that can; whether it was."""
    if not sys.stdout.isatty() or len(data) > _MOST_BYTES:
        return False
    if shown := sequence(data, environment):
        sys.stdout.flush()
        sys.stdout.buffer.write(shown + b"\n")
        sys.stdout.buffer.flush()
    return bool(shown)


def sequence(data: bytes, environment: Mapping[str, str]) -> bytes:
    """What shows it there; empty where nothing does. A multiplexer between us would swallow it, or show it as text."""
    if environment.get("TMUX") or environment.get("STY"):
        return b""
    if environment.get("KITTY_WINDOW_ID") or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return _kitty(data) if data.startswith(_PNG) else b""
    if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return b"\x1b]1337;File=inline=1;size=%d:%b\x07" % (len(data), base64.b64encode(data))
    return b""


def _kitty(data: bytes) -> bytes:
    encoded = base64.b64encode(data)
    pieces = [encoded[start : start + _KITTY_PIECE] for start in range(0, len(encoded), _KITTY_PIECE)]
    sent = []
    for number, piece in enumerate(pieces):
        head = b"a=T,f=100," if number == 0 else b""
        sent.append(b"\x1b_G%bm=%d;%b\x1b\\" % (head, number < len(pieces) - 1, piece))
    return b"".join(sent)
